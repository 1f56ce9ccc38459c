"""Limits of connections that uvicorn does not have: how long a request's head may take."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def protocol_with_head_timeout(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, with connections closed whose request's head has not come after so many seconds.

    Args:
        seconds: from the connection, or from the end of the last answer if something of a new head has come.
    """

    class HeadTimeoutProtocol(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_came()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._head_timer is None and self._between_requests():
                self._wait_for_head()
            super().data_received(data)
            if not self._between_requests():
                self._head_came()

        def _between_requests(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _wait_for_head(self) -> None:
            self._head_timer = self.loop.call_later(seconds, self._give_up)

        def _head_came(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _give_up(self) -> None:
            self._head_timer = None
            if self._between_requests() and not self.transport.is_closing():
                self.transport.close()

    return HeadTimeoutProtocol
