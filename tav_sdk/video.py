"""Video files in and out: ``read_video``, ``probe``, and ``Video`` with its ``save``.

Decoding and the mp4 go through PyAV (FFmpeg), GIF, WebP and PNG through Pillow. Both are imported at use.
"""

from __future__ import annotations

import hashlib
import math
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tav_sdk.errors import (
    InputError,
    NotAVideoError,
    NotEnoughFramesError,
    OutputError,
    TruncatedVideoError,
    VideoError,
    VideoNotFoundError,
)
from tav_sdk.frames import apply_display_matrix, check_frames, cover_crop

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["Video", "VideoInfo", "probe", "read_video"]

# Containers that are opened. The list keeps FFmpeg from "playing" text files and playlists, which name other files.
_READ_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,asf,ogg,gif,apng,mp3,wav,flac,aac"
_MIN_FPS, _MAX_FPS = 0.01, 1000.0
_HD_HEIGHT = 720  # from here on players take BT.709 for granted, below it BT.601


@dataclass(frozen=True, kw_only=True, eq=False)
class Video:
    """A clip in memory.

    Attributes:
        frames: ``(f, h, w, 3)`` uint8 RGB, at least one frame.
        fps: frames a second, 0.01 to 1000.

    Raises:
        InputError: a shape, dtype or rate other than these.
    """

    frames: NDArray[np.uint8]
    fps: float

    def __post_init__(self) -> None:
        check_frames(self.frames)
        object.__setattr__(self, "fps", _check_fps(self.fps))

    def __repr__(self) -> str:
        return f"Video(num_frames={self.num_frames}, height={self.height}, width={self.width}, fps={self.fps:g})"

    @property
    def num_frames(self) -> int:
        return self.frames.shape[0]

    @property
    def height(self) -> int:
        return self.frames.shape[1]

    @property
    def width(self) -> int:
        return self.frames.shape[2]

    @property
    def content_hash(self) -> str:
        """sha256 (hex) of the shape and the bytes of all frames; the rate does not count."""
        digest = hashlib.sha256(repr(tuple(self.frames.shape)).encode())
        for frame in self.frames:
            digest.update(np.ascontiguousarray(frame).data)
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str], fps: float | None = None) -> Path:
        """Write the clip; the suffix of ``path`` says how. An existing file is replaced.

        - ``.mp4``: H.264, yuv420p, crf 16, index in front. Odd heights and widths grow by one repeated row or column,
          since players do not decode the formats that could keep them.
        - ``.gif``: one palette for the whole clip, looping; the format's delays are in 1/100 s, at least 2 of them.
        - ``.webp``: animated, looping, quality 90.
        - ``.png``: a contact sheet with frame numbers.

        The parent folder is made if need be. The file appears under its name only when it is complete.

        Args:
            fps: frames a second in the file; ``None`` keeps ``self.fps``.

        Returns:
            ``path``.

        Raises:
            InputError: another suffix, or ``fps`` out of range.
            OutputError: the file cannot be written (permission, disk full, a folder of that name).
        """
        path = Path(path)
        write = _WRITERS.get(path.suffix.lower())
        if write is None:
            got = f"'{path.suffix}'" if path.suffix else "a name without one"
            raise InputError(f"{path}: expected a name that ends in {', '.join(_WRITERS)}, got {got}.")
        rate = self.fps if fps is None else _check_fps(fps)
        with _replacing(path) as temporary:
            write(self, rate, temporary)
        return path


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video file says about itself.

    Attributes:
        width, height: pixels as shown, that is after rotation and with square pixels: the size of the frames that
            :func:`read_video` gives without ``size``.
        fps: average frames a second.
        num_frames: frames in the file; ``None`` where the container does not say.
        duration: seconds; ``None`` where the container does not say.
        codec: FFmpeg's name of the decoder, such as ``h264``.
        rotation: degrees clockwise by which the stored picture is turned to be shown: 0, 90, 180 or 270.
    """

    width: int
    height: int
    fps: float
    num_frames: int | None
    duration: float | None
    codec: str
    rotation: int


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Say what a video file holds, decoding one frame of it.

    Raises:
        VideoNotFoundError, NotAVideoError, TruncatedVideoError: as :func:`read_video`.
    """
    path = Path(path)
    with _opened(path) as (container, stream):
        frame = next(_decoded(path, container, stream), None)
        if frame is None:
            raise NotAVideoError(f"{path} is not a video: its video stream has no frames.")
        height, width, _ = _shown(frame, stream)
        if stream.duration is not None and stream.time_base is not None:
            duration = float(stream.duration * stream.time_base)
        else:
            duration = container.duration / 1e6 if container.duration else None
        return VideoInfo(
            width=width,
            height=height,
            fps=float(_nominal_rate(path, stream)),
            num_frames=stream.frames or None,
            duration=duration,
            codec=stream.codec_context.name,
            rotation=-round(frame.rotation / 90) * 90 % 360,
        )


