"""OpenTelemetry, if it is asked for: a span for each request, each job and each of its stages. No prompts."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tav_sdk.server.jobs import Event
from tav_sdk.words import logger

_log = logger(__name__)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""Environment variable: where spans are sent; without it there are none."""
PACKAGES = "opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
MOST_JOBS = 10_000
"""Jobs whose request is remembered."""


class Telemetry:
    """Makes spans of what happens.

    Args:
        tracer: OpenTelemetry's.
        close: sends what has not been sent.
    """

    def __init__(self, tracer: Any, *, close: Callable[[], object] = lambda: None) -> None:
        self._tracer, self.close = tracer, close
        self._trace: Any = import_module("opentelemetry.trace")
        self._jobs: dict[str, tuple[Any, float]] = {}  # the span of its request, and when it came

    def around(self, app: ASGIApp) -> ASGIApp:
        """The application with a span around each request; the client's ``traceparent`` is its parent."""
        trace, propagate = self._trace, import_module("opentelemetry.propagate")

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            status = 500

            async def sent(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            parent = propagate.extract(carrier)
            method = scope["method"]
            kind = trace.SpanKind.SERVER
            with self._tracer.start_as_current_span(method, context=parent, kind=kind) as span:
                try:
                    await app(scope, receive, sent)
                finally:
                    route = getattr(scope.get("route"), "path", None)
                    span.set_attribute("http.request.method", method)
                    span.set_attribute("http.response.status_code", status)
                    if route is not None:
                        span.update_name(f"{method} {route}")
                        span.set_attribute("http.route", route)

        return traced

    def happened(self, event: Event) -> None:
        """Something happened to a job; at its end its spans are made."""
        trace = self._trace
        kind, _, what = event.type.partition(".")
        if what == "queued" and "reason" not in event.data:
            if len(self._jobs) >= MOST_JOBS:
                self._jobs.pop(next(iter(self._jobs)))
            self._jobs[event.job] = (trace.get_current_span(), event.at)
        if what not in ("completed", "failed"):
            return
        request, began = self._jobs.pop(event.job, (None, float(event.data["created_at"])))
        context = None if request is None else trace.set_span_in_context(request)
        span = self._tracer.start_span(kind, context=context, start_time=_nanoseconds(began))
        span.set_attribute("tav.job.id", event.job)
        span.set_attribute("tav.job.attempts", event.data["attempts"])
        if event.data["error"] is not None:
            code = event.data["error"]["code"]
            span.set_attribute("error.type", code)
            span.set_status(trace.Status(trace.StatusCode.ERROR, code))
        stages = event.data.get("stage_durations") or {}
        inside = trace.set_span_in_context(span)
        at = event.at - sum(stages.values())
        for name, seconds in stages.items():
            stage = self._tracer.start_span(name, context=inside, start_time=_nanoseconds(at))
            at += seconds
            stage.end(end_time=_nanoseconds(at))
        span.end(end_time=_nanoseconds(event.at))


def telemetry() -> Telemetry | None:
    """OpenTelemetry as the environment says; ``None`` if it is not asked for, or its packages are not there."""
    if not os.environ.get(ENDPOINT):
        return None
    try:
        exporter = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter").OTLPSpanExporter
        resource = import_module("opentelemetry.sdk.resources").Resource
        sdk = import_module("opentelemetry.sdk.trace")
        batches = import_module("opentelemetry.sdk.trace.export").BatchSpanProcessor
    except ImportError as error:
        _log.warning("%s is set, but nothing is sent: %s. Install: pip install %s", ENDPOINT, error, PACKAGES)
        return None
    named = resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "tav-serve")})
    provider = sdk.TracerProvider(resource=named)
    provider.add_span_processor(batches(exporter()))
    return Telemetry(provider.get_tracer("tav_sdk.server"), close=provider.shutdown)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
