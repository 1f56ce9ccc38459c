"""Spans of requests, jobs and stages, with a tracer that writes them down."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import Any

import pytest

from tav_sdk.server.jobs import Event
from tav_sdk.server.telemetry import ENDPOINT, Telemetry, telemetry

trace = pytest.importorskip("opentelemetry.trace")


class Span(trace.NonRecordingSpan):
    def __init__(self, name: str, parent: Any, start: int | None = None) -> None:
        super().__init__(trace.INVALID_SPAN_CONTEXT)
        self.name, self.parent, self.start, self.stop, self.attributes = name, parent, start, 0, {}

    def set_attribute(self, key: str, value: Any) -> None:
        self.attributes[key] = value

    def update_name(self, name: str) -> None:
        self.name = name

    def end(self, end_time: int | None = None) -> None:
        self.stop = end_time


class Tracer:
    def __init__(self) -> None:
        self.spans: list[Span] = []

    def start_span(self, name: str, context: Any = None, start_time: int | None = None, kind: Any = None) -> Span:
        self.spans.append(Span(name, trace.get_current_span(context), start_time))
        return self.spans[-1]

    @contextmanager
    def start_as_current_span(self, name: str, context: Any = None, kind: Any = None):
        with trace.use_span(self.start_span(name, context)) as span:
            yield span


def event(type_: str, at: float, **data: Any) -> Event:
    whole = {"created_at": 100, "attempts": 1, "error": None, "prompt": "a secret", **data}
    return Event(n=1, job="video_1", owner="", k=1, type=type_, at=at, data=whole)


def ask(traces: Telemetry, app: Any, headers: Any = ()) -> None:
    scope = {"type": "http", "method": "POST", "headers": list(headers)}

    async def send(message: Any) -> None:
        pass

    asyncio.run(traces.around(app)(scope, None, send))  # type: ignore[arg-type]


def test_a_job_lies_under_its_request_and_stages_under_the_job():
    tracer = Tracer()
    traces = Telemetry(tracer)

    async def app(scope, receive, send):
        traces.happened(event("video.queued", 100.5))
        scope["route"] = type("Route", (), {"path": "/v1/videos"})
        await send({"type": "http.response.start", "status": 200})

    ask(traces, app, [(b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")])
    traces.happened(event("video.completed", 110.0, stage_durations={"inversion": 2.0, "sampling": 3.0}))
    request, job, *stages = tracer.spans
    assert request.name == "POST /v1/videos"
    assert request.attributes["http.response.status_code"] == 200
    assert f"{request.parent.get_span_context().trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert (job.name, job.parent, job.start, job.stop) == ("video", request, 100_500_000_000, 110_000_000_000)
    assert [(one.name, one.parent, one.start) for one in stages] == [
        ("inversion", job, 105_000_000_000),
        ("sampling", job, 107_000_000_000),
    ]
    assert all("secret" not in str(span.attributes) for span in tracer.spans)


def test_a_job_of_an_earlier_server_has_a_span_of_its_own():
    tracer = Tracer()
    failed = event("video.failed", 130.0, error={"code": "timeout", "message": ""})
    Telemetry(tracer).happened(failed)
    (job,) = tracer.spans
    assert (job.start, job.attributes["error.type"]) == (100_000_000_000, "timeout")


def test_nothing_is_sent_unless_it_is_asked_for(monkeypatch):
    monkeypatch.delenv(ENDPOINT, raising=False)
    assert telemetry() is None


def test_missing_packages_are_said(monkeypatch, caplog):
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:4318")
    monkeypatch.setattr("tav_sdk.server.telemetry.import_module", _missing)
    assert telemetry() is None
    assert "pip install opentelemetry-sdk" in caplog.text


def _missing(name: str) -> None:
    raise ImportError(name)
