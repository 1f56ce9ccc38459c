"""One entry of a cache on disk: its key, what it is, how large and when used, and its removal."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tav_sdk.cache.record import ENTRY, DamagedEntryError, read_record
from tav_sdk.errors import InputError


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


def canonical_json(facts: Mapping[str, Any]) -> str:
    """Facts as JSON with sorted keys, so that equal facts give equal text.

    Raises:
        InputError: the facts have something in them that JSON does not know, NaN included.
    """
    try:
        return json.dumps(dict(facts), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the facts of a cache entry must be plain JSON values: {error}") from error


def describe_entry(kind: str, path: Path) -> CacheEntry:
    """Describe the entry in a folder that is named by its key; the other files are not read.

    Raises:
        FileNotFoundError: it is gone.
    """
    record, problem = None, ""
    try:
        record = read_record(path, path.name)
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
    """Note that an entry is used now, if the cache may be written."""
    with contextlib.suppress(OSError):  # a cache that may only be read is fine
        os.utime(path / ENTRY)


def set_aside(path: Path) -> Path:
    """Move an entry whose lock is held to another name, in one step; returns its new path, to be deleted."""
    trash = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    os.replace(path, trash)
    return trash


def delete_entry(path: Path) -> None:
    """Delete a folder that was set aside, or a file.

    What cannot be deleted now, such as a file open on Windows, is swept away later.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
