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
import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from tav_sdk.cache.entry import (
    CacheEntry,
    CacheProblem,
    canonical_json,
    delete_entry,
    describe_entry,
    set_aside,
    touch_entry,
)
from tav_sdk.cache.limits import ROOT_VARIABLE, cache_root, check_kind, size_limit, size_variable
from tav_sdk.cache.locks import hold, let_go, locked, remove_entry, sweep
from tav_sdk.cache.record import DamagedEntryError, entry_problem, write_record
from tav_sdk.cache.trust import folder_distrust
from tav_sdk.errors import InputError, OutputError
from tav_sdk.files import new_folder
from tav_sdk.words import logger

_KEY = re.compile(r"[0-9a-f]{64}")
_log = logger(__name__)


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
        check_kind(kind)
        if max_bytes is not None and max_bytes < 0:
            raise InputError(f"max_bytes must be at least 0, got {max_bytes}")
        self.kind = kind
        self.root = cache_root() if root is None else Path(root).absolute()
        self.folder = self.root / kind
        self.max_bytes = size_limit(kind) if max_bytes is None else max_bytes

    # -- using it ------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Path | None:
        """The folder of an entry, or ``None`` if there is none that can be used.

        Reads and hashes every file of the entry (about 1 s per GB), and notes the use if the cache may be written. What
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
        if why := folder_distrust(self.folder):
            _log.warning("the cache %s is not used: %s", self.folder, why)
            return None
        hold(path)  # before the check, so that nothing here removes it in between
        if not entry_problem(path, key):
            touch_entry(path)
            return path
        let_go(path)
        try:
            with locked(path, wait=False) as mine:
                # Another process may have been removing it, or have made it again, while it was read.
                if mine and os.path.lexists(path) and (problem := entry_problem(path, key)):
                    _log.warning("the cache entry %s is not used: %s; removing it", path, problem)
                    delete_entry(set_aside(path))
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
        canonical_json(facts)  # now, not after a long build
        self._sweep()
        if (found := self.get(key)) is not None:
            return found
        self._prepare()
        with contextlib.ExitStack() as stack:
            with self._write_errors():
                stack.enter_context(locked(path, wait=True))
            if os.path.lexists(path) and (problem := entry_problem(path, key)):
                _log.warning("the cache entry %s is not used: %s; making it again", path, problem)
                with self._write_errors():
                    delete_entry(set_aside(path))
            if not os.path.lexists(path):
                self._make(path, make, facts)
            hold(path)
            touch_entry(path)
        self._evict(key)
        return path

    def release(self, key: str) -> None:
        """Say that the files of an entry, as given out by one call, are no longer needed; it may be evicted then."""
        let_go(self._path(key))

    # -- looking after it ----------------------------------------------------------------------------------------

    def entries(self) -> list[CacheEntry]:
        """All entries, the last used first. Their files are not read."""
        found = []
        for path in self._paths():
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                found.append(describe_entry(self.kind, path))
        return sorted(found, key=lambda entry: entry.last_used, reverse=True)

    def verify(self) -> list[CacheProblem]:
        """What will not be used; nothing is removed. Reads and hashes every file (about 1 s per GB)."""
        if self.root.exists() and not self.root.is_dir():
            return [CacheProblem(self.root, "it is a file, not a folder")]
        if os.path.lexists(self.folder) and (why := folder_distrust(self.folder)):
            return [CacheProblem(self.folder, why)]
        problems = []
        for path in self._paths():
            problem = entry_problem(path, path.name)
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
            return remove_entry(path, spare_held=False)

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

    def _check_trust(self) -> None:
        if why := folder_distrust(self.folder):
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
            with new_folder(path, told=False) as new:
                make(new)
                write_record(new, path.name, facts)
        except OutputError as error:
            if isinstance(error.__cause__, OSError):
                raise self._unwritable(error.__cause__) from error
            raise
        except DamagedEntryError as error:
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

    def _sweep(self) -> None:
        if not folder_distrust(self.folder):
            sweep(self.folder)

    def _evict(self, made: str) -> None:
        """Remove what was not used for longest, until the limit is kept; never what was just made."""
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
                total -= remove_entry(entry.path, spare_held=True)
            except OSError as error:
                _log.warning("the cache entry %s cannot be removed: %s", entry.path, error.strerror or error)
