"""Tells listeners of new events; a listener that does not read is let go, and harms nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from tav_sdk.server.jobs import Event


class Hub:
    """Who listens to which events. Everything happens in one event loop.

    A listener is woken by an event and reads the store itself, from where it was: nothing is lost when it is slow.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, set[asyncio.Event]] = {}
        self._owners: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def of_job(self, job_id: str) -> Iterator[asyncio.Event]:
        """What is set whenever the job has a new event, or is deleted."""
        with _listening(self._jobs, job_id) as bell:
            yield bell

    @contextmanager
    def of_owner(self, owner: str) -> Iterator[asyncio.Event]:
        """What is set whenever one of the owner's jobs has a new event."""
        with _listening(self._owners, owner) as bell:
            yield bell

    def ring(self, event: Event) -> None:
        """An event is on disk."""
        self.ring_job(event.job)
        for bell in self._owners.get(event.owner, ()):
            bell.set()

    def ring_job(self, job_id: str) -> None:
        """A job has changed, or is gone."""
        for bell in self._jobs.get(job_id, ()):
            bell.set()

    def ring_all(self) -> None:
        """The server ends: all streams look up."""
        for listeners in (*self._jobs.values(), *self._owners.values()):
            for bell in listeners:
                bell.set()

    @property
    def num_listeners(self) -> int:
        """How many listen."""
        return sum(len(listeners) for listeners in (*self._jobs.values(), *self._owners.values()))


@contextmanager
def _listening(listeners: dict[str, set[asyncio.Event]], name: str) -> Iterator[asyncio.Event]:
    bell = asyncio.Event()
    listeners.setdefault(name, set()).add(bell)
    try:
        yield bell
    finally:
        listeners[name].discard(bell)
        if not listeners[name]:
            del listeners[name]
