"""Who uses an entry: the lock of each key, which processes share, and the entries that this process was given.

A lock is held while its entry is made or removed, and the system frees it when a process dies. What a process was given
and has not released is known to that process alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tav_sdk.cache.entry import delete_entry, entry_size, set_aside
from tav_sdk.words import logger

_OWN = re.compile(r"\.([0-9a-f]{64})[.-](.+)")  # a lock, or a temporary folder of new_folder or set_aside

_log = logger(__name__)

_uses: Counter[Path] = Counter()  # entries that this process was given and has not released
_uses_guard = threading.Lock()


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of an entry's key. A lock's file lives as long as its entry.

    Args:
        path: the entry's folder, which need not be there.
        wait: whether to wait for another thread or process that holds it.

    Yields:
        Whether it is held; always with ``wait``.

    Raises:
        OSError: the lock's file cannot be made.
    """
    from filelock import FileLock, Timeout

    file = path.with_name(f".{path.name}.lock")
    lock = FileLock(file, mode=0o600)
    with contextlib.suppress(Timeout):
        lock.acquire(blocking=False)
    if not lock.is_locked:
        if not wait:
            yield False
            return
        _log.info("waiting for another process or thread, which has the cache entry %s", path)
        lock.acquire()
    try:
        yield True
    finally:
        if not os.path.lexists(path):
            with contextlib.suppress(OSError):
                file.unlink()  # whoever waits for it takes a new one
        lock.release()


def hold(path: Path) -> None:
    """Note that an entry was given out, so that this process does not evict it."""
    with _uses_guard:
        _uses[path] += 1


def let_go(path: Path) -> None:
    """Undo one :func:`hold`."""
    with _uses_guard:
        _uses[path] -= 1
        if _uses[path] <= 0:
            del _uses[path]


def remove_entry(path: Path, *, spare_held: bool) -> int:
    """Remove an entry that no other process or thread is making or removing.

    Args:
        path: the entry's folder.
        spare_held: leave it if this process holds it.

    Returns:
        The bytes that it took; 0 if it was left, or is not there.

    Raises:
        OSError: it cannot be removed.
    """
    with locked(path, wait=False) as mine:
        with _uses_guard:  # so that nothing here is given it in between
            if not mine or not os.path.lexists(path) or (spare_held and path in _uses):
                return 0
            size = entry_size(path)
            trash = set_aside(path)
        delete_entry(trash)
        return size


def sweep(folder: Path) -> None:
    """Remove what processes left in a cache's folder when they died while writing; a living one holds a lock."""
    with contextlib.suppress(OSError):
        for path in tuple(folder.iterdir()):
            match = _OWN.fullmatch(path.name)
            if match is None or (match[2] == "lock" and os.path.lexists(folder / match[1])):
                continue
            with locked(folder / match[1], wait=False) as mine:  # takes an idle lock's file with it
                if mine and match[2] != "lock":
                    delete_entry(path)
