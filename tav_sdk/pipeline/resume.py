"""Latents of a long inversion or sampling that is not finished, kept on disk, so that a killed one goes on.

    unfinished = Unfinished(facts)
    done, latents = unfinished.find() or (0, latents)
    ddim_sample(..., latents, done=done, callback=unfinished.keeping(callback))
    unfinished.finish()

They lie in the user's own cache, see :mod:`tav_sdk.cache.store`; ``TAV_CACHE_SIZE_UNFINISHED=0`` keeps nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tav_sdk.array_file import read_array
from tav_sdk.cache.entry import cache_key
from tav_sdk.cache.store import Cache
from tav_sdk.errors import TavError
from tav_sdk.progress import Callback, Stage, StepProgress, report
from tav_sdk.words import logger

SECONDS = 10.0
"""Least time in seconds between two times that latents are kept."""
MAX_LATENTS_BYTES = 1 << 36
"""Most bytes of one array of latents that is read back; those of 10,000 frames of 512x512 have 655 MB."""
_LATENTS, _DONE = "latents.npy", "done.npy"
_HARMLESS = (TavError, OSError, ValueError, EOFError)

_log = logger(__name__)


class Unfinished:
    """The latents of one loop, after the last step at which they were kept.

    Like :class:`~tav_sdk.pipeline.inversion_cache.InversionCache` it never fails an edit: what is wrong is logged as a
    warning.

    Args:
        facts: all that the loop's result depends on; plain JSON values.
        cache: where to keep it; by default ``Cache("unfinished")``.
    """

    def __init__(self, facts: Mapping[str, Any], cache: Cache | None = None) -> None:
        self._facts = dict(facts)
        # Two entries in turn, since an entry is not changed once it is written.
        self._keys = [cache_key({**self._facts, "turn": turn}) for turn in (0, 1)]
        self._turn = 0
        self._kept = time.monotonic()
        try:
            cache = Cache("unfinished") if cache is None else cache
        except _HARMLESS as error:
            _log.warning("if this edit is interrupted, it will have to start over: %s", error)
        self._cache = cache if cache is not None and cache.max_bytes > 0 else None

    def find(self) -> tuple[int, np.ndarray] | None:
        """Steps that are done, and the latents after them ``(1, c, f, h, w)`` float32; or ``None``."""
        found = [entry for turn in (0, 1) if (entry := self._read(turn)) is not None]
        if not found:
            return None
        done, turn, latents = max(found, key=lambda entry: entry[0])
        self._turn = 1 - turn
        return done, latents

    def keeping(self, callback: Callback | None) -> Callback:
        """A callback that keeps the latents of steps every now and then, and then calls ``callback``."""

        def keep(step: StepProgress) -> bool | None:
            if (
                step.latents is not None
                and step.part is None
                and step.step < step.total
                and time.monotonic() - self._kept >= SECONDS
            ):
                self._keep(step.step, step.latents)
            return None if callback is None else callback(step)

        return keep

    def finish(self) -> None:
        """Remove what was kept: the loop's result is there."""
        for key in self._keys:
            self._remove(key)

    def _read(self, turn: int) -> tuple[int, int, np.ndarray] | None:
        if self._cache is None:
            return None
        try:
            folder = self._cache.get(self._keys[turn])
            if folder is None:
                return None
            try:
                latents = read_array(folder / _LATENTS, dtype="float32", axes=5, max_bytes=MAX_LATENTS_BYTES)
                done = read_array(folder / _DONE, dtype="int64", axes=0, max_bytes=8)
                return int(done), turn, latents
            finally:
                self._cache.release(self._keys[turn])
        except _HARMLESS as error:
            _log.warning("the interrupted edit cannot be resumed, so it starts over: %s", error)
            return None

    def _keep(self, done: int, latents: np.ndarray) -> None:
        def make(folder: Path) -> None:
            np.save(folder / _LATENTS, latents, allow_pickle=False)
            np.save(folder / _DONE, np.asarray(done, np.int64), allow_pickle=False)

        if self._cache is None:
            return
        key, former = self._keys[self._turn], self._keys[1 - self._turn]
        try:
            self._cache.get_or_make(key, make, facts={**self._facts, "turn": self._turn})
            self._cache.release(key)
        except _HARMLESS as error:
            _log.warning("if this edit is interrupted, it will have to start over: %s", error)
            self._cache = None
            return
        self._remove(former)
        self._turn = 1 - self._turn
        self._kept = time.monotonic()

    def _remove(self, key: str) -> None:
        if self._cache is not None:
            with contextlib.suppress(*_HARMLESS):
                self._cache.remove(key)


@contextlib.contextmanager
def resumed(
    facts: Mapping[str, Any] | None, latents: np.ndarray, callback: Callback | None, stage: Stage, total: int
) -> Iterator[tuple[int, np.ndarray, Callback | None]]:
    """A loop that goes on where an interrupted one stopped.

    Args:
        facts: all that its result depends on; ``None``: nothing is kept, and it starts from its beginning.
        latents: ``(1, c, f, h, w)`` float32, where it starts.
        callback: the caller's.
        stage: of the loop.
        total: its steps.

    Yields:
        Its steps that are done, the latents after them, and the callback for it, which keeps them.
    """
    if facts is None:
        yield 0, latents, callback
        return
    unfinished = Unfinished(facts)
    done, start = unfinished.find() or (0, latents)
    if not 0 <= done < total or start.shape != latents.shape:
        _log.warning("the interrupted edit cannot be resumed, so it starts over: what was kept of it is damaged")
        done, start = 0, latents
    if done:
        report(callback, StepProgress(stage, done, total, resumed="interrupted"))
    yield done, start, unfinished.keeping(callback)
    unfinished.finish()
