"""Every status and every code of the contract's section 4, each with its whole body."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tav_sdk.server import app as app_module
from tav_sdk.server import service as service_module
from tav_sdk.server.openapi import CODES as DOCUMENTED
from tests.tav_sdk.server.played_server import PROMPT, check_problem, clip_file, emptied, scene, words

FAST_DIRECT = {"fast": True, "correction": "direct"}
NO_ID = "video_" + "0" * 32
FORM = "multipart/form-data; boundary=between"


@scene()
async def test_bodies_that_are_refused(server):
    async def post(body: bytes, kind: str = "application/json", **headers: str):
        return await server.ask("POST", "/v1/videos", body=body, headers={"Content-Type": kind, **headers})

    check_problem(await post(b"{"), 400, "invalid_json")
    check_problem(await post(b'{"prompt": NaN}'), 400, "invalid_json")
    check_problem(await post(b'{"prompt": "\xff"}'), 400, "invalid_json")
    check_problem(await post(b"[" * 5000), 400, "invalid_json")
    check_problem(await post(b"--between\r\n", FORM), 400, "invalid_body")
    assert "65536" in check_problem(await post(b" " * 70000), 413, "body_too_large")
    early = await post(b"", **{"Content-Length": "70000"})
    check_problem(early, 413, "body_too_large")
    assert early.headers["Connection"] == "close"
    check_problem(await post(b"a=b", "application/x-www-form-urlencoded"), 415, "unsupported_media_type")
    zipped = await post(b"{}", **{"Content-Encoding": "gzip"})
    check_problem(zipped, 415, "unsupported_content_encoding")
    assert (await server.ask("GET", "/v1/videos")).json["data"] == []


@scene()
async def test_fields_that_are_refused(server):
    cases = [
        ({}, "missing_parameter", "prompt"),
        ({**PROMPT, "guidance_scal": 2}, "unknown_parameter", "guidance_scal"),
        ({**PROMPT, "extra_params": {"fst": True}}, "unknown_parameter", "extra_params.fst"),
        ({**PROMPT, "num_frames": "5"}, "invalid_type", "num_frames"),
        ({**PROMPT, "num_inference_steps": True}, "invalid_type", "num_inference_steps"),
        ({**PROMPT, "seed": 2**63}, "invalid_value", "seed"),
        ({**PROMPT, "prompt": " "}, "invalid_value", "prompt"),
        ({**PROMPT, "n": 2}, "invalid_value", "n"),
        ({**PROMPT, "input_reference": {"image_url": "http://127.0.0.1/"}}, "invalid_value", "input_reference"),
        (
            {**PROMPT, "extra_params": {"fast": True, "correction": "direct"}},
            "invalid_value",
            "extra_params.correction",
        ),
        ({"prompt": "p"}, "model_required", "model"),
        ({**PROMPT, "size": "32x32"}, "size_not_supported", "size"),
        ({**PROMPT, "model": "bare", "extra_params": {"mode": "edit"}}, "source_required", "input_reference"),
    ]
    for fields, code, param in cases:
        check_problem(await server.ask("POST", "/v1/videos", json_body=fields), 400, code, param)
    missing = await server.ask("POST", "/v1/videos", json_body={**PROMPT, "model": "../skiing"})
    check_problem(missing, 404, "model_not_found", "model")
    assert server.store.jobs("video", owner="", limit=10) == []


@scene(max_upload_bytes=1 << 20)
async def test_clips_that_are_refused_leave_nothing(server):
    folder = server.state.folder
    short = clip_file(folder / "short.avi", frames=3)
    wide = clip_file(folder / "wide.avi", frames=1, width=4100, height=16)
    for name, content in (("list.m3u8", b"#EXTM3U\nhttp://127.0.0.1/a.ts\n"), ("empty.mp4", b"")):
        (folder / name).write_bytes(content)
    cases = [
        ("list.m3u8", "invalid_video"),
        ("empty.mp4", "invalid_video"),
        (wide.name, "video_too_large"),
        (short.name, "video_too_short"),
    ]
    for name, code in cases:
        for path, field in (("/v1/videos", "input_reference"), ("/v1/videos/edits", "video")):
            answer = await server.ask("POST", path, form={**PROMPT, field: folder / name})
            check_problem(answer, 400, code, field)
    large = folder / "large.mp4"
    large.write_bytes(bytes(2 << 20))
    check_problem(
        await server.ask("POST", "/v1/videos", form={**PROMPT, "input_reference": large}), 413, "body_too_large"
    )
    assert not any(server.service.uploads.incoming.iterdir())
    assert not [path for path in server.state.clips.iterdir() if path.is_file()]
    assert server.store.jobs("video", owner="", limit=10) == []


@scene()
async def test_what_does_not_fit_in_memory_is_refused(server):
    server.service._memory = -1
    check_problem(await server.ask("POST", "/v1/videos", json_body=PROMPT), 400, "memory_exceeded", "model")


@scene()
async def test_what_is_not_there(server):
    for method, path in (
        ("GET", f"/v1/videos/{NO_ID}"),
        ("DELETE", f"/v1/videos/{NO_ID}"),
        ("GET", f"/v1/videos/{NO_ID}/content"),
        ("GET", f"/v1/videos/{NO_ID}/preview"),
        ("GET", f"/v1/videos/{NO_ID}/events"),
        ("POST", f"/v1/videos/{NO_ID}/cancel"),
        ("POST", f"/v1/videos/{NO_ID}/remix"),
        ("GET", "/v1/videos/..%2f..%2fetc%2fpasswd"),
        ("GET", "/v1/videos/edits"),
    ):
        code = "not_found" if "%2f" in path else "video_not_found"
        check_problem(await server.ask(method, path), 404, code)
    for method, path in (
        ("GET", "/v1/tunings/tun_0"),
        ("DELETE", "/v1/tunings/tun_0"),
        ("GET", "/v1/tunings/tun_0/events"),
        ("POST", "/v1/tunings/tun_0/cancel"),
    ):
        check_problem(await server.ask(method, path), 404, "tuning_not_found")
    for method in ("GET", "DELETE"):
        check_problem(await server.ask(method, "/v1/models/none"), 404, "model_not_found", "model")
    for path in ("/v1", "/v1/videos/", "/v1/video", "/docs", "/redoc", "/v1/files", "/v1/videos/a/b"):
        check_problem(await server.ask("GET", path), 404, "not_found")
    check_problem(
        await server.ask("POST", "/v1/videos/edits", json_body={**PROMPT, "video": {"id": NO_ID}}),
        404,
        "video_not_found",
    )


@scene()
async def test_methods_that_a_path_does_not_take(server):
    for method, path, allowed in (
        ("PUT", "/v1/videos", "GET, POST"),
        ("PATCH", f"/v1/videos/{NO_ID}", "DELETE, GET"),
        ("POST", "/healthz", "GET"),
        ("GET", f"/v1/videos/{NO_ID}/cancel", "POST"),
        ("BREW", "/v1/models", "GET"),
        ("PUT", "/v1/videos/edits", "POST"),
    ):
        answer = await server.ask(method, path)
        check_problem(answer, 405, "method_not_allowed")
        assert answer.headers["Allow"] == allowed


@scene()
async def test_queries_that_are_refused(server):
    job = await server.post()
    for path, code, param in (
        ("/v1/videos?limit=0", "invalid_value", "limit"),
        ("/v1/videos?limit=101", "invalid_value", "limit"),
        ("/v1/videos?limit=a", "invalid_value", "limit"),
        ("/v1/videos?limit=1&limit=2", "invalid_value", "limit"),
        ("/v1/videos?order=up", "invalid_value", "order"),
        ("/v1/videos?page=2", "unknown_parameter", "page"),
        (f"/v1/videos/{job['id']}/events?after=-1", "invalid_value", "after"),
        (f"/v1/videos/{job['id']}/content?variant=raw", "invalid_value", "variant"),
        (f"/v1/videos/{job['id']}/content?token=t", "unknown_parameter", "token"),
        ("/v1/events", "invalid_value", "Accept"),
    ):
        check_problem(await server.ask("GET", path), 400, code, param)
    for accept in ("text/event-stream", "*/*"):
        headers = {"Accept": accept, "Last-Event-ID": "x"}
        answer = await server.ask("GET", f"/v1/videos/{job['id']}/events", headers=headers)
        check_problem(answer, 400, "invalid_value", "Last-Event-ID")


@scene()
async def test_states_that_do_not_allow_it(server):
    job = await server.post()
    content = f"/v1/videos/{job['id']}/content"
    check_problem(await server.ask("GET", content), 404, "video_not_ready")
    check_problem(await server.ask("GET", f"/v1/videos/{job['id']}/preview"), 404, "video_not_ready")
    named = {"prompt": "p", "video": {"id": job["id"]}}
    check_problem(await server.ask("POST", "/v1/videos/edits", json_body=named), 400, "source_not_ready", "video")
    server.worker.complete()
    check_problem(await server.ask("POST", f"/v1/videos/{job['id']}/cancel"), 400, "not_cancellable")
    check_problem(await server.ask("GET", f"/v1/videos/{job['id']}/preview"), 404, "video_not_ready")
    emptied(server.state.videos)
    check_problem(await server.ask("GET", content), 404, "video_expired")
    failed = await server.post()
    server.worker.fail("out_of_memory")
    said = check_problem(await server.ask("GET", f"/v1/videos/{failed['id']}/content"), 422, "video_failed")
    assert "out_of_memory" in said
    assert (await server.get(failed))["error"] == {"code": "out_of_memory", "message": "it was out_of_memory"}


@scene()
async def test_a_key_with_another_body(server):
    key = {"Idempotency-Key": "k"}
    assert (await server.ask("POST", "/v1/videos", json_body=PROMPT, headers=key)).status == 200
    other = {**PROMPT, "seed": 1}
    answer = await server.ask("POST", "/v1/videos", json_body=other, headers=key)
    check_problem(answer, 422, "idempotency_conflict", "Idempotency-Key")
    for wrong in ("", "k" * 129, "a b", "schl\u00fcssel"):
        answer = await server.ask("POST", "/v1/videos", json_body=PROMPT, headers={"Idempotency-Key": wrong})
        check_problem(answer, 400, "invalid_value", "Idempotency-Key")


@scene(max_queue=2)
async def test_a_full_queue(server):
    for _ in range(3):  # one of them runs
        await server.post()
    answer = await server.ask("POST", "/v1/videos", json_body=PROMPT)
    check_problem(answer, 429, "queue_full")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert (await server.ask("GET", "/readyz")).status == 200
    server.worker.complete()
    await server.post()


@scene(rate=2)
async def test_too_many_requests(server):
    for _ in range(2):
        await server.post()
    answer = await server.ask("POST", "/v1/videos", json_body=PROMPT)
    check_problem(answer, 429, "rate_limited")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert (await server.ask("GET", "/v1/videos")).status == 200


@scene(body_timeout_s=0.05)
async def test_a_body_that_does_not_go_on(server):
    exchange = server.begin("POST", "/v1/videos", headers={"Content-Type": "application/json"})
    exchange._chunks.clear()
    answer = await exchange.answer()
    check_problem(answer, 408, "request_timeout")
    assert answer.headers["Connection"] == "close"


@scene()
async def test_what_this_server_cannot_do(server):
    for path in ("/v1/videos/extensions", "/v1/videos/characters"):
        check_problem(await server.ask("POST", path, json_body={}), 501, "not_supported")


@pytest.mark.parametrize("settings", [{"tunings": False}, {"can_tune": False}])
def test_tunings_may_be_unavailable(tmp_path, settings):
    @scene(**settings)
    async def run(server):
        check_problem(await server.ask("POST", "/v1/tunings", json_body={}), 501, "tuning_unavailable")
        assert (await server.ask("GET", "/v1/tunings")).json["data"] == []

    run(tmp_path)


@scene()
async def test_tunings_that_are_refused(server):
    clip = clip_file(server.state.folder / "clip.avi")
    asked = {"prompt": "a man is skiing", "video": clip}
    answer = await server.ask("POST", "/v1/tunings", form={**asked, "model": "skiing"})
    check_problem(answer, 400, "model_exists", "model")
    for base in ("stabilityai/sd", "../pocket", "/etc"):
        check_problem(
            await server.ask("POST", "/v1/tunings", form={**asked, "base": base}), 404, "base_not_found", "base"
        )
    check_problem(
        await server.ask("POST", "/v1/tunings", form={**asked, "model": "A b"}), 400, "invalid_value", "model"
    )
    check_problem(await server.ask("POST", "/v1/tunings", form={"prompt": "p"}), 400, "missing_parameter", "video")
    long = await server.ask("POST", "/v1/tunings", form={**asked, "num_frames": 11})
    check_problem(long, 400, "video_too_short", "video")
    assert server.store.jobs("tuning", owner="", limit=1) == []


@scene()
async def test_models_of_the_server_cannot_be_deleted(server):
    check_problem(await server.ask("DELETE", "/v1/models/skiing"), 403, "model_protected", "model")


@scene()
async def test_a_server_that_is_being_stopped(server):
    server.service.stopping = True
    answer = await server.ask("POST", "/v1/videos", json_body=PROMPT)
    check_problem(answer, 503, "shutting_down")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    ready = await server.ask("GET", "/readyz")
    assert (ready.status, ready.json["status"]) == (503, "not_ready")
    assert (await server.ask("GET", "/healthz")).status == 200


@scene(sync_timeout_s=0.05)
async def test_a_wait_that_takes_too_long(server):
    answer = await server.ask("POST", "/v1/videos/sync", json_body=PROMPT)
    check_problem(answer, 504, "sync_timeout")
    assert server.worker.cancels == [server.worker.run.job]


@scene()
async def test_a_full_disk(server):
    service_module.os, real = SimpleNamespace(statvfs=lambda _: SimpleNamespace(f_bavail=1, f_frsize=1)), os
    try:
        check_problem(await server.ask("POST", "/v1/videos", json_body=PROMPT), 507, "storage_full")
    finally:
        service_module.os = real


@scene()
async def test_a_mistake_of_the_server(server):
    def wrong(*_: object) -> None:
        raise RuntimeError("/tmp/secret")

    server.service.video = wrong
    answer = await server.ask("GET", f"/v1/videos/{NO_ID}")
    assert "secret" not in check_problem(answer, 500, "internal_error")
    assert answer.headers["X-Request-Id"]


def test_the_document_has_the_codes_of_the_contract_and_the_code_has_them():
    """Two are the server's own: what does not get as far as a route has no code in the contract."""
    assert {code for codes in DOCUMENTED.values() for code in codes} == CODES | {
        "head_too_large",
        "too_many_connections",
    }
    folder = Path(app_module.__file__).parent
    text = "".join(path.read_text() for path in folder.glob("*.py") if path.name != "openapi.py")
    kinds = {"video_not_found", "tuning_not_found"}
    assert [code for code in CODES - kinds if f'"{code}"' not in text] == []


CODES = words("""
video_not_found tuning_not_found
invalid_json invalid_body missing_parameter unknown_parameter invalid_type invalid_value model_required
size_not_supported source_required source_not_ready invalid_video video_too_large video_too_short memory_exceeded
model_exists not_cancellable invalid_token origin_not_allowed host_not_allowed model_protected not_found
model_not_found base_not_found video_not_ready video_expired method_not_allowed request_timeout body_too_large
unsupported_media_type unsupported_content_encoding idempotency_conflict video_failed queue_full rate_limited
internal_error not_supported tuning_unavailable shutting_down sync_timeout storage_full
""")
