"""What ``tav edit`` and ``tav generate`` write: videos as their frames come, a contact sheet, and a record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tav_sdk.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tav_sdk.video.contact_sheet import Excerpt

FORMATS = ("mp4", "gif", "webp")
NUM_COLUMNS = 8


class EditOutput:
    """The files of one command.

    Args:
        folder: where they go; there already.
        file_format: one of :data:`FORMATS`. An mp4 is written as its frames come; the others hold them until the end.
        fps: of the videos.
        num_frames: of each of them.
    """

    def __init__(self, folder: Path, file_format: str, fps: float, num_frames: int) -> None:
        self._folder, self._suffix, self._fps = folder, f".{file_format}", fps
        self._num_frames = num_frames
        self._rows: dict[str, Excerpt] = {}

    def add(self, name: str, parts: Iterable[NDArray[np.uint8]], *, label: str = "", growing: bool = False) -> str:
        """Write one video, and keep a few of its frames for the sheet.

        Args:
            name: of the file, without its suffix.
            parts: its frames in order, ``(f, h, w, 3)`` uint8 RGB each.
            label: on the sheet, behind the file's name.
            growing: let players show an mp4 while it is written.

        Returns:
            The file's name.
        """
        from tav_sdk.video.clip import Video
        from tav_sdk.video.contact_sheet import Excerpt, evenly
        from tav_sdk.video.writer import VideoWriter

        file = f"{name}{self._suffix}"
        wanted, picked, seen = evenly(self._num_frames, NUM_COLUMNS), [], 0
        held: list[NDArray[np.uint8]] = []
        writer = VideoWriter(self._folder / file, self._fps, growing=growing) if self._suffix == ".mp4" else None

        def take(part: NDArray[np.uint8]) -> None:
            nonlocal seen
            picked.extend(part[index - seen].copy() for index in wanted if seen <= index < seen + len(part))
            seen += len(part)

        if writer is None:
            for part in parts:
                held.append(part)
                take(part)
            Video(frames=np.concatenate(held), fps=self._fps).save(self._folder / file)
        else:
            with writer:
                for part in parts:
                    writer.write(part)
                    take(part)
        self._rows[f"{file}: {label}" if label else name] = Excerpt(frames=np.stack(picked), indices=wanted)
        return file

    def finish(self, edits: Sequence[Mapping[str, str]], settings: Mapping[str, Any]) -> None:
        """Write the sheet and the record, ``edits.json``: the settings, and each edit's file and prompt."""
        from PIL import Image

        from tav_sdk.video.contact_sheet import contact_sheet

        Image.fromarray(contact_sheet(self._rows, num_columns=NUM_COLUMNS)).save(self._folder / "sheet.png")
        record = json.dumps({**settings, "edits": list(edits)}, indent=2, ensure_ascii=False)
        (self._folder / "edits.json").write_text(record + "\n", encoding="utf-8")


def check_format(file_format: str) -> str:
    """The name of a video format, checked.

    Raises:
        InputError: it is unknown.
    """
    if file_format not in FORMATS:
        raise InputError(f"--format must be mp4, gif or webp, got {file_format!r}")
    return file_format
