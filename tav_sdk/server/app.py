"""The HTTP API: routes, errors and access around the service (the contract's sections 1 to 9)."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal, cast

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tav_sdk.server import streams
from tav_sdk.server.access import Access, RateLimit, cors_headers
from tav_sdk.server.bodies import Body, ClientGoneError, read_body
from tav_sdk.server.headers import idempotency_key, request_id
from tav_sdk.server.jobs import Job
from tav_sdk.server.logs import REQUEST_ID, job_id_of
from tav_sdk.server.metrics import CONTENT_TYPE
from tav_sdk.server.openapi import document
from tav_sdk.server.problems import ProblemError, storage_full
from tav_sdk.server.service import Created, Service
from tav_sdk.server.store import StorageFullError
from tav_sdk.server.videos import SHEET, SPRITESHEET, THUMBNAIL, VIDEO
from tav_sdk.server.views import event_view, page
from tav_sdk.words import logger

_log = logger(__name__)

PAGE = Path(__file__).with_name("page")
POLL_LEAST_MS, POLL_MOST_MS = 250, 5000
VARIANTS = {
    "video": (VIDEO, "video/mp4", "mp4"),
    "thumbnail": (THUMBNAIL, "image/webp", "webp"),
    "spritesheet": (SPRITESHEET, "image/webp", "webp"),
    "sheet": (SHEET, "image/png", "png"),
}
"""What ``content`` gives: the file, its type and its suffix."""
_RANGE = re.compile(r"bytes=(?=[0-9]|-[0-9])([0-9]{0,18})-([0-9]{0,18})")
"""One range; of several, which no player asks for, the whole file is sent."""
PAGE_POLICY = "default-src 'self'; media-src 'self' blob:; img-src 'self' blob:"
METHODS = {"GET", "POST", "DELETE", "OPTIONS", "HEAD", "PUT", "PATCH"}
"""Methods that metrics tell apart; a client may make up any number of others."""
OPEN = {"/healthz", "/readyz", "/"}
"""Paths that need no token; the page's files as well."""


