"""A whole server: its parts put together, started, and stopped by signals."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from tav_sdk.errors import InputError
from tav_sdk.server.access import Access
from tav_sdk.server.app import create_app
from tav_sdk.server.catalog import Catalog
from tav_sdk.server.connections import protocol_with_head_timeout
from tav_sdk.server.devices import count_cores, count_gpus, worker_environment
from tav_sdk.server.dispatcher import Dispatcher
from tav_sdk.server.estimates import Estimates
from tav_sdk.server.hub import Hub
from tav_sdk.server.jobs import Event, Job
from tav_sdk.server.logs import log_event, set_up_logs
from tav_sdk.server.metrics import Metrics
from tav_sdk.server.places import FilePlaces
from tav_sdk.server.protocol import Progressed, Word
from tav_sdk.server.retention import Retention
from tav_sdk.server.service import Service
from tav_sdk.server.settings import ServerSettings
from tav_sdk.server.state import State
from tav_sdk.server.store import JobStore
from tav_sdk.server.telemetry import telemetry
from tav_sdk.server.uploads import Uploads
from tav_sdk.server.views import view
from tav_sdk.server.worker_process import WorkerProcess

_log = logging.getLogger(__name__)

Started = Callable[[str, Sequence[Mapping[str, Any]], bool], None]
MAX_HEAD_BYTES = 64 << 10
SWEEP_S = 600.0
LOOK_S = 4.0
"""How often the folder of bundles is looked at while nobody asks."""


def tuning_is_installed() -> bool:
    """Whether what tunings need can be imported."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "diffusers", "transformers", "onnx"))


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
        hub, metrics, estimates = Hub(), Metrics(), Estimates(settings.workers)
        catalog, uploads = Catalog(settings), Uploads(settings.state)
        uploads.sweep()
        in_loop = threading.get_ident()

        traces = telemetry()

        def published(event: Event) -> None:
            log_event(event)
            if traces is not None:
                traces.happened(event)
            if threading.get_ident() == in_loop:
                hub.ring(event)
            else:
                loop.call_soon_threadsafe(hub.ring, event)

        def shown(job: Job, position: int | None) -> dict[str, Any]:
            return view(job, position, estimate=lambda one: estimates.seconds(one, store), keep_days=settings.keep_days)

        store = JobStore(self._state.database, view=shown, published=published)

        def stepped(job: Job, word: Progressed) -> None:
            Metrics.stepped(metrics, job, word)
            estimates.stepped(job, word)

        metrics.stepped = stepped  # type: ignore[method-assign]

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

        can_tune = tuning_is_installed()
        dispatcher = Dispatcher(store, settings, FilePlaces(self._state, catalog), hire, metrics)
        service = Service(
            settings,
            state=self._state,
            store=store,
            catalog=catalog,
            uploads=uploads,
            dispatcher=dispatcher,
            hub=hub,
            metrics=metrics,
            can_tune=can_tune,
        )

        retention = Retention(self._state, store, catalog, keep_days=settings.keep_days)

        @asynccontextmanager
        async def lifespan(_: object) -> AsyncIterator[None]:
            models = [model.to_dict() for model in await catalog.models()]
            if settings.default_model is not None and settings.default_model not in catalog.known:
                _log.warning("there is no model %r yet, the default of requests that name none", settings.default_model)
            dispatcher.start()
            tasks = [
                asyncio.create_task(_every(LOOK_S, catalog.models)),
                asyncio.create_task(_sweeping(service, retention)),
            ]
            self._started(self.url, models, service.can_tune)
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

        app = create_app(
            service, self._access, view=lambda job: shown(job, store.queue_position(job)), lifespan=lifespan
        )
        config = uvicorn.Config(
            app if traces is None else traces.around(app),
            http=protocol_with_head_timeout(settings.head_timeout_s),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            proxy_headers=False,
            limit_concurrency=settings.max_connections,
            timeout_keep_alive=int(settings.keep_alive_s),
            timeout_graceful_shutdown=5,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
        server = uvicorn.Server(config)
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
            hub.ring_all()
            server.should_exit = True
            waiting.cancel()
            await serving
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
        if len(signals) > 1:
            await dispatcher.stop(0)
        store.close()
        if traces is not None:
            await asyncio.to_thread(traces.close)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
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


async def _every(seconds: float, called: Callable[[], Any]) -> None:
    while True:
        await asyncio.sleep(seconds)
        await called()


async def _sweeping(service: Service, retention: Retention) -> None:
    while True:
        try:
            for path in await retention.sweep():
                _log.info("removed %s/%s", path.parent.name, path.name)
        except OSError:
            _log.exception("what is due could not be removed")
        sizes = await asyncio.to_thread(service.state.sizes)
        for kind, size in sizes.items():
            service.metrics.storage.labels(kind).set(size)
        await asyncio.sleep(SWEEP_S)
