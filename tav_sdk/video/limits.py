"""What a video file may ask for: pixels per frame and per clip, shapes and rates. Compared before frames are made."""

from __future__ import annotations

import math
from pathlib import Path

from tav_sdk.errors import VideoError

MAX_FRAME_PIXELS = 8192 * 4352
"""Pixels of one frame, stored or as shown: 8K cinema. A decoder holds up to some 20 frames at a time."""

MAX_READ_PIXELS = 2 * 10**12
"""Pixels that one pass over a file decodes: an hour of 4K at 60 frames per second."""

MAX_HELD_BYTES = 4 << 30
"""Bytes of the frames of one clip in memory."""

_MAX_ASPECT = 16.0
MIN_FPS, MAX_FPS = 0.01, 1000.0
"""Frames per second of a video that is read or written."""


def check_frame(path: Path, height: int, width: int) -> None:
    """Check one frame's size.

    Raises:
        VideoError: it has more than :data:`MAX_FRAME_PIXELS`.
    """
    if height * width > MAX_FRAME_PIXELS:
        raise VideoError(
            f"{path} has frames of {height}x{width} pixels (height x width), more than the {MAX_FRAME_PIXELS} pixels "
            "that are read. Scale it down first."
        )


def check_aspect(path: Path, aspect: float) -> None:
    """Check the width over height of one pixel.

    Raises:
        VideoError: no camera has such pixels.
    """
    if not 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT:
        raise VideoError(
            f"{path} says that its pixels are {aspect:g} times as wide as high, expected {1 / _MAX_ASPECT:g} to "
            f"{_MAX_ASPECT:g}. Convert it to mp4 with square pixels first."
        )


def check_rate(path: Path, fps: float) -> float:
    """Frames per second of a clip that was read, if they can be.

    Raises:
        VideoError: it is no rate from 0.01 to 1000.
    """
    if not (math.isfinite(fps) and MIN_FPS <= fps <= MAX_FPS):
        raise VideoError(
            f"{path} gives {fps:g} frames per second, expected {MIN_FPS:g} to {MAX_FPS:g}. Convert it to mp4 at the "
            "rate that it is meant to have, or use another stride."
        )
    return fps


def check_read(path: Path, pixels: int) -> None:
    """Check how much was decoded of a file.

    Raises:
        VideoError: more than :data:`MAX_READ_PIXELS`.
    """
    if pixels > MAX_READ_PIXELS:
        raise VideoError(
            f"{path} has more than {MAX_READ_PIXELS:g} pixels over all its frames. Ask for fewer frames, or scale it "
            "down first."
        )


def check_held(path: Path, num_frames: int, height: int, width: int) -> None:
    """Check that frames ``(f, h, w, 3)`` uint8 may be held in memory.

    Raises:
        VideoError: they have more than :data:`MAX_HELD_BYTES`.
    """
    if num_frames * height * width * 3 > MAX_HELD_BYTES:
        raise VideoError(
            f"{path}: {num_frames} frames of {height}x{width} pixels (height x width) are more than the "
            f"{MAX_HELD_BYTES >> 30} GiB that are held. Ask for fewer frames or a smaller size, or read it in chunks "
            "with tav_sdk.video.file.VideoFile."
        )