def create_app(
    service: Service, access: Access, *, view: Callable[[Job], dict[str, Any]], lifespan: Any = None
) -> ASGIApp:
    """The application.

    Args:
        service: what it does.
        access: who may.
        view: a job as clients see it.
        lifespan: what starts and ends with it.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan, redirect_slashes=False)
    settings, store = service.settings, service.store
    rate = RateLimit(settings.rate)

    def owner_of(request: Request) -> str:
        return cast(str, request.scope["tav.owner"])

    async def body_of(request: Request) -> Body:
        rate.count(owner_of(request))
        service.check_can_take()
        body = await read_body(
            request.scope["headers"],
            request.receive,
            folder=service.uploads.incoming,
            max_bytes=settings.max_upload_bytes,
            pause_s=settings.body_timeout_s,
        )
        if body.file is not None:
            service.metrics.uploads.inc(body.file.size)
        return body

    def created(made: Created) -> JSONResponse:
        return JSONResponse(view(made.job), headers={"Idempotent-Replay": "true"} if made.replayed else None)

    def shown(job: Job) -> JSONResponse:
        seen = view(job)
        headers = None
        if not job.ended:
            eta = seen["eta_s"]
            wait = POLL_LEAST_MS * 4 if eta is None else int(eta * 100)
            headers = {"openai-poll-after-ms": str(max(POLL_LEAST_MS, min(POLL_MOST_MS, wait)))}
        return JSONResponse(seen, headers=headers)

    # --- videos ---------------------------------------------------------------------------------------------------

    @app.post("/v1/videos")
    async def create_video(request: Request) -> Response:
        body = await body_of(request)
        key = idempotency_key(request.scope["headers"])
        return created(await service.create_video(body, owner=owner_of(request), key=key, operation="create"))

    @app.post("/v1/videos/edits")
    async def create_edit(request: Request) -> Response:
        body = await body_of(request)
        key = idempotency_key(request.scope["headers"])
        return created(await service.create_video(body, owner=owner_of(request), key=key, operation="edit"))

    @app.post("/v1/videos/sync")
    async def create_and_wait(request: Request) -> Response:
        body = await body_of(request)
        key = idempotency_key(request.scope["headers"])
        made = await service.create_video(body, owner=owner_of(request), key=key, operation="create")
        job = await _ended(request, service, made.job, settings.sync_timeout_s)
        path = service.file_of(job, VIDEO)
        headers = {"X-Request-Id": job.id, "X-Model": job.model}
        if (seconds := job.result.get("inference_time_s")) is not None:
            headers["X-Inference-Time-S"] = str(seconds)
        return FileResponse(path, media_type="video/mp4", filename=f"{job.id}.mp4", headers=headers)

    @app.post("/v1/videos/extensions")
    @app.post("/v1/videos/characters")
    async def not_supported() -> Response:
        raise ProblemError(501, "not_supported", "this server cannot do this; edit or generate a video instead")

    @app.post("/v1/videos/{video_id}/remix")
    async def remix(video_id: str, request: Request) -> Response:
        service.video(video_id, owner_of(request))
        body = await body_of(request)
        key = idempotency_key(request.scope["headers"])
        return created(await service.remix(body, owner=owner_of(request), key=key, video_id=video_id))

    @app.get("/v1/videos")
    async def videos(request: Request) -> Response:
        return _listed(request, service, "video", view)

    @app.get("/v1/videos/{video_id}")
    async def video(video_id: str, request: Request) -> Response:
        return shown(service.video(video_id, owner_of(request)))

    @app.get("/v1/videos/{video_id}/content")
    async def content(video_id: str, request: Request) -> Response:
        query = _query(request, {"variant"})
        variant = query.get("variant", "video")
        if variant not in VARIANTS:
            names = ", ".join(VARIANTS)
            raise ProblemError(400, "invalid_value", f"variant must be one of {names}", param="variant")
        file, media_type, suffix = VARIANTS[variant]
        job = service.video(video_id, owner_of(request))
        path = service.file_of(job, file)
        _check_range(request, path.stat().st_size)
        return FileResponse(path, media_type=media_type, filename=f"{job.id}.{suffix}")

    @app.get("/v1/videos/{video_id}/preview")
    async def preview(video_id: str, request: Request) -> Response:
        job = service.video(video_id, owner_of(request))
        path = service.state.preview_of(job)
        if job.ended or not path.is_file():
            raise ProblemError(404, "video_not_ready", "there is no preview; ask for some with extra_params.preview")
        return FileResponse(path, media_type="image/webp")

    @app.get("/v1/videos/{video_id}/events")
    async def video_events(video_id: str, request: Request) -> Response:
        return _events(request, service, service.video(video_id, owner_of(request)))

    @app.post("/v1/videos/{video_id}/cancel")
    async def cancel_video(video_id: str, request: Request) -> Response:
        return shown(service.cancel(service.video(video_id, owner_of(request))))

    @app.delete("/v1/videos/{video_id}")
    async def delete_video(video_id: str, request: Request) -> Response:
        service.delete(service.video(video_id, owner_of(request)))
        return JSONResponse({"id": video_id, "object": "video.deleted", "deleted": True})

    @app.get("/v1/events")
    async def all_events(request: Request) -> Response:
        _query(request, set())
        if "text/event-stream" not in request.headers.get("accept", ""):
            raise ProblemError(400, "invalid_value", "this is a stream; send Accept: text/event-stream", param="Accept")
        last = _last_id(request)
        after = store.last_event() if last is None else last
        stream = streams.owner_stream(
            store,
            service.hub,
            owner_of(request),
            after=after,
            stopping=lambda: service.closing,
            quiet_s=settings.quiet_s,
        )
        return _stream(stream)

    # --- tunings --------------------------------------------------------------------------------------------------

    def check_can_tune() -> None:
        service.check_can_tune()

    @app.post("/v1/tunings")
    async def create_tuning(request: Request) -> Response:
        check_can_tune()
        body = await body_of(request)
        key = idempotency_key(request.scope["headers"])
        return created(await service.create_tuning(body, owner=owner_of(request), key=key))

    @app.get("/v1/tunings")
    async def tunings(request: Request) -> Response:
        return _listed(request, service, "tuning", view)

    @app.get("/v1/tunings/{tuning_id}")
    async def tuning(tuning_id: str, request: Request) -> Response:
        return shown(service.tuning(tuning_id, owner_of(request)))

    @app.get("/v1/tunings/{tuning_id}/events")
    async def tuning_events(tuning_id: str, request: Request) -> Response:
        return _events(request, service, service.tuning(tuning_id, owner_of(request)))

    @app.post("/v1/tunings/{tuning_id}/cancel")
    async def cancel_tuning(tuning_id: str, request: Request) -> Response:
        return shown(service.cancel(service.tuning(tuning_id, owner_of(request))))

    @app.delete("/v1/tunings/{tuning_id}")
    async def delete_tuning(tuning_id: str, request: Request) -> Response:
        service.delete(service.tuning(tuning_id, owner_of(request)))
        return JSONResponse({"id": tuning_id, "object": "tuning.deleted", "deleted": True})

    # --- models and the server itself -------------------------------------------------------------------------------

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse(page([model.to_dict() for model in await service.catalog.models()], has_more=False))

    @app.get("/v1/models/{model_id}")
    async def model(model_id: str) -> Response:
        return JSONResponse((await service.catalog.get(model_id)).to_dict())

    @app.delete("/v1/models/{model_id}")
    async def delete_model(model_id: str, request: Request) -> Response:
        await service.catalog.remove(model_id, owner=owner_of(request))
        return JSONResponse({"id": model_id, "object": "model", "deleted": True})

    @app.get("/healthz")
    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/readyz")
    async def readyz(request: Request) -> Response:
        is_ready = service.dispatcher.ready and not service.stopping
        answer: dict[str, Any] = {"status": "ready" if is_ready else "not_ready"}
        if request.scope.get("tav.owner") is not None:
            answer["workers"] = [
                {
                    "worker": slot.index,
                    "device": slot.device or "cpu",
                    "state": slot.state,
                    "pid": None if slot.worker is None else slot.worker.pid,
                    "model": slot.model,
                }
                for slot in service.dispatcher.slots
            ]
        return JSONResponse(answer, status_code=200 if is_ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        _fill_gauges(service)
        return PlainTextResponse(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return JSONResponse(document(settings))

    return Front(app, service, access)


class Front:
    """What stands before every route: who may call, request ids, errors in the contract's shape, measures.

    Args:
        app: the routes.
        service: for metrics.
        access: the rules.
    """

    def __init__(self, app: FastAPI, service: Service, access: Access) -> None:
        self._app, self._service, self._access = app, service, access

        async def refused(request: Request, error: ProblemError) -> Response:
            return self._refused(error)

        async def refused_by_starlette(request: Request, error: HTTPException) -> Response:
            return self._refused(_problem_of(request, error))

        async def left(request: Request, error: ClientGoneError) -> Response:
            return Response(status_code=499)  # nobody reads it

        async def mistaken(request: Request, error: Exception) -> Response:
            return self._refused(_mistake())

        async def full(request: Request, error: StorageFullError) -> Response:
            return self._refused(storage_full())

        handlers: dict[Any, Any] = {
            StorageFullError: full,
            ProblemError: refused,
            HTTPException: refused_by_starlette,
            ClientGoneError: left,
            Exception: mistaken,
        }
        for kind, handler in handlers.items():
            app.add_exception_handler(kind, handler)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no WebSocket
            return
        began, status = time.monotonic(), 500
        started = False
        extra = {"X-Request-Id": request_id(scope["headers"]), "X-Content-Type-Options": "nosniff"}
        metrics = self._service.metrics

        async def sent(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                present = {name.lower() for name, _ in message["headers"]}
                added = dict(extra)
                if b"cache-control" not in present:
                    added["Cache-Control"] = "no-store"
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.encode(), value.encode())
                        for name, value in added.items()
                        if name.lower().encode() not in present
                    ),
                ]
            await send(message)

        REQUEST_ID.set(extra["X-Request-Id"])
        metrics.in_flight.inc()
        try:
            try:
                answer = self._checked(scope, extra)
                await (self._app if answer is None else answer)(scope, receive, sent)
            except ProblemError as error:
                await self._refused(error)(scope, receive, sent)
            except Exception:  # noqa: BLE001  whatever it is, the client gets an answer
                _log.exception("request %s failed", extra["X-Request-Id"])
                if not started:
                    await self._refused(_mistake())(scope, receive, sent)
        finally:
            metrics.in_flight.dec()
            route = self._route_of(scope)
            method = scope["method"] if scope["method"] in METHODS else "other"
            metrics.requests.labels(method, route, str(status)).inc()
            metrics.request_seconds.labels(route).observe(time.monotonic() - began)
            _log.info(
                "%s %s %d",
                method,
                route,
                status,
                extra={
                    "request_id": extra["X-Request-Id"],
                    "seconds": round(time.monotonic() - began, 4),
                    **job_id_of(scope.get("path_params") or {}),
                },
            )

    def _checked(self, scope: Scope, extra: dict[str, str]) -> Response | None:
        """Check who calls; an answer if the routes are not asked."""
        headers, path = scope["headers"], scope["path"]
        self._access.check_host(headers)
        origin = self._access.check_origin(headers)
        if origin is not None:
            extra |= cors_headers(origin, preflight=scope["method"] == "OPTIONS")
            if scope["method"] == "OPTIONS":
                return Response(status_code=204)
        is_open = path in OPEN or path.startswith("/static/")
        try:
            scope["tav.owner"] = self._access.owner(headers)
        except ProblemError:
            if not is_open:
                raise
            scope["tav.owner"] = None
        return None

    def _refused(self, error: ProblemError) -> JSONResponse:
        self._service.metrics.rejected.labels(error.code).inc()
        return JSONResponse(error.body, status_code=error.status, headers=error.headers)

    def _route_of(self, scope: Scope) -> str:
        for route in self._app.routes:
            if route.matches(scope)[0] != Match.NONE:
                return getattr(route, "path", "other")
        return "other"


def _mistake() -> ProblemError:
    return ProblemError(500, "internal_error", "the server made a mistake; its log says which")


def _problem_of(request: Request, error: HTTPException) -> ProblemError:
    """Starlette's own errors, in the contract's words."""
    if error.status_code == 404:
        return ProblemError(404, "not_found", "there is nothing at this path; /openapi.json lists what there is")
    if error.status_code == 405:
        allowed = ", ".join(sorted(_methods_of(request)))
        return ProblemError(405, "method_not_allowed", f"this path takes {allowed}", headers={"Allow": allowed})
    return ProblemError(error.status_code, "invalid_value", str(error.detail), headers=dict(error.headers or {}))


def _methods_of(request: Request) -> set[str]:
    """The methods that a path takes; ``/v1/videos/edits`` is no video's."""
    matching = [route for route in request.app.routes if route.matches(request.scope)[0] != Match.NONE]
    return {method for route in matching if route.path == matching[0].path for method in route.methods or ()}


