"""Caches on disk: what is costly to make, kept under the hash of what it was made from.

    cache = Cache("engines")
    folder = cache.get_or_make(cache_key(facts), build, facts=facts)  # build(folder) writes files

A cache is a folder ``<root>/<kind>``, an entry in it a folder named by its key, with the files that were made and
``entry.json``. Everything in it can be made again: it may be emptied at any time, with ``tav cache clear`` or by hand.

An entry may hold code (a compiled engine), so one is used only if this user owns it, neither group nor others may write
it, no part of it is a link, and every file has the hash that was noted when it was made. That is checked from
``<root>/<kind>`` downwards, which is made with mode 0700. Windows has no such modes: there the user's cache folder is
private by the access list of the user's profile, and one named in ``TAV_CACHE`` has to be made so by who names it.

Processes may share a cache. Every key has a lock, held while its entry is made or removed and freed by the system when
a process dies; an entry is written under a temporary name and renamed. What a power failure leaves does not have the
noted hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from tav_sdk.errors import ConfigError, InputError, OutputError
from tav_sdk.files import new_folder, sha256_of, write_text

ROOT_VARIABLE = "TAV_CACHE"
"""Environment variable: the folder of all caches."""
LIMITS: Mapping[str, int] = {
    "engines": 20 * 10**9,
    "inversions": 10**9,
    "controlnets": 10 * 10**9,
    "unfinished": 5 * 10**9,
}
"""Every kind of cache, and how many bytes it may take unless ``TAV_CACHE_SIZE_<KIND>`` says otherwise."""
ENTRY = "entry.json"

_KEY = re.compile(r"[0-9a-f]{64}")
_OWN = re.compile(r"\.([0-9a-f]{64})[.-](.+)")  # a lock, or a temporary folder of new_folder or _set_aside
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)

_log = logging.getLogger(__name__)

_uses: Counter[Path] = Counter()  # entries that this process was given and has not released
_uses_guard = threading.Lock()


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


def cache_root() -> Path:
    """The folder of all caches: ``$TAV_CACHE``, or ``tav-sdk`` in the user's cache folder (``$XDG_CACHE_HOME``)."""
    if named := os.environ.get(ROOT_VARIABLE):
        return Path(named).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("tav-sdk", appauthor=False)


def size_limit(kind: str) -> int:
    """How many bytes a kind of cache may take: ``TAV_CACHE_SIZE_ENGINES``, ``TAV_CACHE_SIZE_INVERSIONS``, or a default.

    The variables take ``20GB`` (10^9 bytes), ``512 MiB`` (2^20 bytes), or a number of bytes.

    Raises:
        InputError: there is no such kind.
        ConfigError: the variable holds no size.
    """
    _check_kind(kind)
    name = size_variable(kind)
    text = os.environ.get(name, "").strip()
    if not text:
        return LIMITS[kind]
    return parse_size(text, name)


def parse_size(text: str, what: str) -> int:
    """Bytes of a size such as ``20GB`` (10^9 bytes), ``512 MiB`` (2^20 bytes), or a number of bytes.

    Raises:
        ConfigError: it is no size; names ``what`` was to be set.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or (match[3] and not match[2]):
        raise ConfigError(f"{what}: expected a size such as 20GB, 512MB or 0, got {text!r}")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2].lower() or " "))


def size_variable(kind: str) -> str:
    """The environment variable of a cache's size limit."""
    return f"TAV_CACHE_SIZE_{kind.upper()}"


def _check_kind(kind: str) -> None:
    if kind not in LIMITS:
        raise InputError(f"there is no cache {kind!r}; the caches are {', '.join(LIMITS)}")


def cache_key(facts: Mapping[str, Any]) -> str:
    """SHA-256 of facts as JSON with sorted keys: 64 hexadecimal digits. Tuples count as lists.

    Raises:
        InputError: the facts have something in them that JSON does not know, NaN included.
    """
    return hashlib.sha256(_canonical(facts).encode()).hexdigest()


