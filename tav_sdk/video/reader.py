"""Frames out of video files: opening, decoding in presentation order, and frame rates.

Decoding goes through PyAV (FFmpeg), which is imported at use.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tav_sdk.errors import (
    NotAVideoError,
    NotEnoughFramesError,
    TruncatedVideoError,
    VideoError,
    VideoNotFoundError,
)
from tav_sdk.video.frames import apply_display_matrix, cover_crop
from tav_sdk.video.limits import MAX_FRAME_PIXELS, check_aspect, check_frame, check_read
from tav_sdk.video.mp4_index import check_mp4_index

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

# Containers that are opened. The list keeps FFmpeg from "playing" text files and playlists, which name other files.
_READ_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,asf,ogg,gif,apng,mp3,wav,flac,aac"


def kept_frames(
    path: Path, *, num_frames: int | None, start: int, stride: int, size: tuple[int, int] | None
) -> Iterator[tuple[Callable[[], NDArray[np.uint8]], float]]:
    """The frames that are kept, one at a time; arguments and errors as :func:`tav_sdk.video.clip.read_video`.

    Yields:
        A function that gives the frame, ``(h, w, 3)`` uint8 RGB, since to count frames needs no colours; and the rate
        of the frames so far: the last one is that of the clip.
    """
    kept = seen = 0
    rate: _SampledRate | None = None
    rotation = matrix = None
    with open_video(path) as (container, stream):
        for frame in decode(path, container, stream):
            if seen >= start and (seen - start) % stride == 0:
                if rate is None:
                    rate = _SampledRate(nominal_rate(path, stream) / stride, stream.time_base)
                # PyAV's side data refer back to their frame: read from each, they would hold all frames until the
                # garbage collector runs, which counts objects, not megabytes.
                if matrix is None or frame.rotation != rotation:
                    rotation, matrix = frame.rotation, display_matrix(frame)
                if size is None:
                    size = shown(path, frame, stream, matrix)[:2]
                kept += 1
                yield partial(_to_rgb, path, frame, stream, matrix, size), float(rate.add(frame.pts))
            seen += 1
            if kept == num_frames:
                break
        if not kept or (num_frames is not None and kept < num_frames):
            raise NotEnoughFramesError(_too_few(path, seen, num_frames, start, stride))


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file's container and its first stream of moving pictures; errors as :func:`tav_sdk.video.clip.read_video`."""
    if not os.path.exists(path):  # False, not an error, for names that the system cannot have
        raise VideoNotFoundError(f"{path}: there is no such file. Check the path to the video.")
    if not path.is_file():
        raise NotAVideoError(f"{path} is a folder or a device, not a video file. Give the path of one file.")
    import av
    from av.error import FFmpegError
    from av.stream import Disposition

    limit = {"max_pixels": str(MAX_FRAME_PIXELS)}  # decoders refuse more, also where the size changes on the way
    try:
        _check_picture(path)
        check_mp4_index(path)
        container = av.open(str(path.absolute()), options={"format_whitelist": _READ_FORMATS, **limit})
    except PermissionError as error:
        raise VideoError(f"{path} cannot be read: permission denied. Allow reading it.") from error
    except (FFmpegError, ValueError) as error:  # ValueError: a name that PyAV cannot take
        raise _unopenable(path) from error
    with container:
        for stream in container.streams.video:
            if stream.codec_context is None:  # whatever PyAV's types say
                raise NotAVideoError(f"{path} has pictures in a codec that is not known here. Convert it to mp4 first.")
            if not stream.disposition & Disposition.attached_pic:  # cover art of an audio file
                check_frame(path, stream.codec_context.height, stream.codec_context.width)
                stream.codec_context.options = limit
                stream.thread_type = "AUTO"
                yield container, stream
                return
        kinds = ", ".join(f"{one.type} ({_codec(one)})" for one in container.streams) or "none"
        raise NotAVideoError(f"{path} has no video stream; its streams: {kinds}. Give a file with pictures in it.")


def _codec(stream: Stream) -> str:
    """A codec's name; streams of no known codec have no context."""
    return stream.codec_context.name if stream.codec_context is not None else "unknown"


def _check_picture(path: Path) -> None:
    """Check the size in the head of a GIF or PNG, which the decoder does not tell of frames that it refuses."""
    with path.open("rb") as file:
        head = file.read(24)
    if head[:4] == b"GIF8" and len(head) >= 10:
        width, height = struct.unpack("<HH", head[6:10])
        check_frame(path, height, width)
    elif head[:4] == b"\x89PNG" and len(head) == 24:
        width, height = struct.unpack(">II", head[16:])
        check_frame(path, height, width)


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


