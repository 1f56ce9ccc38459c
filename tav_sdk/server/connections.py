"""Limits of connections that uvicorn does not have: how long a head may take, and how many there may be at once."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from tav_sdk.server.problems import ProblemError

PIECE = 1 << 10
"""Bytes of a head that are looked at at once."""
LINGER_S = 1.0
"""A refused connection is read so long after its answer: closed at once, its client might never see the answer."""


def limited_protocol(*, head_timeout_s: float, max_connections: int) -> type[H11Protocol]:
    """uvicorn's protocol with more limits, and with its own errors in the contract's shape.

    Args:
        head_timeout_s: seconds from the connection, or from the first byte of a later head, until all of the head
            must have come; the connection is closed then.
        max_connections: requests of connections beyond so many are answered with 503.
    """

    class LimitedProtocol(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None
        _refused = False

        @property
        def app(self) -> ASGIApp:
            return _busy if len(self.connections) > max_connections else self._app

        @app.setter
        def app(self, app: ASGIApp) -> None:
            self._app = app

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_came()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._head_timer is None and self._between_requests():
                self._wait_for_head()
            while data and not self._refused:
                # h11 counts a head's bytes only while the head is not whole: it has to come in small pieces.
                most = PIECE if self._between_requests() else len(data)
                piece, data = data[:most], data[most:]
                super().data_received(piece)
            if not self._between_requests():
                self._head_came()

        def send_400_response(self, msg: str) -> None:
            """Answer what is no HTTP; called where h11's error is being handled."""
            self._refused = True
            self._head_came()
            if self.cycle is not None and not self.cycle.response_started:  # the body broke off: nobody reads the rest
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            unanswered = self._between_requests() or (self.cycle is not None and not self.cycle.response_started)
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and unanswered:
                status = getattr(sys.exc_info()[1], "error_status_hint", 400)
                self.transport.write(_refusal(status))
                if self.transport.can_write_eof():
                    self.transport.write_eof()
                self.loop.call_later(LINGER_S, self.transport.close)
            else:  # an answer is under way
                self.transport.close()

        def _between_requests(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _wait_for_head(self) -> None:
            self._head_timer = self.loop.call_later(head_timeout_s, self._give_up)

        def _head_came(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _give_up(self) -> None:
            self._head_timer = None
            if self._between_requests() and not self.transport.is_closing():
                self.transport.close()

    return LimitedProtocol


async def _busy(scope: Scope, receive: Receive, send: Send) -> None:
    problem = ProblemError(503, "too_many_connections", "the server has too many connections; try again later")
    body = json.dumps(problem.body).encode()
    headers = [*_headers(body), (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _refusal(status: int) -> bytes:
    """The whole answer to a head that cannot be read."""
    problem = ProblemError(status, "invalid_request", "this is no request of HTTP/1.1")
    if status == 431:
        problem = ProblemError(status, "head_too_large", "the head of a request must have at most 64 KiB")
    body = json.dumps(problem.body).encode()
    connection = h11.Connection(h11.SERVER)
    parts = (
        h11.Response(status_code=status, headers=_headers(body)),
        h11.Data(data=body),
        h11.EndOfMessage(),
    )
    return b"".join(connection.send(part) or b"" for part in parts)


def _headers(body: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-length", str(len(body)).encode()),
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"connection", b"close"),
    ]