class Cache:
    """A folder of entries by key, limited in size; the least recently used go first.

    The caller's threads, and other processes, may use the same cache at the same time.

    Args:
        kind: one of :data:`LIMITS`.
        root: the folder of all caches; by default :func:`cache_root`.
        max_bytes: how much the cache may take; by default :func:`size_limit`. One entry that is larger is kept until
            the next one is made.

    Raises:
        InputError: there is no such kind, or ``max_bytes`` is negative.
        ConfigError: the environment variable of the limit holds no size.

    Attributes:
        kind: as given.
        root: as given, or the default.
        folder: where the entries are: ``root / kind``.
        max_bytes: as given, or the default.
    """

    def __init__(self, kind: str, *, root: Path | None = None, max_bytes: int | None = None) -> None:
        _check_kind(kind)
        if max_bytes is not None and max_bytes < 0:
            raise InputError(f"max_bytes must be at least 0, got {max_bytes}")
        self.kind = kind
        self.root = cache_root() if root is None else Path(root).absolute()
        self.folder = self.root / kind
        self.max_bytes = size_limit(kind) if max_bytes is None else max_bytes

    # -- using it ------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Path | None:
        """The folder of an entry, or ``None`` if there is none that can be used.

        Reads and hashes every file of the entry (about 1 s a GB), and notes the use if the cache may be written. What
        is damaged or not this user's alone is removed, with a logged warning. The entry stays until this process ends
        or calls :meth:`release`; another process may still remove it if it needs the room.

        Args:
            key: from :func:`cache_key`.

        Raises:
            InputError: the key is not of that form.
        """
        path = self._path(key)
        if not os.path.lexists(path):
            return None
        if why := self._distrust():
            _log.warning("the cache %s is not used: %s", self.folder, why)
            return None
        _hold(path)  # before the check, so that nothing here removes it in between
        if not _problem(path, key):
            _touch(path)
            return path
        self.release(key)
        try:
            with self._locked(key, wait=False) as mine:
                # Another process may have been removing it, or have made it again, while it was read.
                if mine and os.path.lexists(path) and (problem := _problem(path, key)):
                    _log.warning("the cache entry %s is not used: %s; removing it", path, problem)
                    _delete(_set_aside(path))
        except OSError as error:
            _log.warning("the cache entry %s cannot be removed: %s", path, error.strerror or error)
        return None

    def get_or_make(self, key: str, make: Callable[[Path], None], *, facts: Mapping[str, Any]) -> Path:
        """The folder of an entry, made now if there is none that can be used.

        Of several that ask for one key at a time one makes the entry, and the others wait for it and take it.

        Args:
            key: from :func:`cache_key`.
            make: ``make(folder)`` writes the entry's files into an empty folder, which is not where they will stay; on
                any error of it nothing is kept.
            facts: what the entry is made from, for people and for :meth:`entries`; plain JSON values.

        Raises:
            InputError: the key is not of that form, ``facts`` is not JSON, or ``make`` wrote something else than
                files and folders.
            OutputError: the cache cannot be written (permission, disk full), or it is not this user's alone. An entry
                that can be used is given out in spite of that.
        """
        path = self._path(key)
        _canonical(facts)  # now, not after a long build
        self._sweep()
        if (found := self.get(key)) is not None:
            return found
        self._prepare()
        with contextlib.ExitStack() as stack:
            with self._write_errors():
                stack.enter_context(self._locked(key, wait=True))
            if os.path.lexists(path) and (problem := _problem(path, key)):
                _log.warning("the cache entry %s is not used: %s; making it again", path, problem)
                with self._write_errors():
                    _delete(_set_aside(path))
            if not os.path.lexists(path):
                self._make(path, make, facts)
            _hold(path)
            _touch(path)
        self._evict(key)
        return path

    def release(self, key: str) -> None:
        """Say that the files of an entry, as given out by one call, are no longer needed; it may be evicted then."""
        path = self._path(key)
        with _uses_guard:
            _uses[path] -= 1
            if _uses[path] <= 0:
                del _uses[path]

    # -- looking after it ----------------------------------------------------------------------------------------

    def entries(self) -> list[CacheEntry]:
        """All entries, the last used first. Their files are not read."""
        found = []
        for path in self._paths():
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                found.append(_entry(self.kind, path))
        return sorted(found, key=lambda entry: entry.last_used, reverse=True)

    def verify(self) -> list[CacheProblem]:
        """What will not be used; nothing is removed. Reads and hashes every file (about 1 s a GB)."""
        if self.root.exists() and not self.root.is_dir():
            return [CacheProblem(self.root, "it is a file, not a folder")]
        if os.path.lexists(self.folder) and (why := self._distrust()):
            return [CacheProblem(self.folder, why)]
        problems = []
        for path in self._paths():
            problem = _problem(path, path.name)
            if problem and os.path.lexists(path):
                problems.append(CacheProblem(path, problem))
        return problems

    def remove(self, key: str) -> int:
        """Remove one entry, in use or not; the bytes that it took, 0 if there is none or it is just being made.

        Raises:
            InputError: the key is not of the form of :func:`cache_key`.
            OutputError: it cannot be removed, or the cache is not this user's alone.
        """
        path = self._path(key)
        if not os.path.lexists(path):
            return 0
        self._check_trust()
        with self._write_errors():
            return self._take(path, spare=False)

    def clear(self, *, unused_for: timedelta | None = None) -> int:
        """Remove the entries, in use or not, but those that are just being made, and what dead processes left.

        Args:
            unused_for: only entries whose last use is longer ago; by default all.

        Returns:
            The bytes that the entries took.

        Raises:
            OutputError: something cannot be removed, or the cache is not this user's alone.
        """
        if not os.path.lexists(self.folder):
            return 0
        self._check_trust()
        self._sweep()
        now = datetime.now(timezone.utc)
        old = [entry for entry in self.entries() if unused_for is None or now - entry.last_used > unused_for]
        return sum(self.remove(entry.key) for entry in old)

    # -- parts ---------------------------------------------------------------------------------------------------

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise InputError(f"a cache key must be 64 hexadecimal digits, as cache_key gives them, got {key!r}")
        return self.folder / key

    def _paths(self) -> list[Path]:
        try:
            return sorted(path for path in self.folder.iterdir() if _KEY.fullmatch(path.name))
        except OSError:
            return []

    def _distrust(self) -> str:
        """Why nothing in the folder can be trusted; empty if it can."""
        try:
            status = os.lstat(self.folder)
        except OSError as error:
            return error.strerror or str(error)
        if not stat.S_ISDIR(status.st_mode):
            return "it is a link or a file, not a folder"
        return f"it {why}" if (why := _foreign(status)) else ""

    def _check_trust(self) -> None:
        if why := self._distrust():
            raise OutputError(
                f"the cache {self.folder} is not used: {why}. Expected a folder that this user owns and nobody else "
                f"may write; name another folder for the caches in {ROOT_VARIABLE}, or remove this one."
            )

    def _prepare(self) -> None:
        """Make the cache's folder if need be, for this user alone."""
        with self._write_errors():
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                self.folder.mkdir(mode=0o700)
        self._check_trust()

    def _make(self, path: Path, make: Callable[[Path], None], facts: Mapping[str, Any]) -> None:
        """Make an entry whose lock is held."""
        try:
            with new_folder(path) as new:
                make(new)
                _finish(new, path.name, facts)
        except OutputError as error:
            if isinstance(error.__cause__, OSError):
                raise self._unwritable(error.__cause__) from error
            raise
        except _DamagedError as error:
            raise InputError(f"what was made for the cache {self.folder} could not be used: {error}") from error

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        """The system's errors as one that names the cache and says what to do."""
        try:
            yield
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(
            f"the cache {self.folder} cannot be written: {error.strerror or error}. Check its permissions and free "
            f"space (tav cache clear empties it), or name another folder for the caches in {ROOT_VARIABLE}."
        )

    @contextlib.contextmanager
    def _locked(self, key: str, *, wait: bool) -> Iterator[bool]:
        """The key's lock; without ``wait``, whether it could be had. A lock's file lives as long as its entry."""
        from filelock import FileLock, Timeout

        path = self.folder / f".{key}.lock"
        lock = FileLock(path, mode=0o600)
        with contextlib.suppress(Timeout):
            lock.acquire(blocking=False)
        if not lock.is_locked:
            if not wait:
                yield False
                return
            _log.info("waiting for another process or thread, which has the cache entry %s", self.folder / key)
            lock.acquire()
        try:
            yield True
        finally:
            if not os.path.lexists(self.folder / key):
                with contextlib.suppress(OSError):
                    path.unlink()  # whoever waits for it takes a new one
            lock.release()

    def _sweep(self) -> None:
        """Remove what processes left that died while they wrote; those that live hold the key's lock."""
        with contextlib.suppress(OSError):
            for path in () if self._distrust() else tuple(self.folder.iterdir()):
                match = _OWN.fullmatch(path.name)
                if match is None or (match[2] == "lock" and os.path.lexists(self.folder / match[1])):
                    continue
                with self._locked(match[1], wait=False) as mine:  # takes an idle lock's file with it
                    if mine and match[2] != "lock":
                        _delete(path)

    def _take(self, path: Path, *, spare: bool) -> int:
        """Remove an entry and give its size, 0 if another process has it or, with ``spare``, if it is in use here."""
        with self._locked(path.name, wait=False) as mine:
            with _uses_guard:
                if not mine or not os.path.lexists(path) or (spare and path in _uses):
                    return 0
                size = _size(path)
                trash = _set_aside(path)
            _delete(trash)
            return size

    def _evict(self, made: str) -> None:
        entries = self.entries()
        total = sum(entry.size for entry in entries)
        size = sum(entry.size for entry in entries if entry.key == made)
        if size > self.max_bytes:
            _log.warning(
                "the cache entry %s takes %.1f MB, more than the limit of %.1f MB for %s; raise it with %s",
                self.folder / made,
                size / 1e6,
                self.max_bytes / 1e6,
                self.kind,
                size_variable(self.kind),
            )
        for entry in reversed(entries):
            if total <= self.max_bytes:
                return
            try:
                total -= self._take(entry.path, spare=True)
            except OSError as error:
                _log.warning("the cache entry %s cannot be removed: %s", entry.path, error.strerror or error)


