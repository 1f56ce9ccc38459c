"""Which frames of a clip are wanted, and how the clip is opened for them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tav_sdk.errors import InputError
from tav_sdk.words import brief

if TYPE_CHECKING:
    from tav_sdk.video.clip import Clip

MAX_FRAMES = 1_000_000
"""Most frames, and the largest start and stride, that can be asked for."""


@dataclass(frozen=True, kw_only=True)
class FrameSelection:
    """Frames ``start, start + stride, ...`` of a clip.

    Attributes:
        num_frames: how many; ``"all"`` there are; ``None``: as many as the bundle sees at a time.
        start: index of the first, from 0; ``None``: as tuned.
        stride: distance between them; ``None``: as tuned.

    Raises:
        InputError: a value is out of range.
    """

    num_frames: int | Literal["all"] | None = None
    start: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("num_frames", 1), ("start", 0), ("stride", 1)):
            value, field = getattr(self, name), f"frames.{name}"
            if value is None or (name == "num_frames" and isinstance(value, str) and value == "all"):
                continue
            check_whole(field, value, least, or_all=name == "num_frames")

    def open(self, path: str | os.PathLike[str], *, size: tuple[int, int]) -> Clip:
        """The clip: in memory where it fits, decoded once; else on disk, decoded once for each pass over it.

        Args:
            path: the video file.
            size: ``(height, width)`` in pixels; frames are scaled to cover it and cut at their centre.

        Raises:
            InputError: a number is still to be filled in, see :class:`~tav_sdk.request.settings.EditSettings`.
            VideoError: as :func:`tav_sdk.read_video`.
        """
        from tav_sdk.video.file import open_clip

        if self.num_frames is None or self.start is None or self.stride is None:
            raise InputError(
                "still has open numbers: take EditSettings.of(request, manifest, schedule).frames", field="frames"
            )
        count = None if self.num_frames == "all" else self.num_frames
        return open_clip(path, num_frames=count, start=self.start, stride=self.stride, size=size)


def check_whole(field: str, value: Any, least: int, most: int = MAX_FRAMES, *, or_all: bool = False) -> int:
    """A whole number from ``least`` to ``most``.

    Raises:
        InputError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        expected = f"a whole number from {least} to {_shown(most)}{', or all' if or_all else ''}"
        raise InputError(f"must be {expected}, got {brief(value)}", field=field)
    return int(value)


def _shown(number: int) -> str:
    return "2^63 - 1" if number == 2**63 - 1 else str(number)
