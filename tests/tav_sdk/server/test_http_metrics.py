"""The metrics of the contract's section 10: their names and labels, and what they count."""

from __future__ import annotations

import asyncio

from tests.tav_sdk.server.played_server import PROMPT, clip_file, scene

METRICS = {
    "tav_http_requests_total": {"method", "route", "status"},
    "tav_http_request_duration_seconds_bucket": {"route", "le"},
    "tav_http_in_flight": set(),
    "tav_jobs_queued": {"kind"},
    "tav_jobs_running": {"kind"},
    "tav_jobs_total": {"kind", "status", "code"},
    "tav_job_queue_seconds_bucket": {"kind", "le"},
    "tav_job_duration_seconds_bucket": {"kind", "mode", "le"},
    "tav_job_retries_total": {"reason"},
    "tav_rejected_total": {"code"},
    "tav_steps_total": {"stage"},
    "tav_step_seconds_bucket": {"stage", "le"},
    "tav_frames_total": set(),
    "tav_swaps_total": set(),
    "tav_swap_seconds_bucket": {"le"},
    "tav_inversion_cache_total": {"result"},
    "tav_worker_up": {"worker", "device"},
    "tav_worker_restarts_total": {"worker"},
    "tav_worker_peak_memory_bytes": {"worker", "device"},
    "tav_storage_bytes": {"kind"},
    "tav_upload_bytes_total": set(),
}


def samples(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Values by name, with their labels."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        head, _, value = line.rpartition(" ")
        name, _, labels = head.partition("{")
        pairs = [pair.split("=", 1) for pair in labels.rstrip("}").split(",") if pair]
        found.setdefault(name, []).append(({name: text.strip('"') for name, text in pairs}, float(value)))
    return found


@scene()
async def test_names_labels_and_counts(server):
    await server.finished()
    failed = await server.post()
    server.worker.progress(10)
    server.worker.fail("engine_error")
    lost = await server.post()
    server.worker.die()
    await asyncio.sleep(0.01)
    server.worker.ready()
    waiting = await server.post(seed=3)
    await server.ask("POST", "/v1/videos", form={**PROMPT, "input_reference": clip_file(server.state.folder / "c.avi")})
    for method, path in (("GET", "/v1/none"), ("POST", "/v1/videos"), ("BREW", "/v1/videos"), ("HACK", "/v1/videos")):
        await server.ask(method, path)
    server.service.metrics.swapped(0.2)
    server.service.metrics.storage.labels("clips").set(1)
    answer = await server.ask("GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    text = answer.content.decode()
    found = samples(text)
    for name, labels in METRICS.items():
        assert name in found, name
        assert set(found[name][0][0]) == labels, name
    for secret in (failed["id"], lost["id"], waiting["id"], "panda", "skiing"):
        assert secret not in text
    ours = {name for name in found if not name.endswith(("_created", "_sum", "_count"))}
    assert ours == set(METRICS)

    def value(name: str, **labels: str) -> float:
        (one,) = [value for given, value in found[name] if labels.items() <= given.items()]
        return one

    assert value("tav_jobs_queued", kind="video") == 2
    assert value("tav_jobs_running", kind="video") == 1
    assert value("tav_jobs_total", status="completed", code="") == 1
    assert value("tav_jobs_total", status="failed", code="engine_error") == 1
    assert value("tav_job_retries_total", reason="worker_died") == 1
    assert value("tav_rejected_total", code="not_found") == 1
    assert value("tav_rejected_total", code="unsupported_media_type") == 1
    assert value("tav_rejected_total", code="method_not_allowed") == 2
    assert value("tav_frames_total") == 8
    assert value("tav_inversion_cache_total", result="miss") == 1
    assert value("tav_worker_restarts_total", worker="0") == 1
    assert value("tav_worker_up", worker="0") == 1
    assert value("tav_upload_bytes_total") > 0
    assert value("tav_http_requests_total", method="other", status="405") == 2
    bounds = [float(labels["le"]) for labels, _ in found["tav_job_queue_seconds_bucket"]]
    assert (bounds[0], bounds[-2]) == (0.05, 3600)