def read_video(
    path: str | os.PathLike[str],
    *,
    num_frames: int | None = None,
    start: int = 0,
    stride: int = 1,
    size: tuple[int, int] | None = None,
) -> Video:
    """Read frames ``start, start + stride, ...`` of a video file.

    Decoding streams and stops at the last frame that is needed; only the frames that are kept are held in memory.
    Frames are counted as decoded, in presentation order. Rotation and non-square pixels are applied.

    Args:
        num_frames: how many frames; ``None`` means all there are.
        start: index of the first frame, from 0.
        stride: distance between the frames kept.
        size: ``(height, width)``; each frame is scaled to cover it and cut at its centre. ``None``: as shown.

    Returns:
        The clip. At a constant frame rate its ``fps`` is the file's divided by ``stride``, exactly; at a variable one
        it is the average over the frames kept, ``(n - 1) / (time of the last - time of the first)``.

    Raises:
        InputError: an argument out of range.
        VideoNotFoundError: no such file.
        NotAVideoError: a folder, another kind of file, or a file without a video stream.
        NotEnoughFramesError: the file is whole but has fewer frames.
        TruncatedVideoError: the file ends, or its data break off, before the frames that were asked for.
    """
    path = Path(path)
    _check_int("start", start, 0)
    _check_int("stride", stride, 1)
    if num_frames is not None:
        _check_int("num_frames", num_frames, 1)
    if size is not None:
        size = _check_pair(size)

    kept: list[NDArray[np.uint8]] = []
    times: list[int | None] = []
    seen = 0
    with _opened(path) as (container, stream):
        for frame in _decoded(path, container, stream):
            if seen >= start and (seen - start) % stride == 0:
                if size is None:
                    size = _shown(frame, stream)[:2]
                kept.append(_to_rgb(frame, stream, size))
                times.append(frame.pts)
            seen += 1
            if len(kept) == num_frames:
                break
        if not kept or (num_frames is not None and len(kept) < num_frames):
            raise NotEnoughFramesError(_too_few(path, seen, num_frames, start, stride))
        fps = _sampled_rate(path, stream, times, stride)
    return Video(frames=np.stack(kept), fps=float(fps))  # (f, h, w, 3)


# --- reading ------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    if not os.path.exists(path):  # False, not an error, for names that the system cannot have
        raise VideoNotFoundError(f"{path}: there is no such file. Check the path to the video.")
    if not path.is_file():
        raise NotAVideoError(f"{path} is a folder or a device, not a video file. Give the path of one file.")
    import av
    from av.error import FFmpegError
    from av.stream import Disposition

    try:
        container = av.open(str(path.absolute()), options={"format_whitelist": _READ_FORMATS})
    except PermissionError as error:
        raise VideoError(f"{path} cannot be read: permission denied. Allow reading it.") from error
    except FFmpegError as error:
        raise _unopenable(path) from error
    with container:
        for stream in container.streams.video:
            if not stream.disposition & Disposition.attached_pic:  # cover art of an audio file
                stream.thread_type = "AUTO"
                yield container, stream
                return
        kinds = ", ".join(f"{stream.type} ({stream.codec_context.name})" for stream in container.streams) or "none"
        raise NotAVideoError(f"{path} has no video stream; its streams: {kinds}. Give a file with pictures in it.")


def _unopenable(path: Path) -> VideoError:
    with path.open("rb") as file:
        head = file.read(12)
    if not head:
        return NotAVideoError(f"{path} is not a video: it is empty (0 bytes). Copy or download it again.")
    if head[4:8] == b"ftyp":
        return TruncatedVideoError(
            f"{path} is truncated: it begins as an mp4, but its index (moov) is missing or incomplete. "
            "Copy, download or record it again."
        )
    return NotAVideoError(f"{path} is not a video that can be read (mp4, mov, mkv, webm, avi, gif and the like).")


