"""The parts of a server put together, all but the socket and the signals."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp

from tav_sdk.server.access import Access
from tav_sdk.server.app import create_app
from tav_sdk.server.catalog import Catalog
from tav_sdk.server.dispatcher import Dispatcher, Hire
from tav_sdk.server.estimates import Estimates
from tav_sdk.server.hub import Hub
from tav_sdk.server.jobs import Event, Job
from tav_sdk.server.metrics import Metrics
from tav_sdk.server.places import FilePlaces
from tav_sdk.server.retention import Retention
from tav_sdk.server.service import Service
from tav_sdk.server.settings import ServerSettings
from tav_sdk.server.state import State
from tav_sdk.server.store import JobStore
from tav_sdk.server.uploads import Uploads
from tav_sdk.server.views import view
from tav_sdk.words import logger

_log = logger(__name__)

SWEEP_S = 600.0
LOOK_S = 4.0
"""How often the folder of bundles is looked at while nobody asks."""


def assemble(
    settings: ServerSettings,
    state: State,
    access: Access,
    hire: Hire,
    *,
    can_tune: bool,
    started: Callable[[list[dict[str, Any]]], None] = lambda models: None,
    heard: Sequence[Callable[[Event], None]] = (),
) -> tuple[Service, ASGIApp]:
    """A service and its application; call it in the event loop that they are to live in.

    Args:
        settings: of the server.
        state: its folder, locked.
        access: who may call.
        hire: starts a worker.
        can_tune: whether the extras for tunings are installed.
        started: called when the application is, with the models as they are listed.
        heard: called with every event of a job, while the store is locked; they must be quick.
    """
    loop, in_loop = asyncio.get_running_loop(), threading.get_ident()
    hub, metrics, estimates = Hub(), Metrics(), Estimates(settings.workers)
    catalog, uploads = Catalog(settings), Uploads(settings.state)
    uploads.sweep()

    def published(event: Event) -> None:
        for one in heard:
            one(event)
        if threading.get_ident() == in_loop:
            hub.ring(event)
        else:
            loop.call_soon_threadsafe(hub.ring, event)

    def shown(job: Job, position: int | None) -> dict[str, Any]:
        return view(job, position, estimate=lambda one: estimates.seconds(one, store), keep_days=settings.keep_days)

    store = JobStore(state.database, view=shown, published=published)
    metrics.listeners.append(estimates.stepped)
    dispatcher = Dispatcher(store, settings, FilePlaces(state, catalog), hire, metrics)
    service = Service(
        settings,
        state=state,
        store=store,
        catalog=catalog,
        uploads=uploads,
        dispatcher=dispatcher,
        hub=hub,
        metrics=metrics,
        can_tune=can_tune,
    )

    retention = Retention(state, store, catalog, keep_days=settings.keep_days)

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
        started(models)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    app = create_app(service, access, view=lambda job: shown(job, store.queue_position(job)), lifespan=lifespan)
    return service, app


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
