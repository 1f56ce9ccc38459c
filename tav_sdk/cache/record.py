"""The record of an entry, ``entry.json``: written when the entry is made, and what it is checked with ever after."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tav_sdk.cache.trust import foreign_writer
from tav_sdk.errors import TavError
from tav_sdk.files import sha256_of, write_text
from tav_sdk.reading import read_json

ENTRY = "entry.json"


class DamagedEntryError(Exception):
    """Why an entry cannot be used; it never leaves the cache."""


@dataclass(frozen=True)
class Record:
    """What ``entry.json`` says of an entry.

    Attributes:
        facts: what it was made from.
        created: when it was made, UTC.
        files: size and SHA-256 of every other file, by its path in the entry.
    """

    facts: dict[str, Any]
    created: datetime
    files: dict[str, tuple[int, str]]


def write_record(new: Path, key: str, facts: Mapping[str, Any]) -> None:
    """Make a new entry's files private to this user, and record their sizes and hashes.

    Args:
        new: the folder that they were made in.
        key: the entry's key.
        facts: what it was made from.

    Raises:
        DamagedEntryError: there is something else than files and folders, or a file of the record's name.
        OSError: something cannot be read or written.
    """
    for folder, _, names in os.walk(new):
        os.chmod(folder, 0o700)  # whatever the umask says
        for name in names:
            if not (path := Path(folder, name)).is_symlink():
                path.chmod(0o600)
    found = _files(new)
    if ENTRY in found:
        raise DamagedEntryError(f"it has a file {ENTRY}, which is the cache's own")
    files = {name: {"size": status.st_size, "sha256": sha256_of(new / name)} for name, status in found.items()}
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    record = {"key": key, "created": created, "facts": dict(facts), "files": files}
    write_text(new / ENTRY, json.dumps(record, indent=2) + "\n")
    (new / ENTRY).chmod(0o600)


def read_record(path: Path, key: str) -> Record:
    """An entry's record, after all that can be checked without reading the other files.

    Raises:
        DamagedEntryError: something is wrong.
        OSError: something cannot be read.
    """
    found = _files(path)
    if found.pop(ENTRY, None) is None:
        raise DamagedEntryError(f"it has no {ENTRY}")
    try:
        values = read_json(path / ENTRY, error=TavError, advice="it is made again")
        files = {name: (int(file["size"]), str(file["sha256"])) for name, file in values["files"].items()}
        record = Record(dict(values["facts"]), datetime.fromisoformat(values["created"]), files)
        made_for = str(values["key"])
    except (TavError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedEntryError(f"its {ENTRY} is damaged: {error!r}") from error
    if made_for != key:
        raise DamagedEntryError(f"it was made for the key {made_for[:12]}...")
    for name in sorted(files.keys() | found.keys()):
        if name not in found or name not in files:
            raise DamagedEntryError(f"{name} is {'not listed' if name in found else 'missing'}")
        if (size := found[name].st_size) != files[name][0]:
            raise DamagedEntryError(f"{name} was changed: expected {files[name][0]} bytes, got {size}")
    return record


def entry_problem(path: Path, key: str) -> str:
    """Why an entry cannot be used, after every file of it was read and hashed; empty if it can."""
    try:
        for name, (_, expected) in read_record(path, key).files.items():
            if (got := sha256_of(path / name)) != expected:
                return f"{name} was changed: expected sha256 {expected[:12]}..., got {got[:12]}..."
    except DamagedEntryError as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return ""


def _files(path: Path) -> dict[str, os.stat_result]:
    """Every file in an entry by its path in there, none of them a link and all of them this user's alone.

    Raises:
        DamagedEntryError: there is something else.
        OSError: something cannot be read.
    """
    if not stat.S_ISDIR(_lstat(path, "it").st_mode):
        raise DamagedEntryError("it is not a folder")
    files, folders = {}, [path]
    while folders:
        for inner in folders.pop().iterdir():
            name = inner.relative_to(path).as_posix()
            status = _lstat(inner, name)
            if stat.S_ISDIR(status.st_mode):
                folders.append(inner)
            elif stat.S_ISREG(status.st_mode):
                files[name] = status
            else:
                raise DamagedEntryError(f"{name} is neither a file nor a folder")
    return files


def _lstat(path: Path, name: str) -> os.stat_result:
    """The status of a file or folder, which is no link and this user's alone."""
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        raise DamagedEntryError(f"{name} is a link")
    if who := foreign_writer(status):
        raise DamagedEntryError(f"{name} {who}")
    return status
