"""The socket that a server listens on."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tav_sdk.errors import InputError
from tav_sdk.server.serve import _listening


def test_answers_are_sent_at_once():
    """Nagle's algorithm holds an answer's body back until the client has acknowledged its head, 40 ms later."""

    async def option_of_a_connection() -> int:
        made: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport):
                accepted = transport.get_extra_info("socket")
                made.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                transport.close()

        listener = _listening("127.0.0.1", 0)
        server = await asyncio.get_running_loop().create_server(Protocol, sock=listener)
        _, writer = await asyncio.open_connection(*listener.getsockname())
        option = await asyncio.wait_for(made, 10)
        writer.close()
        server.close()
        return option

    assert asyncio.run(option_of_a_connection()) != 0


def test_a_port_that_is_taken_is_refused():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=rf"127.0.0.1:{port} cannot be listened to: .*; choose another port with"):
            _listening("127.0.0.1", port)