def decode(path: Path, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """All frames in presentation order; TruncatedVideoError at once, or after the last one, if there should be more."""
    from av.error import FFmpegError

    size, end = path.stat().st_size, max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if end > size:
        raise TruncatedVideoError(
            f"{path} is truncated: it has {size} bytes, its index names frames up to byte {end}. "
            "Copy or download the file again."
        )
    seen = pixels = 0
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
                pixels += frame.height * frame.width
                check_frame(path, frame.height, frame.width)
                check_read(path, pixels)
                yield frame
            if broken:
                break
        else:
            if not _ends_early(container, stream, last):
                return
    except FFmpegError as error:
        cause = error
    if not seen and not stream.codec_context.width:
        raise VideoError(
            f"{path} has no frame that can be decoded: it is damaged, or its frames have more than the "
            f"{MAX_FRAME_PIXELS} pixels that are read. Copy it again, or scale it down."
        ) from cause
    of_total = f" of {stream.frames}" if stream.frames else ""
    raise TruncatedVideoError(
        f"{path} is truncated or damaged: its data break off after {seen}{of_total} frames. "
        + (f"Ask only for frames below {seen}, or copy" if seen else "Copy")
        + " or download the file again."
    ) from cause


def _ends_early(container: InputContainer, stream: VideoStream, last: float | None) -> bool:
    if stream.frames or not container.duration or len(container.streams) > 1 or container.format.name == "mpegts":
        return False
    shown = 0.0 if last is None else last - (container.start_time or 0) / 1e6
    return container.duration / 1e6 - shown > 1.0


def display_matrix(frame: VideoFrame) -> NDArray[np.int32]:
    """How a frame is turned to be shown: nine integers, as :func:`tav_sdk.video.frames.apply_display_matrix` takes
    them."""
    data = frame.side_data.get("DISPLAYMATRIX")
    return (
        np.array([1, 0, 0, 0, 1, 0, 0, 0, 1], np.int32) if data is None else np.frombuffer(bytes(data), dtype=np.int32)
    )


def shown(path: Path, frame: VideoFrame, stream: VideoStream, matrix: NDArray[np.int32]) -> tuple[int, int, float]:
    """Height and width as shown, and the width over height of one stored pixel after rotation.

    Raises:
        VideoError: pixels or frames are of a shape that is not read.
    """
    aspect = float(stream.sample_aspect_ratio or 1)
    check_aspect(path, aspect)
    height, width = frame.height, frame.width
    if abs(int(matrix[1])) > abs(int(matrix[0])):
        height, width, aspect = width, height, 1 / aspect
    width = max(1, round(width * aspect))
    check_frame(path, height, width)
    return height, width, aspect


def _to_rgb(
    path: Path, frame: VideoFrame, stream: VideoStream, matrix: NDArray[np.int32], size: tuple[int, int]
) -> NDArray[np.uint8]:
    from av.error import FFmpegError

    aspect = shown(path, frame, stream, matrix)[2]
    # The frame's own colour matrix and range hold; where it names none, BT.601 limited, as in FFmpeg and OpenCV.
    try:
        rgb = np.asarray(frame.to_ndarray(format="rgb24", interpolation=scaling()), dtype=np.uint8)  # (h, w, 3)
    except (FFmpegError, ValueError) as error:
        raise VideoError(
            f"{path} has frames that cannot be shown ({frame.format.name}, {frame.height}x{frame.width}): {error}. "
            "Convert it to mp4 first."
        ) from error
    return cover_crop(apply_display_matrix(rgb, matrix), size, aspect)


def scaling() -> int:
    """Chroma is interpolated and rounding is unbiased; FFmpeg's default repeats chroma and is one level too dark."""
    from av.video.reformatter import Interpolation

    exact = Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND
    return int(Interpolation.BICUBIC | exact)


def nominal_rate(path: Path, stream: VideoStream) -> Fraction:
    """Average frames per second, as the container says."""
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise VideoError(f"{path} does not say its frame rate. Convert it to mp4 first.")
    return rate


class _SampledRate:
    """The rate of the frames kept, from their times, of which only the first is held."""

    def __init__(self, nominal: Fraction, tick: Fraction | None) -> None:
        self._nominal, self._tick = nominal, tick
        self._first: int | None = None
        self._count = 0
        self._even = True

    def add(self, time: int | None) -> Fraction:
        """Frames per second after one more frame, shown at ``time`` ticks."""
        if time is None or self._tick is None:
            self._tick = None  # one frame without a time, and times say nothing
            return self._nominal
        if self._first is None:
            self._first = time
        elapsed = (time - self._first) * self._tick
        if abs(elapsed - self._count / self._nominal) >= self._tick:
            self._even = False
        rate = self._nominal if self._even or elapsed <= 0 else self._count / elapsed
        self._count += 1
        return rate


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
