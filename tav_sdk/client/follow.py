"""A job as it goes on: by its events, or by asking where there is no stream."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TYPE_CHECKING

from tav_sdk.client.event_stream import OUTAGE_S, NoStreamError, events
from tav_sdk.client.objects import Tuning, Video, path_of, read_job
from tav_sdk.errors import ServerError

if TYPE_CHECKING:
    from tav_sdk.client.connection import Connection

POLL_S, SHORTEST_POLL_S, LONGEST_POLL_S = 1.0, 0.1, 10.0
POLL_AFTER = "openai-poll-after-ms"
"""The header by which a server says when to ask again."""


def follow(
    connection: Connection, job_id: str, *, timeout: float | None = None
) -> Generator[Video | Tuning, None, None]:
    """A job as it is now, and each time that it changed, until it has ended.

    Args:
        connection: to the server.
        job_id: the job.
        timeout: how long to follow it, in seconds.

    Raises:
        ServerError: there is no such job, it was deleted, or ``code="wait_timeout"``: the time is over; the job goes
            on.
        ServerUnreachableError: the server is away for :data:`~.event_stream.OUTAGE_S`.
    """
    end = None if timeout is None else time.monotonic() + timeout
    now = read_job(connection.ask("GET", path_of(job_id)))
    yield now
    if now.ended:
        return
    begins, caught_up = _place(now), False
    try:
        for event in events(connection, f"{path_of(job_id)}/events", after=None, known=True):
            if event is not None and event.job.ended:
                yield event.job
                return
            if event is not None:
                # The stream begins with the job's first event: what was over before is left out.
                caught_up = caught_up or _place(event.job) >= begins
                if caught_up and event.job != now:
                    now = event.job
                    yield now
            _check_time(end, job_id, timeout)
    except NoStreamError:
        yield from _asking(connection, job_id, end, timeout)


def _asking(
    connection: Connection, job_id: str, end: float | None, timeout: float | None
) -> Generator[Video | Tuning, None, None]:
    while True:
        values, headers = connection.answer("GET", path_of(job_id), patience_s=OUTAGE_S)
        now = read_job(values)
        yield now
        if now.ended:
            return
        _check_time(end, job_id, timeout)
        text = headers.get(POLL_AFTER, "")
        wait = int(text) / 1000 if text.isascii() and text.isdecimal() and len(text) < 10 else POLL_S
        connection.sleep(min(max(wait, SHORTEST_POLL_S), LONGEST_POLL_S))


def _place(job: Video | Tuning) -> tuple[int, int]:
    return job.attempts, job.progress


def _check_time(end: float | None, job_id: str, timeout: float | None) -> None:
    if end is not None and time.monotonic() > end:
        raise ServerError(
            f"{job_id} has not ended within {timeout:g} s; it goes on, wait again or cancel it", code="wait_timeout"
        )
