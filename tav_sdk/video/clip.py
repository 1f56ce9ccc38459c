"""Video files in and out: ``read_video``, ``probe``, ``Video`` with its ``save``, and what every ``Clip`` has."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from tav_sdk.errors import InputError, NotAVideoError
from tav_sdk.files import new_file
from tav_sdk.paths import as_path
from tav_sdk.video.frames import check_frames
from tav_sdk.video.limits import check_held, check_rate
from tav_sdk.video.reader import decode, display_matrix, kept_frames, nominal_rate, open_video, shown
from tav_sdk.video.writer import WRITERS, check_fps, shown_suffix
from tav_sdk.words import brief

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Clip", "Video", "VideoInfo", "probe", "read_video"]


@runtime_checkable
class Clip(Protocol):
    """Frames in order: a :class:`Video` in memory, or a :class:`tav_sdk.video.file.VideoFile` on disk."""

    @property
    def num_frames(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def fps(self) -> float: ...

    @property
    def content_hash(self) -> str: ...

    def chunks(self, length: int) -> Iterator[NDArray[np.uint8]]: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Video:
    """A clip in memory.

    Attributes:
        frames: ``(f, h, w, 3)`` uint8 RGB, at least one frame.
        fps: frames per second, 0.01 to 1000.

    Raises:
        InputError: a shape, dtype or rate other than these.
    """

    frames: NDArray[np.uint8]
    fps: float

    def __post_init__(self) -> None:
        check_frames(self.frames)
        object.__setattr__(self, "fps", check_fps(self.fps))

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
        return hash_frames(self.frames)

    def chunks(self, length: int) -> Iterator[NDArray[np.uint8]]:
        """The frames in order, ``length`` at a time.

        Returns:
            Views ``(length, h, w, 3)`` uint8 RGB of ``frames``; the last may be shorter.

        Raises:
            InputError: ``length`` is no whole number of at least 1.
        """
        check_int("length", length, 1)
        return (self.frames[start : start + length] for start in range(0, self.num_frames, length))

    def save(self, path: str | os.PathLike[str], fps: float | None = None) -> Path:
        """Write the clip; the suffix of ``path`` says how. An existing file is replaced.

        - ``.mp4``: H.264, yuv420p, crf 18, index in front; equal frames give equal files. Odd heights and widths grow
          by one repeated row or column, since players do not decode the formats that could keep them.
        - ``.gif``: one palette for the whole clip, looping; the format's delays are in 1/100 s, at least 2 of them.
        - ``.webp``: animated, looping, quality 90.
        - ``.png``: a contact sheet with frame numbers.

        The parent folder is made if need be. The file appears under its name only when it is complete.

        Args:
            fps: frames per second in the file; ``None`` keeps ``self.fps``.

        Returns:
            ``path``.

        Raises:
            InputError: another suffix, or ``fps`` out of range.
            OutputError: the file cannot be written (permission, disk full, a folder of that name).
        """
        path = as_path("path", path)
        write = WRITERS.get(path.suffix.lower())
        if write is None:
            raise InputError(f"{path}: expected a name that ends in {', '.join(WRITERS)}, got {shown_suffix(path)}.")
        rate = self.fps if fps is None else check_fps(fps)
        with new_file(path) as temporary:
            write(self.frames, rate, temporary)
        return path


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video file says about itself.

    Attributes:
        width, height: pixels as shown, that is after rotation and with square pixels: the size of the frames that
            :func:`read_video` gives without ``size``.
        fps: average frames per second.
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
    path = as_path("path", path)
    with open_video(path) as (container, stream):
        frame = next(decode(path, container, stream), None)
        if frame is None:
            raise NotAVideoError(f"{path} is not a video: its video stream has no frames.")
        height, width, _ = shown(path, frame, stream, display_matrix(frame))
        if stream.duration is not None and stream.time_base is not None:
            duration = float(stream.duration * stream.time_base)
        else:
            duration = container.duration / 1e6 if container.duration else None
        rate = check_rate(path, float(nominal_rate(path, stream)))
        return VideoInfo(
            width=width,
            height=height,
            fps=rate,
            num_frames=stream.frames if stream.frames > 0 else None,
            duration=duration if duration is not None and duration >= 0 else None,
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
        VideoError: frames, rate or all frames together are beyond :mod:`tav_sdk.video.limits`.
    """
    path = as_path("path", path)
    size = check_sampling(num_frames, start, stride, size)
    if size is not None:
        check_held(path, num_frames or 1, *size)
    frames, fps = [], 0.0
    for frame, rate in kept_frames(path, num_frames=num_frames, start=start, stride=stride, size=size):
        frames.append(frame())
        check_held(path, len(frames), *frames[0].shape[:2])
        fps = rate
    return Video(frames=np.stack(frames), fps=check_rate(path, fps))  # (f, h, w, 3)


class FrameHash:
    """sha256 of a clip's frames, each ``(h, w, 3)`` uint8, and then of its shape ``(f, h, w, 3)``.

    The shape comes last: of a file it is known only when all frames were seen.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, frame: NDArray[np.uint8]) -> None:
        self._digest.update(np.ascontiguousarray(frame).data)

    def finish(self, shape: tuple[int, ...]) -> str:
        """The hash in hexadecimal; no frame can be added afterwards."""
        self._digest.update(repr(tuple(shape)).encode())
        return self._digest.hexdigest()


def hash_frames(frames: NDArray[np.uint8]) -> str:
    """sha256 (hex) of frames ``(f, h, w, 3)`` uint8 and their shape."""
    digest = FrameHash()
    for frame in frames:
        digest.add(frame)
    return digest.finish(frames.shape)


# --- arguments ----------------------------------------------------------------------------------------------------


def check_sampling(num_frames: Any, start: Any, stride: Any, size: Any) -> tuple[int, int] | None:
    """Check what :func:`read_video` is asked for; its ``size`` comes back as ``(height, width)`` or ``None``."""
    check_int("start", start, 0)
    check_int("stride", stride, 1)
    if num_frames is not None:
        check_int("num_frames", num_frames, 1)
    return None if size is None else _check_pair(size)


def check_int(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name}: expected a whole number of at least {least}, got {brief(value)}.")


def _check_pair(size: Any) -> tuple[int, int]:
    try:
        height, width = size
    except (TypeError, ValueError):
        raise InputError(f"size: expected (height, width) in pixels, got {brief(size)}.") from None
    check_int("size: height", height, 1)
    check_int("size: width", width, 1)
    return int(height), int(width)
