"""A short clip that the project renders itself: shapes moving over a meadow."""

from __future__ import annotations

import numpy as np

from tav_sdk.video.clip import Video


def render_clip(*, num_frames: int = 8, height: int = 128, width: int = 128, fps: float = 8.0) -> Video:
    """A red square crosses a meadow from left to right while a yellow sun sinks.

    Args:
        num_frames: at least 1.
        height: in pixels.
        width: in pixels.
        fps: frames per second.

    Returns:
        The clip; the same for the same arguments.
    """
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    frames = np.empty((num_frames, height, width, 3), dtype=np.uint8)
    horizon = 0.55 * height
    texture = 12 * np.sin(columns * 40 / width) * np.cos(rows * 55 / height)  # something for the eye to hold on to
    for index, frame in enumerate(frames):
        progress = index / max(num_frames - 1, 1)
        picture = np.where((rows < horizon)[..., None], (120, 180, 235), (70, 150, 60)).astype(np.float32)
        picture += texture[..., None] * (rows >= horizon)[..., None]
        sun = np.hypot(rows - height * (0.15 + 0.25 * progress), columns - 0.75 * width) < 0.1 * height
        picture[sun] = (250, 215, 60)
        side, bob = 0.22 * height, 0.03 * height * np.sin(4 * np.pi * progress)
        top, left = 0.55 * height + bob, (0.05 + 0.65 * progress) * width
        square = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
        picture[square] = (205, 40, 40)
        frame[:] = picture.clip(0, 255)
    return Video(frames=frames, fps=fps)