# --- parts of answers -------------------------------------------------------------------------------------------------


def _query(request: Request, names: set[str]) -> dict[str, str]:
    """The query's parameters.

    Raises:
        ProblemError: 400 ``unknown_parameter``, or ``invalid_value`` for one that came twice.
    """
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in names:
            known = f"; known here: {', '.join(sorted(names))}" if names else "; none is known here"
            raise ProblemError(400, "unknown_parameter", f"{name[:60]!r} is not known{known}", param=name[:60])
        if name in found:
            raise ProblemError(400, "invalid_value", f"{name} came twice", param=name)
        found[name] = value
    return found


def _whole(query: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        message = f"{name} must be a whole number from {least} to {most}, got {text[:40]!r}"
        raise ProblemError(400, "invalid_value", message, param=name)
    return int(text)


def _listed(
    request: Request, service: Service, kind: Literal["video", "tuning"], view: Callable[[Job], dict[str, Any]]
) -> Response:
    query = _query(request, {"limit", "after", "order"})
    limit, order = _whole(query, "limit", 20, 1, 100), query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ProblemError(400, "invalid_value", f"order must be asc or desc, got {order[:40]!r}", param="order")
    jobs = service.store.jobs(
        kind,
        owner=request.scope["tav.owner"],
        limit=limit + 1,
        after=query.get("after"),
        order=cast(Literal["asc", "desc"], order),
    )
    return JSONResponse(page([view(job) for job in jobs[:limit]], has_more=len(jobs) > limit))


def _events(request: Request, service: Service, job: Job) -> Response:
    last = _last_id(request)
    if "text/event-stream" in request.headers.get("accept", ""):
        _query(request, set())
        after = last or 0
        return _stream(
            streams.job_stream(
                service.store,
                service.hub,
                job.id,
                after=after,
                stopping=lambda: service.closing,
                quiet_s=service.settings.quiet_s,
            )
        )
    query = _query(request, {"limit", "after"})
    limit, after = _whole(query, "limit", 20, 1, 100), _whole(query, "after", 0, 0, 2**31)
    events = service.store.events(job.id, after=after, limit=limit + 1)
    found = [event_view(event) for event in events[:limit]]
    return JSONResponse({"object": "list", "data": found, "has_more": len(events) > limit})


def _check_range(request: Request, size: int) -> None:
    """Check a ``Range``; one that cannot be read does not count (RFC 9110, 14.2).

    Raises:
        ProblemError: 416: it begins past the end.
    """
    given = request.headers.get("range")
    if given is None:
        return
    found = _RANGE.fullmatch(given)
    first = -1 if found is None or not found[1] else int(found[1])
    if found is None or (first >= 0 and found[2] and int(found[2]) < first):
        headers = [pair for pair in request.scope["headers"] if pair[0] != b"range"]
        request.scope["headers"] = headers
    elif first >= size or (not found[1] and not int(found[2])):
        raise ProblemError(
            416,
            "invalid_value",
            f"the range begins past the end; the file has {size} bytes",
            param="Range",
            headers={"Content-Range": f"bytes */{size}"},
        )


def _last_id(request: Request) -> int | None:
    text = request.headers.get("last-event-id")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        message = f"Last-Event-ID must be a whole number, got {text[:40]!r}"
        raise ProblemError(400, "invalid_value", message, param="Last-Event-ID")
    return int(text)


def _stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    return StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _ended(request: Request, service: Service, job: Job, seconds: float) -> Job:
    """Wait for a job's end; it is cancelled if the client goes or the time is over.

    Raises:
        ProblemError: 504 ``sync_timeout``.
        ClientGoneError: nobody waits any more.
    """
    end = time.monotonic() + seconds
    with service.hub.of_job(job.id) as bell:
        while True:
            bell.clear()
            now = service.store.get(job.id)
            if now is None:
                raise ProblemError(404, "video_not_found", "the video was deleted meanwhile")
            if now.ended:
                return now
            if await request.is_disconnected():
                service.cancel(now)
                raise ClientGoneError
            if time.monotonic() > end:
                service.cancel(now)
                raise ProblemError(504, "sync_timeout", f"the video took longer than {seconds:g} s; it was cancelled")
            try:
                await asyncio.wait_for(bell.wait(), min(0.5, seconds))
            except (TimeoutError, asyncio.TimeoutError):
                continue


def _fill_gauges(service: Service) -> None:
    """What is counted when it is asked for."""
    metrics, counts = service.metrics, service.store.counts()
    for kind in ("video", "tuning"):
        metrics.queued.labels(kind).set(counts.get((kind, "queued"), 0))
        metrics.running.labels(kind).set(counts.get((kind, "in_progress"), 0))
    for slot in service.dispatcher.slots:
        metrics.worker_up.labels(str(slot.index), slot.device or "cpu").set(slot.state in ("idle", "busy"))