def _decoded(path: Path, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """All frames in presentation order. After the last one: TruncatedVideoError if there should have been more."""
    from av.error import FFmpegError

    seen = 0
    last: float | None = None
    cause: Exception | None = None
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                frames, broken = stream.decode(None), True
            else:
                frames, broken = packet.decode(), False
            for frame in frames:
                seen, last = seen + 1, frame.time
                yield frame
            if broken:
                break
        else:
            if not _ends_early(path, container, stream, last):
                return
    except FFmpegError as error:
        cause = error
    of_total = f" of {stream.frames}" if stream.frames else ""
    raise TruncatedVideoError(
        f"{path} is truncated or damaged: its data break off after {seen}{of_total} frames. "
        + (f"Ask only for frames below {seen}, or copy" if seen else "Copy")
        + " or download the file again."
    ) from cause


def _ends_early(path: Path, container: InputContainer, stream: VideoStream, last: float | None) -> bool:
    size = path.stat().st_size
    if any(entry.pos + entry.size > size for entry in stream.index_entries):
        return True
    if stream.frames or not container.duration or len(container.streams) > 1 or container.format.name == "mpegts":
        return False
    shown = 0.0 if last is None else last - (container.start_time or 0) / 1e6
    return container.duration / 1e6 - shown > 1.0


def _display_matrix(frame: VideoFrame) -> NDArray[np.int32]:
    data = frame.side_data.get("DISPLAYMATRIX")
    return np.array([1, 0, 0, 0, 1, 0, 0, 0, 1], np.int32) if data is None else np.frombuffer(data, dtype=np.int32)


def _shown(frame: VideoFrame, stream: VideoStream) -> tuple[int, int, float]:
    """Height and width as shown, and the width over height of one stored pixel after rotation."""
    aspect = float(stream.sample_aspect_ratio or 1)
    height, width = frame.height, frame.width
    matrix = _display_matrix(frame)
    if abs(matrix[1]) > abs(matrix[0]):
        height, width, aspect = width, height, 1 / aspect
    return height, max(1, round(width * aspect)), aspect


def _to_rgb(frame: VideoFrame, stream: VideoStream, size: tuple[int, int]) -> NDArray[np.uint8]:
    # The frame's own colour matrix and range hold; where it names none, BT.601 limited, as in FFmpeg and OpenCV.
    rgb = np.asarray(frame.to_ndarray(format="rgb24", interpolation=_scaling()), dtype=np.uint8)  # (h, w, 3)
    rgb = apply_display_matrix(rgb, _display_matrix(frame))
    return cover_crop(rgb, size, _shown(frame, stream)[2])


def _scaling() -> int:
    """Chroma is interpolated and rounding is unbiased; FFmpeg's default repeats chroma and is one level too dark."""
    from av.video.reformatter import Interpolation

    exact = Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND
    return int(Interpolation.BICUBIC | exact)


def _nominal_rate(path: Path, stream: VideoStream) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise VideoError(f"{path} does not say its frame rate. Convert it to mp4 first.")
    return rate


def _sampled_rate(path: Path, stream: VideoStream, times: list[int | None], stride: int) -> Fraction:
    nominal = _nominal_rate(path, stream) / stride
    known = [time for time in times if time is not None]
    tick = stream.time_base
    if tick is None or len(known) < len(times) or known[-1] <= known[0]:
        return nominal
    if all(abs((time - known[0]) * tick - k / nominal) < tick for k, time in enumerate(known)):
        return nominal
    return (len(known) - 1) / ((known[-1] - known[0]) * tick)


def _too_few(path: Path, seen: int, num_frames: int | None, start: int, stride: int) -> str:
    available = len(range(start, seen, stride))
    have = f"{path} has {seen} frame{'s' * (seen != 1)}"
    if available == 0:
        return f"{have}; start {start} lies behind the last. Use a start below {seen}."
    if num_frames is None:
        return have + "."
    ways = [f"at most {available} frame{'s' * (available != 1)}"]
    if (seen - 1 - start) // (num_frames - 1) >= 1:
        ways.append(f"a stride of at most {(seen - 1 - start) // (num_frames - 1)}")
    if seen - 1 - (num_frames - 1) * stride >= 0:
        ways.append(f"a start of at most {seen - 1 - (num_frames - 1) * stride}")
    needed = start + (num_frames - 1) * stride + 1
    return f"{have}; {num_frames} frames from start {start} at stride {stride} need {needed}. Use {' or '.join(ways)}."


# --- writing ------------------------------------------------------------------------------------------------------


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it at the end; removed on any failure, Ctrl-C included."""
    from av.error import FFmpegError

    temporary = path.parent / f".{uuid.uuid4().hex}{path.suffix.lower()}"
    try:
        if path.is_dir():
            raise OutputError(f"{path} is a folder; expected the name of a file to write. Add a file name.")
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, FFmpegError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(
            f"{path} cannot be written: {reason}. Check the folder, its permissions and free space."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _write_mp4(video: Video, fps: float, path: Path) -> None:
    import av
    from av.video.reformatter import Colorspace

    matrix = Colorspace.ITU709 if video.height >= _HD_HEIGHT else Colorspace.ITU601
    # x264's output depends on the number of threads, so that it is fixed.
    options = {"crf": "16", "preset": "medium", "threads": "4"}
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        rate = Fraction(fps).limit_denominator(10_000)
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = video.height + video.height % 2, video.width + video.width % 2
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range = matrix, 1  # limited
        context.color_primaries = context.color_trc = 1  # BT.709
        for frame in video.frames:
            even = np.pad(frame, ((0, video.height % 2), (0, video.width % 2), (0, 0)), mode="edge")
            picture = av.VideoFrame.from_ndarray(even, format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace=matrix, interpolation=_scaling())
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _images(video: Video) -> list[Image.Image]:
    from PIL import Image

    return [Image.fromarray(np.ascontiguousarray(frame)) for frame in video.frames]


def _delays(video: Video, fps: float, units_per_second: int, shortest: int) -> list[int]:
    """Delay of each frame in whole units, rounded so that the errors do not add up."""
    ends = [round(i * units_per_second / fps) for i in range(video.num_frames + 1)]
    return [max(after - before, shortest) for before, after in pairwise(ends)]


def _write_gif(video: Video, fps: float, path: Path) -> None:
    from PIL import Image

    images = _images(video)
    some = images[:: -(-len(images) // 32)]  # at most 32 small pictures stand for the clip's colours
    for_palette = Image.fromarray(np.concatenate([np.asarray(image.resize((96, 96))) for image in some]))
    palette = for_palette.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=1)
    first, *rest = [image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for image in images]
    delays = [10 * delay for delay in _delays(video, fps, 100, shortest=2)]
    first.save(path, "GIF", save_all=True, append_images=rest, duration=delays, loop=0)


def _write_webp(video: Video, fps: float, path: Path) -> None:
    first, *rest = _images(video)
    delays = _delays(video, fps, 1000, shortest=1)
    first.save(path, "WEBP", save_all=True, append_images=rest, duration=delays, loop=0, quality=90, method=4)


def _write_png(video: Video, fps: float, path: Path) -> None:
    from PIL import Image

    from tav_sdk.contact_sheet import frame_sheet

    Image.fromarray(frame_sheet(video)).save(path, "PNG")


_WRITERS = {".mp4": _write_mp4, ".gif": _write_gif, ".webp": _write_webp, ".png": _write_png}


# --- arguments ----------------------------------------------------------------------------------------------------


def _check_fps(fps: Any) -> float:
    try:
        value = float(fps)
    except (TypeError, ValueError):
        value = math.nan
    if not _MIN_FPS <= value <= _MAX_FPS:
        raise InputError(f"fps: expected a number from {_MIN_FPS:g} to {_MAX_FPS:g}, got {fps!r}.")
    return value


def _check_int(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name}: expected a whole number of at least {least}, got {value!r}.")


def _check_pair(size: Any) -> tuple[int, int]:
    try:
        height, width = size
    except (TypeError, ValueError):
        raise InputError(f"size: expected (height, width) in pixels, got {size!r}.") from None
    _check_int("size: height", height, 1)
    _check_int("size: width", width, 1)
    return int(height), int(width)
