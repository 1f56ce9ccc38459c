"""What is kept for how long: files of ended jobs, clips that no job needs any more, and what crashes left."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path

from tav_sdk.server.catalog import Catalog
from tav_sdk.server.jobs import Job
from tav_sdk.server.state import State
from tav_sdk.server.store import JobStore

DAY_S = 86400.0
NEW_S = 3600.0
"""Files without a job are left alone for so long: their request may still be on its way."""
_CLIP = re.compile(r"[0-9a-f]{64}")


class Retention:
    """Removes files of a state folder that nobody can ask for any more. Records of jobs stay.

    Args:
        state: the folder.
        store: the jobs.
        catalog: the models; their clips are kept.
        keep_days: so long the files of ended jobs are kept; 0: for ever.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        state: State,
        store: JobStore,
        catalog: Catalog,
        *,
        keep_days: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state, self._store, self._catalog = state, store, catalog
        self._keep_s, self._clock = keep_days * DAY_S, clock

    async def sweep(self) -> list[Path]:
        """Remove what is due; what was removed.

        To be called in the server's event loop. It lets others go on after every file, and nothing else happens
        between the look whether a clip is needed and its removal.
        """
        removed = []
        async for path in _one_by_one((*self._due_videos(), *self._due_work())):
            await asyncio.to_thread(_remove, path)
            removed.append(path)
        async for path in _one_by_one(_entries(self._state.clips)):
            if _CLIP.fullmatch(path.name) and self._is_old(path) and not self._is_needed(path.name):
                path.unlink(missing_ok=True)
                removed.append(path)
        return removed

    def _due_videos(self) -> Iterator[Path]:
        for path in _entries(self._state.videos):
            job = self._store.get(path.name)
            if (job is None and self._is_old(path)) or (job is not None and self._is_due(job)):
                yield path

    def _due_work(self) -> Iterator[Path]:
        for path in sorted(self._state.work.iterdir()):
            job = self._store.get(path.name.removeprefix(".").partition(".")[0])
            if (job is None or job.ended) and self._is_old(path):
                yield path

    def _is_needed(self, clip: str) -> bool:
        if any(model.clip_sha256 == clip for model in self._catalog.known.values()):
            return True
        return self._store.needs(clip, since=self._clock() - self._keep_s if self._keep_s else None)

    def _is_due(self, job: Job) -> bool:
        ended = job.completed_at
        return bool(self._keep_s) and ended is not None and ended < self._clock() - self._keep_s

    def _is_old(self, path: Path) -> bool:
        try:
            return path.stat().st_mtime < self._clock() - NEW_S
        except OSError:  # gone meanwhile
            return False


async def _one_by_one(paths: Iterable[Path]) -> AsyncIterator[Path]:
    for path in paths:
        await asyncio.sleep(0)
        yield path


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