# --- entries on disk ----------------------------------------------------------------------------------------------


class _DamagedError(Exception):
    """Why an entry cannot be used."""


def _canonical(facts: Mapping[str, Any]) -> str:
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


def _finish(new: Path, key: str, facts: Mapping[str, Any]) -> None:
    """Take what was made for this user alone, and write down what it is."""
    for folder, _, names in os.walk(new):
        os.chmod(folder, 0o700)  # whatever the umask says
        for name in names:
            if not (path := Path(folder, name)).is_symlink():
                path.chmod(0o600)
    found = _files(new)
    if ENTRY in found:
        raise _DamagedError(f"it has a file {ENTRY}, which is the cache's own")
    files = {name: {"size": status.st_size, "sha256": sha256_of(new / name)} for name, status in found.items()}
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    record = {"key": key, "created": created, "facts": dict(facts), "files": files}
    write_text(new / ENTRY, json.dumps(record, indent=2) + "\n")
    (new / ENTRY).chmod(0o600)


def _set_aside(path: Path) -> Path:
    """Take an entry whose lock is held from under its name, at once; where it is now, to be deleted."""
    trash = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    os.replace(path, trash)
    return trash


def _problem(path: Path, key: str) -> str:
    """Why an entry cannot be used; empty if it can."""
    try:
        for name, (_, expected) in _read(path, key).files.items():
            if (got := sha256_of(path / name)) != expected:
                return f"{name} was changed: expected sha256 {expected[:12]}..., got {got[:12]}..."
    except _DamagedError as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return ""


