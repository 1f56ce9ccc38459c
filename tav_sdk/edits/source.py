"""The clip of an edit, copied to a file in the same pass in which it is encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from tav_sdk.video.clip import Clip

if TYPE_CHECKING:
    from numpy.typing import NDArray


class CopiedClip:
    """A clip whose first pass is written down, so that it is not decoded for a copy of its own.

    Args:
        clip: what is passed on, as it is.
        write: is given each part ``(f, h, w, 3)`` uint8 RGB of the first pass, in order.

    Attributes:
        num_frames, height, width, fps, content_hash: the clip's.
    """

    def __init__(self, clip: Clip, write: Callable[[NDArray[np.uint8]], None]) -> None:
        self._clip, self._write = clip, write
        self._begun = self._done = False
        self.num_frames, self.height, self.width, self.fps = clip.num_frames, clip.height, clip.width, clip.fps

    @property
    def content_hash(self) -> str:
        return self._clip.content_hash

    def chunks(self, length: int) -> Iterator[NDArray[np.uint8]]:
        """The frames in order, ``length`` at a time; in the first pass each part is written before it is given."""
        if self._begun:
            return self._clip.chunks(length)
        self._begun = True
        return self._copied(length)

    def _copied(self, length: int) -> Iterator[NDArray[np.uint8]]:
        for part in self._clip.chunks(length):
            self._write(part)
            yield part
        self._done = True

    def finish(self, length: int) -> None:
        """Write the clip if nothing has read it, as an edit from a kept inversion does not."""
        if not self._done:
            for _ in self.chunks(length):
                pass
