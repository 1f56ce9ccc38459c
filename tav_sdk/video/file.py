"""A long clip that stays on disk: ``VideoFile`` reads it in chunks, again for each pass over it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tav_sdk.errors import NotEnoughFramesError, VideoError
from tav_sdk.paths import as_path
from tav_sdk.video.clip import Clip, FrameHash, Video, check_int, check_sampling
from tav_sdk.video.limits import check_rate
from tav_sdk.video.reader import kept_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["VideoFile", "open_clip"]

IN_MEMORY = 64
"""Frames of a clip that :func:`open_clip` holds in memory at most."""
IN_MEMORY_BYTES = 1 << 30
"""Their bytes at most."""


def open_clip(
    path: str | os.PathLike[str],
    *,
    num_frames: int | None = None,
    start: int = 0,
    stride: int = 1,
    size: tuple[int, int] | None = None,
) -> Clip:
    """Open a clip of any length: in memory up to :data:`IN_MEMORY` frames, else on disk.

    The file is decoded once here: a clip in memory is not read again, one on disk is counted and hashed.

    Args:
        path, num_frames, start, stride, size: as for :func:`tav_sdk.video.clip.read_video`.

    Returns:
        A :class:`~tav_sdk.video.clip.Video` or a :class:`VideoFile` with the same frames.

    Raises:
        InputError, VideoError: as :func:`tav_sdk.video.clip.read_video`.
    """
    pass_over = _Pass(path, num_frames=num_frames, start=start, stride=stride, size=size, keep=IN_MEMORY)
    if pass_over.kept is not None:
        return Video(frames=np.stack(pass_over.kept), fps=pass_over.fps)  # (f, h, w, 3)
    return VideoFile._of(pass_over)


class _Pass:
    """One pass over a file: its frames counted, hashed, and kept as long as they are few."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        num_frames: int | None,
        start: int,
        stride: int,
        size: tuple[int, int] | None,
        keep: int,
    ) -> None:
        self.path = as_path("path", path)
        size = check_sampling(num_frames, start, stride, size)
        self.sampling: dict[str, Any] = {"num_frames": num_frames, "start": start, "stride": stride, "size": size}
        self.num_frames = self.height = self.width = 0
        self.fps = 0.0
        self.kept: list[NDArray[np.uint8]] | None = []
        digest = FrameHash()
        for convert, rate in kept_frames(self.path, **self.sampling):
            frame = convert()
            if self.num_frames == 0:
                self.height, self.width = frame.shape[:2]
            self.num_frames += 1
            self.fps = rate
            if self.kept is not None:
                self.kept.append(frame)
                if len(self.kept) <= keep and len(self.kept) * frame.nbytes <= IN_MEMORY_BYTES:
                    continue
                for earlier in self.kept:
                    digest.add(earlier)
                self.kept = None
            else:
                digest.add(frame)
        self.fps = check_rate(self.path, self.fps)
        self.content_hash = (
            "" if self.kept is not None else digest.finish((self.num_frames, self.height, self.width, 3))
        )


class VideoFile:
    """The clip that :func:`tav_sdk.video.clip.read_video` gives for the same arguments, but never held whole.

    The file is decoded once here, to count and to hash its frames, and once for each use of :meth:`chunks`: it must
    not change meanwhile.

    Args:
        path, num_frames, start, stride, size: as for :func:`tav_sdk.video.clip.read_video`.

    Attributes:
        path: the file.
        num_frames, height, width, fps: of the clip, as in :class:`tav_sdk.video.clip.Video`.
        content_hash: that of the :class:`tav_sdk.video.clip.Video` with the same frames.

    Raises:
        InputError, VideoError: as :func:`tav_sdk.video.clip.read_video`, with the same messages.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        num_frames: int | None = None,
        start: int = 0,
        stride: int = 1,
        size: tuple[int, int] | None = None,
    ) -> None:
        self._take(_Pass(path, num_frames=num_frames, start=start, stride=stride, size=size, keep=0))

    @classmethod
    def _of(cls, counted: _Pass) -> VideoFile:
        """A clip whose first pass is done."""
        clip = cls.__new__(cls)
        clip._take(counted)
        return clip

    def _take(self, counted: _Pass) -> None:
        self.path, self._sampling = counted.path, counted.sampling
        self.num_frames, self.height, self.width = counted.num_frames, counted.height, counted.width
        self.fps, self.content_hash = counted.fps, counted.content_hash

    def __repr__(self) -> str:
        return (
            f"VideoFile(path='{self.path}', num_frames={self.num_frames}, height={self.height}, width={self.width}, "
            f"fps={self.fps:g})"
        )

    def chunks(self, length: int) -> Iterator[NDArray[np.uint8]]:
        """The frames in order, ``length`` at a time; the file is decoded for each call.

        Returns:
            New arrays ``(length, h, w, 3)`` uint8 RGB; the last may be shorter.

        Raises:
            InputError: ``length`` is no whole number of at least 1.
            VideoError: the file has changed, noticed while iterating.
        """
        check_int("length", length, 1)
        return self._chunks(length)

    def _chunks(self, length: int) -> Iterator[NDArray[np.uint8]]:
        chunk = np.empty((0, self.height, self.width, 3), np.uint8)
        for index, frame in enumerate(self._frames()):
            at = index % length
            if at == 0:
                chunk = np.empty((min(length, self.num_frames - index), *frame.shape), np.uint8)
            chunk[at] = frame
            if at + 1 == len(chunk):
                yield chunk  # (length, h, w, 3)

    def _frames(self) -> Iterator[NDArray[np.uint8]]:
        """Each frame, ``(h, w, 3)`` uint8; VideoError as soon as they are not those that were counted."""
        seen = 0
        try:
            for kept, _ in kept_frames(self.path, **self._sampling):
                frame = kept()
                if seen == self.num_frames:
                    raise self._changed(f"more than {seen} frames")
                if frame.shape[:2] != (self.height, self.width):
                    raise self._changed(f"frames of {frame.shape[0]}x{frame.shape[1]}")
                yield frame
                seen += 1
        except NotEnoughFramesError as error:
            raise self._changed(f"{seen} frames") from error
        if seen < self.num_frames:
            raise self._changed(f"{seen} frames")

    def _changed(self, got: str) -> VideoError:
        return VideoError(
            f"{self.path} has changed since it was opened: expected {self.num_frames} frames of "
            f"{self.height}x{self.width} pixels (height x width), got {got}. Open it again."
        )