def _read(path: Path, key: str) -> _Record:
    """An entry's record, after all that can be checked without reading the other files.

    Raises:
        _DamagedError: something is wrong.
        OSError: something cannot be read.
    """
    found = _files(path)
    if found.pop(ENTRY, None) is None:
        raise _DamagedError(f"it has no {ENTRY}")
    try:
        values = json.loads((path / ENTRY).read_text(encoding="utf-8"))
        files = {name: (int(file["size"]), str(file["sha256"])) for name, file in values["files"].items()}
        record = _Record(dict(values["facts"]), datetime.fromisoformat(values["created"]), files)
        made_for = str(values["key"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _DamagedError(f"its {ENTRY} is damaged: {error!r}") from error
    if made_for != key:
        raise _DamagedError(f"it was made for the key {made_for[:12]}...")
    for name in sorted(files.keys() | found.keys()):
        if name not in found or name not in files:
            raise _DamagedError(f"{name} is {'not listed' if name in found else 'missing'}")
        if (size := found[name].st_size) != files[name][0]:
            raise _DamagedError(f"{name} was changed: expected {files[name][0]} bytes, got {size}")
    return record


def _files(path: Path) -> dict[str, os.stat_result]:
    """Every file in an entry by its path in there, none of them a link and all of them this user's alone.

    Raises:
        _DamagedError: there is something else.
        OSError: something cannot be read.
    """
    if not stat.S_ISDIR(_lstat(path, "it").st_mode):
        raise _DamagedError("it is not a folder")
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
                raise _DamagedError(f"{name} is neither a file nor a folder")
    return files


def _lstat(path: Path, name: str) -> os.stat_result:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        raise _DamagedError(f"{name} is a link")
    if why := _foreign(status):
        raise _DamagedError(f"{name} {why}")
    return status


def _foreign(status: os.stat_result) -> str:
    """Who else may have written a file or folder; empty if nobody but this user."""
    if not hasattr(os, "geteuid"):  # Windows; see the head of this file
        return ""
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}, not to this one ({os.geteuid()})"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"may be written by its group or others (mode {stat.S_IMODE(status.st_mode):o})"
    return ""


def _entry(kind: str, path: Path) -> CacheEntry:
    record, problem = None, ""
    try:
        record = _read(path, path.name)
    except _DamagedError as error:
        problem = str(error)
    except OSError as error:
        problem = f"it cannot be read: {error.strerror or error}"
    used = os.lstat(path / ENTRY if record else path).st_mtime
    return CacheEntry(
        kind=kind,
        key=path.name,
        path=path,
        facts=record.facts if record else {},
        size=_size(path),
        created=record.created if record else None,
        last_used=datetime.fromtimestamp(used, timezone.utc),
        problem=problem,
    )


def _size(path: Path) -> int:
    """Bytes of all files; links are not followed."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):  # a cache that may only be read is fine
        os.utime(path / ENTRY)


def _hold(path: Path) -> None:
    with _uses_guard:
        _uses[path] += 1


def _delete(path: Path) -> None:
    """What cannot be deleted now, such as a file open on Windows, is swept away later."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
