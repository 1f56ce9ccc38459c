"""``edits.json``: what a folder of edits was made with, written once and read by evaluation, ``tav info`` and the
demo."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tav_sdk.errors import InputError
from tav_sdk.files import write_text
from tav_sdk.reading import read_json
from tav_sdk.words import brief

EDITS_FILE = "edits.json"


@dataclass(frozen=True, kw_only=True)
class EditRecord:
    """One folder of edits.

    Attributes:
        edits: file and prompt of every video.
        settings: what they were made with, as plain JSON values.
    """

    edits: tuple[tuple[str, str], ...]
    settings: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """What is written."""
        return {**self.settings, "edits": [{"file": file, "prompt": prompt} for file, prompt in self.edits]}

    def write(self, folder: Path) -> None:
        """Write :data:`EDITS_FILE`.

        Raises:
            OutputError: it cannot be written.
        """
        write_text(folder / EDITS_FILE, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", parents=False)


def read_record(folder: Path, name: str = EDITS_FILE) -> EditRecord:
    """Read the record of a folder of edits.

    Raises:
        InputError: it cannot be read, or is no record of edits.
    """
    path = folder / name
    values = read_json(path, error=InputError, advice="make the edits again")
    if not isinstance(values, dict) or not isinstance(entries := values.pop("edits", None), list):
        raise InputError(f"{path} is no record of edits: expected an object with the list edits; make the edits again")
    return EditRecord(edits=tuple(_entries(path, entries)), settings=values)


def _entries(path: Path, entries: Sequence[Any]) -> list[tuple[str, str]]:
    pairs = []
    for entry in entries:
        pair = (entry.get("file"), entry.get("prompt")) if isinstance(entry, dict) else (None, None)
        if not all(isinstance(text, str) for text in pair):
            raise InputError(f"{path}: expected texts for file and prompt, got {brief(entry)}")
        pairs.append(pair)
    return pairs
