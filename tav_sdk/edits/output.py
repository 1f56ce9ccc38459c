"""The folder of an edit: videos as their frames come, and a contact sheet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tav_sdk.files import new_file
from tav_sdk.request.edit_request import FileFormat
from tav_sdk.video.contact_sheet import Excerpt, contact_sheet, evenly

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_COLUMNS = 8


class EditOutput:
    """The videos of one folder, and what the sheet shows of them.

    Args:
        folder: where they go; there already.
        file_format: an mp4 is written as its frames come; the others hold them until the end.
        fps: frames per second of the videos.
        num_frames: frames of each video.
    """

    def __init__(self, folder: Path, file_format: FileFormat, fps: float, num_frames: int) -> None:
        self.folder, self._suffix, self._fps = folder, f".{file_format}", fps
        self._num_frames = num_frames
        self._rows: dict[str, Excerpt] = {}

    def add(self, name: str, parts: Iterable[NDArray[np.uint8]], *, label: str = "", growing: bool = False) -> str:
        """Write one video, and keep a few of its frames for the sheet.

        Args:
            name: the file's name without its suffix.
            parts: its frames in order, ``(f, h, w, 3)`` uint8 RGB each.
            label: on the sheet, behind the file's name.
            growing: let players show an mp4 while it is written.

        Returns:
            The file's name.
        """
        with self.open(name, label=label, growing=growing) as video:
            for part in parts:
                video.write(part)
        return video.file

    @contextmanager
    def open(self, name: str, *, label: str = "", growing: bool = False) -> Iterator[OpenVideo]:
        """A video that is written part by part; arguments as for :meth:`add`."""
        from tav_sdk.video.writer import WRITERS, VideoWriter

        file = f"{name}{self._suffix}"
        video = OpenVideo(file, evenly(self._num_frames, NUM_COLUMNS))
        if self._suffix == ".mp4":
            with VideoWriter(self.folder / file, self._fps, growing=growing) as writer:
                video.sinks.append(writer.write)
                yield video
        else:
            held: list[NDArray[np.uint8]] = []
            video.sinks.append(held.append)
            yield video
            with new_file(self.folder / file, parents=False) as path:
                WRITERS[self._suffix](np.concatenate(held), self._fps, path)
        self._rows[f"{file}: {label}" if label else name] = video.excerpt()

    def finish(self, rows: Iterable[str] = ()) -> None:
        """Write ``sheet.png``: a row for each video in the order in which they were added.

        Args:
            rows: names of those that come first.
        """
        from PIL import Image

        first = {name: self._rows[name] for name in rows if name in self._rows}
        sheet = contact_sheet({**first, **self._rows}, num_columns=NUM_COLUMNS)
        Image.fromarray(sheet).save(self.folder / "sheet.png")


class OpenVideo:
    """A video of an :class:`EditOutput` that is being written.

    Args:
        file: its name.
        wanted: which of its frames the sheet shows.

    Attributes:
        sinks: where its parts go.
    """

    def __init__(self, file: str, wanted: list[int]) -> None:
        self.file, self._wanted = file, wanted
        self.sinks: list = []
        self._picked: list[NDArray[np.uint8]] = []
        self._seen = 0

    def write(self, part: NDArray[np.uint8]) -> None:
        """Take the next frames, ``(f, h, w, 3)`` uint8 RGB."""
        for sink in self.sinks:
            sink(part)
        here = range(self._seen, self._seen + len(part))
        self._picked.extend(part[index - self._seen].copy() for index in self._wanted if index in here)
        self._seen += len(part)

    def excerpt(self) -> Excerpt:
        """The frames for the sheet."""
        return Excerpt(frames=np.stack(self._picked), indices=self._wanted)
