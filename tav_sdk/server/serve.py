"""A whole server: its parts put together, started, and stopped by signals."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from tav_sdk.errors import InputError
from tav_sdk.server.access import Access
from tav_sdk.server.assembly import assemble
from tav_sdk.server.connections import limited_protocol
from tav_sdk.server.devices import count_cores, count_gpus, worker_environment
from tav_sdk.server.logs import log_event, set_up_logs
from tav_sdk.server.protocol import Word
from tav_sdk.server.settings import ServerSettings
from tav_sdk.server.state import State
from tav_sdk.server.telemetry import telemetry
from tav_sdk.server.worker_process import WorkerProcess
from tav_sdk.words import logger

_log = logger(__name__)

Started = Callable[[str, Sequence[Mapping[str, Any]], bool], None]
MAX_HEAD_BYTES = 64 << 10
BACKLOG = 2048
"""Connections that may wait to be taken."""


def tuning_is_installed() -> bool:
    """Whether what tunings need can be imported."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "diffusers", "transformers", "onnx"))


def uvicorn_config(app: ASGIApp, settings: ServerSettings) -> uvicorn.Config:
    """How uvicorn serves: with the contract's limits of connections, and without what it would say of itself."""
    return uvicorn.Config(
        app,
        http=limited_protocol(head_timeout_s=settings.head_timeout_s, max_connections=settings.max_connections),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=max(1, int(settings.keep_alive_s)),
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )


class Server:
    """One server in this process, until :meth:`run` ends.

    Args:
        settings: checked options.
        started: called when requests are taken, with the address, the models as they are listed, and whether tunings
            are taken.

    Raises:
        TavError: the state folder, the tokens or the port cannot be had.
    """

    def __init__(self, settings: ServerSettings, *, started: Started = lambda url, models, takes_tunings: None) -> None:
        self.settings, self._started = settings, started
        access = Access(settings)
        self._state = State(settings.state)
        try:
            self._socket = _listening(settings.host, settings.port)
        except BaseException:
            self._state.close()
            raise
        self._access = access
        self._stop: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._socket.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; jobs that run then have :attr:`ServerSettings.drain_s`."""
        try:
            asyncio.run(self._serve())
        finally:
            self._socket.close()
            self._state.close()

    async def _serve(self) -> None:
        settings = self.settings
        loop = asyncio.get_running_loop()
        set_up_logs(settings.log_format)
        traces = telemetry()

        def hire(index: int, *, heard: Callable[[Any, Word], None], ended: Callable[[Any, int], None]) -> WorkerProcess:
            return WorkerProcess(
                index,
                engine=settings.engine,
                max_bases=settings.max_bases,
                heard=heard,
                ended=ended,
                log_format=settings.log_format,
                environment=worker_environment(
                    index,
                    workers=settings.workers,
                    engine=settings.engine,
                    environ=os.environ,
                    num_gpus=count_gpus(),
                    cores=count_cores(),
                ),
            )

        service, app = assemble(
            settings,
            self._state,
            self._access,
            hire,
            can_tune=tuning_is_installed(),
            started=lambda models: self._started(self.url, models, service.can_tune),
            heard=[log_event] if traces is None else [log_event, traces.happened],
        )
        dispatcher = service.dispatcher
        server = uvicorn.Server(uvicorn_config(app if traces is None else traces.around(app), settings))
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        signals: list[int] = []
        stopping = asyncio.Event()

        def stop(number: int) -> None:
            signals.append(number)
            stopping.set()
            if len(signals) > 1:  # a second one ends at once
                for slot in dispatcher.slots:
                    if slot.worker is not None:
                        slot.worker.kill()
                server.force_exit = server.should_exit = True

        with _handling(loop, stop):
            serving = asyncio.create_task(server._serve(sockets=[self._socket]))
            waiting = asyncio.create_task(stopping.wait())
            await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
            service.stopping = True
            if len(signals) < 2:
                draining = asyncio.create_task(dispatcher.stop(settings.drain_s))
                while not draining.done() and len(signals) < 2:
                    await asyncio.wait({draining}, timeout=0.1)
                draining.cancel()
            service.end_streams()
            server.should_exit = True
            waiting.cancel()
            await serving
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
        if len(signals) > 1:
            await dispatcher.stop(0)
        service.store.close()
        if traces is not None:
            await asyncio.to_thread(traces.close)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is named; with it an answer takes 40 ms more.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)  # from now on clients wait instead of being refused
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise InputError(f"{host}:{port} cannot be listened to: {reason}; choose another port with --port") from error
    listener.setblocking(False)
    return listener


@contextlib.contextmanager
def _handling(loop: asyncio.AbstractEventLoop, stop: Callable[[int], None]) -> Any:
    numbers = [signal.SIGINT, signal.SIGTERM]
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        try:
            loop.add_signal_handler(number, stop, number)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda got, _: loop.call_soon_threadsafe(stop, got))
    try:
        yield
    finally:
        for number, handler in former.items():
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, handler)
