"""One entry of a cache on disk: its record, its check, and its removal."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tav_sdk.errors import InputError
from tav_sdk.files import sha256_of, write_text

ENTRY = "entry.json"


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """One entry of a cache.

    Attributes:
        kind: the cache's kind.
        key: 64 hexadecimal digits.
        path: its folder.
        facts: what it was made from; empty if it is damaged.
        size: bytes of all its files.
        created: when it was made, UTC; ``None`` if it is damaged.
        last_used: when it was made or last given out, UTC.
        problem: why it cannot be used, as far as can be said without reading its files; empty if it can.
    """

    kind: str
    key: str
    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    size: int
    created: datetime | None
    last_used: datetime
    problem: str = ""


@dataclass(frozen=True)
class CacheProblem:
    """Something in a cache that will not be used.

    Attributes:
        path: the entry's folder, or the cache's.
        message: what is wrong with it.
    """

    path: Path
    message: str


def cache_key(facts: Mapping[str, Any]) -> str:
    """SHA-256 of facts as JSON with sorted keys: 64 hexadecimal digits. Tuples count as lists.

    Raises:
        InputError: the facts have something in them that JSON does not know, NaN included.
    """
    return hashlib.sha256(canonical_json(facts).encode()).hexdigest()


class DamagedEntryError(Exception):
    """Why an entry cannot be used."""


def canonical_json(facts: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(facts), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the facts of a cache entry must be plain JSON values: {error}") from error


@dataclass(frozen=True)
class _Record:
    """``entry.json``: what an entry was made from and when, and size and SHA-256 of every file."""

    facts: dict[str, Any]
    created: datetime
    files: dict[str, tuple[int, str]]


def finish_entry(new: Path, key: str, facts: Mapping[str, Any]) -> None:
    """Take what was made for this user alone, and write down what it is."""
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


def set_aside(path: Path) -> Path:
    """Take an entry whose lock is held from under its name, at once; where it is now, to be deleted."""
    trash = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    os.replace(path, trash)
    return trash


def entry_problem(path: Path, key: str) -> str:
    """Why an entry cannot be used; empty if it can."""
    try:
        for name, (_, expected) in _read(path, key).files.items():
            if (got := sha256_of(path / name)) != expected:
                return f"{name} was changed: expected sha256 {expected[:12]}..., got {got[:12]}..."
    except DamagedEntryError as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return ""


def _read(path: Path, key: str) -> _Record:
    """An entry's record, after all that can be checked without reading the other files.

    Raises:
        DamagedEntryError: something is wrong.
        OSError: something cannot be read.
    """
    found = _files(path)
    if found.pop(ENTRY, None) is None:
        raise DamagedEntryError(f"it has no {ENTRY}")
    try:
        values = json.loads((path / ENTRY).read_text(encoding="utf-8"))
        files = {name: (int(file["size"]), str(file["sha256"])) for name, file in values["files"].items()}
        record = _Record(dict(values["facts"]), datetime.fromisoformat(values["created"]), files)
        made_for = str(values["key"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedEntryError(f"its {ENTRY} is damaged: {error!r}") from error
    if made_for != key:
        raise DamagedEntryError(f"it was made for the key {made_for[:12]}...")
    for name in sorted(files.keys() | found.keys()):
        if name not in found or name not in files:
            raise DamagedEntryError(f"{name} is {'not listed' if name in found else 'missing'}")
        if (size := found[name].st_size) != files[name][0]:
            raise DamagedEntryError(f"{name} was changed: expected {files[name][0]} bytes, got {size}")
    return record


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
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        raise DamagedEntryError(f"{name} is a link")
    if why := why_foreign(status):
        raise DamagedEntryError(f"{name} {why}")
    return status


def why_foreign(status: os.stat_result) -> str:
    """Who else may have written a file or folder; empty if nobody but this user."""
    if not hasattr(os, "geteuid"):  # Windows; see the head of this file
        return ""
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}, not to this one ({os.geteuid()})"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"may be written by its group or others (mode {stat.S_IMODE(status.st_mode):o})"
    return ""


def describe_entry(kind: str, path: Path) -> CacheEntry:
    record, problem = None, ""
    try:
        record = _read(path, path.name)
    except DamagedEntryError as error:
        problem = str(error)
    except OSError as error:
        problem = f"it cannot be read: {error.strerror or error}"
    used = os.lstat(path / ENTRY if record else path).st_mtime
    return CacheEntry(
        kind=kind,
        key=path.name,
        path=path,
        facts=record.facts if record else {},
        size=entry_size(path),
        created=record.created if record else None,
        last_used=datetime.fromtimestamp(used, timezone.utc),
        problem=problem,
    )


def entry_size(path: Path) -> int:
    """Bytes of all files; links are not followed."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def touch_entry(path: Path) -> None:
    with contextlib.suppress(OSError):  # a cache that may only be read is fine
        os.utime(path / ENTRY)


def delete_entry(path: Path) -> None:
    """What cannot be deleted now, such as a file open on Windows, is swept away later."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
