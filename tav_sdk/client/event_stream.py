"""Server-sent events: their text, and a stream that goes on where it broke off."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tav_sdk.client.objects import Event, read_job
from tav_sdk.errors import ServerError, ServerUnreachableError

if TYPE_CHECKING:
    from tav_sdk.client.connection import Connection

QUIET_S = 45.0
"""A stream that is silent for so long is dead: a server sends a comment every 15 seconds."""
OUTAGE_S = 300.0
"""So long a server may be away while a job is followed, as for a restart."""
RETRY_S = 2.0
"""Pause before a stream is opened again, unless the server names another."""
BARREN = 3
"""Connections in a row that end without an event; then something between us and the server cannot stream."""
LARGEST_EVENT = 16 << 20
"""In bytes."""
ALL = "/v1/events"
"""The stream of all own jobs, which has no end."""


class NoStreamError(ServerError):
    """The server, or what stands before it, gives no stream of events; asking for the job works."""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """An event as it was sent; ``retry`` in milliseconds."""

    id: str = ""
    event: str = ""
    data: str = ""
    retry: int | None = None


def parsed(chunks: Iterable[bytes]) -> Iterator[Sent | None]:
    """The events of a stream's bytes; ``None`` after each bit, so that a caller can look at the clock.

    Raises:
        NoStreamError: an event is larger than any is.
    """
    rest, fields = b"", dict[str, list[str]]()
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")  # not splitlines: prompts may have separators of their own
        if len(rest) > LARGEST_EVENT:
            raise NoStreamError("the server sent an event without end; check that tav serve is at this address")
        for line in lines:
            text = line.removesuffix(b"\r").decode("utf-8", "replace")
            if text:
                name, _, value = text.partition(":")
                fields.setdefault(name, []).append(value.removeprefix(" "))
            elif fields:
                retry = fields.get("retry", [""])[-1]
                yield Sent(
                    id=fields.get("id", [""])[-1],
                    event=fields.get("event", [""])[-1],
                    data="\n".join(fields.get("data", [])),
                    retry=int(retry) if retry.isascii() and retry.isdecimal() and len(retry) < 10 else None,
                )
                fields = {}
        yield None


def events(
    connection: Connection, path: str, *, after: int | None, known: bool = False
) -> Generator[Event | None, None, None]:
    """Events, with ``None`` now and then; of a job until it has ended, of ``/v1/events`` without end.

    A stream that breaks is opened again behind the last event, so that none is missed and none comes twice.

    Args:
        connection: to the server.
        path: of the stream.
        after: ``id`` of the last event that is known.
        known: whether the server has just answered, so that an outage is waited for from the start.

    Raises:
        NoStreamError: there is no stream.
        ServerError: the job is not there, or was deleted meanwhile.
        ServerUnreachableError: the server is away for :data:`OUTAGE_S`.
    """
    pause, count, barren, seen = RETRY_S, 0, 0, time.monotonic()
    while True:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if after is not None:
            headers["Last-Event-ID"] = str(after)
        silent, wait = True, pause
        try:
            with connection.stream(path, headers=headers, pause_s=QUIET_S) as response:
                if response.headers.get("content-type", "").partition(";")[0].strip() != "text/event-stream":
                    raise NoStreamError(f"{connection.url} gives no stream of events; ask for the job instead")
                for sent in parsed(response.iter_bytes()):
                    known, silent, count, seen = True, False, 0, time.monotonic()
                    if sent is None:
                        yield None
                        continue
                    pause = pause if sent.retry is None else sent.retry / 1000
                    if sent.data:
                        event = _event(sent)
                        after, barren = event.id, 0
                        yield event
                        if event.job.ended and path != ALL:
                            return
            barren, wait = barren + 1, pause  # it was closed: the server stops, or the job is gone, which it will say
        except ServerUnreachableError as error:
            if silent and _is_timeout(error):  # a proxy holds the events back
                raise NoStreamError(f"{connection.url} opened a stream and sent nothing; ask for the job") from error
            wait = _wait(connection, error, count, pause, known=known, seen=seen)
            count += 1
        except ServerError as error:
            if isinstance(error, NoStreamError):
                raise
            if error.code == "not_found" or error.status in (405, 406):
                raise NoStreamError(f"{connection.url} gives no stream of events; ask for the job instead") from error
            wait = _wait(connection, error, count, pause, known=known, seen=seen)
            count += 1
        if barren >= BARREN:
            raise NoStreamError(f"{connection.url} closes its streams early; ask for the job instead")
        yield None
        connection.sleep(wait)


def _event(sent: Sent) -> Event:
    try:
        values = json.loads(sent.data)
        number = int(sent.id)
    except (ValueError, RecursionError) as error:
        raise NoStreamError("the server sent an event that cannot be read; ask for the job instead") from error
    job = read_job(values)
    reason = values.get("reason")
    return Event(id=number, type=sent.event, job=job, reason=reason if isinstance(reason, str) else None)


def _is_timeout(error: BaseException) -> bool:
    return type(error.__cause__).__name__ == "ReadTimeout"


def _wait(connection: Connection, error: ServerError, count: int, pause: float, *, known: bool, seen: float) -> float:
    """Seconds until a stream is opened again.

    Raises:
        ServerError: the error itself: it does not pass, or has lasted too long.
    """
    wait = connection.pause(error, count)
    over = time.monotonic() - seen > OUTAGE_S if known else count >= connection.retries
    if wait is None or over:
        raise error
    return max(wait, pause) if known else wait
