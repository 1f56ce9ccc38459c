"""Events as server-sent events: from the store, from wherever a listener was (section 6 of the contract)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from tav_sdk.server.hub import Hub
from tav_sdk.server.jobs import Event
from tav_sdk.server.store import JobStore

RETRY = b"retry: 2000\n\n"
"""How long a browser waits before it comes back, in ms."""
COMMENT = b": still here\n\n"


async def job_stream(
    store: JobStore, hub: Hub, job_id: str, *, after: int, stopping: Callable[[], bool], quiet_s: float
) -> AsyncIterator[bytes]:
    """A job's events after the one with ``id == after``; ends with the job, its deletion, or the server."""
    yield RETRY
    with hub.of_job(job_id) as bell:
        while True:
            bell.clear()
            for event in store.events(job_id, after=after):
                after = event.k
                yield _lines(event, event.k)
            job = store.get(job_id)
            if job is None or stopping() or (job.ended and not store.events(job_id, after=after, limit=1)):
                return
            async for comment in _until(bell, quiet_s):
                yield comment


async def owner_stream(
    store: JobStore,
    hub: Hub,
    owner: str,
    *,
    after: int,
    stopping: Callable[[], bool],
    quiet_s: float,
) -> AsyncIterator[bytes]:
    """The events of all of an owner's jobs, after the one with ``id == after``; ends with the server."""
    yield RETRY
    with hub.of_owner(owner) as bell:
        while not stopping():
            bell.clear()
            for event in store.events_of(owner, after=after):
                after = event.n
                yield _lines(event, event.n)
            async for comment in _until(bell, quiet_s):
                yield comment


async def _until(bell: asyncio.Event, quiet_s: float) -> AsyncIterator[bytes]:
    """Wait for the bell; a comment each time it is quiet for long."""
    while not bell.is_set():
        try:
            await asyncio.wait_for(bell.wait(), quiet_s)
        except asyncio.TimeoutError:
            yield COMMENT


def _lines(event: Event, number: int) -> bytes:
    data: Any = json.dumps(event.data, ensure_ascii=False, separators=(",", ":"))
    return f"id: {number}\nevent: {event.type}\ndata: {data}\n\n".encode()
