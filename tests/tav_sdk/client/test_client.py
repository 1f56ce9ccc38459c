"""What the client sends, and what it makes of the answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx2
import pytest

from tav_sdk.client import Client, JobFailedError, Model, ServerError, ServerUnreachableError, Tuning, Video
from tav_sdk.errors import CancelledError, ConfigError, InputError, TavError, VideoNotFoundError
from tests.tav_sdk.client.stub import TUNING, VIDEO, Stub, answer, refusal, stream, video

DONE = video(status="completed", progress=100, attempts=1)
ROOT = Path(__file__).parents[3]
REFUSED = httpx2.ConnectError("[Errno 111] Connection refused")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in ("TAV_SERVER", "TAV_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def body(stub: Stub, number: int = -1):
    return json.loads(stub.requests[number].content)


# --- imports --------------------------------------------------------------------------------------------------------


def test_the_import_needs_neither_torch_nor_a_server_nor_numpy(run):
    code = (
        "import sys, tav_sdk.client as c; c.Client().close();"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    result = run(sys.executable, "-c", code, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    heavy = {"torch", "diffusers", "onnxruntime", "av", "numpy", "pydantic", "fastapi", "starlette", "uvicorn"}
    assert set(result.stdout.split()) & heavy == set()


def test_without_the_extra_it_says_what_to_install(run):
    code = "import sys; sys.modules['httpx2'] = None\nfrom tav_sdk.client import Client, Video\nClient()"
    result = run(sys.executable, "-c", code, cwd=ROOT)
    assert 'pip install "tav-sdk[client]"' in result.stderr


# --- addresses and tokens -------------------------------------------------------------------------------------------


def test_address_and_token_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("TAV_SERVER", "https://videos.example.org/tav/v1/")
    monkeypatch.setenv("TAV_TOKEN", "secret")
    stub = Stub(answer({"data": []}))
    client = Client(transport=httpx2.MockTransport(stub))
    assert client.base_url == "https://videos.example.org/tav"
    assert client.models() == []
    assert stub.requests[0].headers["Authorization"] == "Bearer secret"
    assert str(stub.requests[0].url) == "https://videos.example.org/tav/v1/models"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a", "http://", "http://a:b", "http://u:p@a", "http://a?b=c"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(InputError, match="base_url must be an address such as") as refused:
        Client(url)
    assert "p@a" not in str(refused.value)


def test_a_token_that_no_header_can_have_is_not_repeated():
    with pytest.raises(InputError, match="token must be 1 to 4096 visible ASCII") as refused:
        Client(token="geheim\n")
    assert "geheim" not in str(refused.value)


# --- jobs are made --------------------------------------------------------------------------------------------------


def test_an_edit_of_the_models_clip_is_json():
    stub = Stub(answer(video(prompt="a panda", novel=1)))
    made = stub.client().create("a panda", model="skiing", guidance_scale=7.5, seed=None, fast=True, start=3)
    assert (stub.asked, made.id, made.status, made.raw["novel"]) == (["POST /v1/videos"], VIDEO, "queued", 1)
    extra = {"fast": True, "start": 3}
    assert body(stub) == {"prompt": "a panda", "model": "skiing", "guidance_scale": 7.5, "extra_params": extra}


def test_an_edit_of_a_file_is_a_form(tmp_path):
    clip = tmp_path / "a secret name.mp4"
    clip.write_bytes(b"frames")
    stub = Stub(answer(video()))
    stub.client().create("a panda", clip, num_frames=4, preview=False)
    (request,) = stub.requests
    assert request.headers["Content-Type"].startswith("multipart/form-data")
    text = request.content.decode()
    assert 'name="input_reference"; filename="clip.mp4"' in text
    assert 'name="extra_params"\r\n\r\n{"preview": false}' in text
    assert 'name="num_frames"\r\n\r\n4' in text
    assert "secret" not in text


def test_an_edit_of_a_video_names_it():
    stub = Stub(answer(video()))
    stub.client().create("a panda", VIDEO)
    assert (stub.asked, body(stub)["video"]) == (["POST /v1/videos/edits"], {"id": VIDEO})


def test_a_remix(tmp_path):
    stub = Stub(answer(video(remixed_from_video_id=VIDEO)))
    assert stub.client().remix(Video.read(video()), "a fox").remixed_from_video_id == VIDEO
    assert stub.asked == [f"POST /v1/videos/{VIDEO}/remix"]


def test_a_tuning(clip_path):
    stub = Stub(answer({"id": TUNING, "object": "tuning", "status": "queued", "base": "pocket"}))
    made = stub.client().tune(clip_path, "a man is skiing", start=2, num_train_steps=5)
    assert isinstance(made, Tuning)
    assert 'name="video"; filename="clip.mp4"' in stub.requests[0].content.decode("latin-1")
    assert 'name="start"\r\n\r\n2' in stub.requests[0].content.decode("latin-1")


def test_a_file_that_is_not_there_is_refused_before_anything_is_sent(tmp_path):
    with pytest.raises(VideoNotFoundError, match="there is no such file"):
        Stub().client().create("a panda", tmp_path / "missing.mp4")


def test_settings_that_cannot_be_sent_are_refused():
    client = Stub().client()
    with pytest.raises(InputError, match="cannot be sent as JSON"):
        client.create("a panda", guidance_scale=float("nan"))
    with pytest.raises(InputError, match="prompt must be text in UTF-8"):
        client.create("\ud800")
    with pytest.raises(InputError, match="fast is there twice"):
        client.create("a panda", fast=True, extra_params={"fast": False})


# --- errors and tries -----------------------------------------------------------------------------------------------


def test_a_refusal_has_the_servers_words():
    stub = Stub(refusal(400, "unknown_parameter", "guidance_scal"))
    with pytest.raises(TavError) as refused:
        stub.client().create("a panda", **{"guidance_scal": 1})  # type: ignore[arg-type]
    error = refused.value
    assert isinstance(error, ServerError)
    found = (error.status, error.code, error.param, error.message)
    assert found == (400, "unknown_parameter", "guidance_scal", "unknown_parameter it is")


def test_a_request_is_sent_again_with_its_key_and_its_file(clip_path):
    stub = Stub(REFUSED, refusal(429, "queue_full", retry_after="7"), httpx2.ReadTimeout("slow"), answer(video()))
    stub.client().create("a panda", clip_path)
    assert len({request.headers["Idempotency-Key"] for request in stub.requests}) == 1
    assert {len(request.content) - len(clip_path.read_bytes()) > 0 for request in stub.requests} == {True}
    assert stub.slept[0] <= 0.5
    assert stub.slept[1] == 7
    assert len(stub.slept) == 3


def test_two_requests_have_two_keys():
    stub = Stub(answer(video()), answer(video()))
    client = stub.client()
    client.create("a panda")
    client.create("a panda")
    assert len({request.headers["Idempotency-Key"] for request in stub.requests}) == 2


@pytest.mark.parametrize(
    "given", [refusal(500, "internal_error"), refusal(503, "x", x_should_retry="false"), refusal(507, "storage_full")]
)
def test_what_does_not_pass_is_not_sent_again(given):
    with pytest.raises(ServerError):
        Stub(given).client().create("a panda")


def test_it_gives_up():
    stub = Stub(*[REFUSED] * 3)
    with pytest.raises(ServerUnreachableError, match=r"http://stub does not answer: .*Connection refused"):
        stub.client(retries=2).models()
    assert len(stub.requests) == 3


def test_a_pause_beyond_all_patience_is_not_made():
    stub = Stub(refusal(429, "rate_limited", retry_after="900"))
    with pytest.raises(ServerError) as refused:
        stub.client().models()
    assert refused.value.retry_after == 900


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (httpx2.Response(200, text="<html>"), "no JSON object"),
        (httpx2.Response(404, text="<html>"), "answered 404 Not Found, and not in tav serve's words"),
        (httpx2.Response(302, headers={"Location": "https://b"}), "sends elsewhere, to 'https://b'"),
        (answer({"id": VIDEO, "object": "cat"}), "expected a video from the server"),
        (answer({"object": "video", "status": "queued"}), "expected a video from the server"),
    ],
)
def test_what_is_no_such_server_is_told(given, text):
    with pytest.raises(ServerError, match=text):
        Stub(given).client().get(VIDEO)


def test_without_a_token_it_says_where_one_goes():
    with pytest.raises(ServerError, match="TAV_TOKEN"):
        Stub(refusal(401, "invalid_token")).client().models()


def test_an_id_never_becomes_another_path():
    client = Stub().client()
    for job in ("../models", "video_1", ""):
        with pytest.raises(InputError, match="job must be a job's id"):
            client.get(job)
    with pytest.raises(InputError, match="model must be a model's id"):
        client.delete_model("..")


# --- waiting --------------------------------------------------------------------------------------------------------


def progress(percent: int, **values):
    return video(status="in_progress", attempts=1, progress=percent, stage="sampling", total_steps=50, **values)


def test_waiting_follows_the_events():
    stub = Stub(
        answer(video()),
        stream(
            (1, "video.queued", video()),
            (2, "video.progress", progress(40, step=20)),
            b": still here\n\n",
            (3, "video.completed", DONE),
        ),
    )
    seen: list[Video] = []
    assert stub.client().wait(VIDEO, seen.append).status == "completed"
    assert [(now.status, now.step) for now in seen] == [("queued", 0), ("in_progress", 20), ("completed", 0)]


def test_a_broken_stream_goes_on_behind_its_last_event():
    stub = Stub(
        answer(video()),
        stream((7, "video.progress", progress(40)), httpx2.RemoteProtocolError("peer closed connection")),
        REFUSED,
        refusal(503, "shutting_down", retry_after="3"),
        stream((8, "video.completed", DONE)),
    )
    assert stub.client(retries=0).wait(VIDEO).progress == 100
    assert [request.headers.get("Last-Event-ID") for request in stub.requests[1:]] == [None, "7", "7", "7"]
    assert stub.slept[-1] == 3


def test_a_stream_in_pieces_with_odd_separators_is_whole():
    text = json.dumps(video(status="completed", prompt="a\u2028b\x85c"), ensure_ascii=False)
    whole = f"id: 1\r\nevent: video.completed\r\ndata: {text}\r\n\r\n".encode()
    stub = Stub(answer(video()), stream(*[whole[i : i + 3] for i in range(0, len(whole), 3)]))
    assert stub.client().wait(VIDEO).prompt == "a\u2028b\x85c"


@pytest.mark.parametrize(
    "given",
    [
        [answer({"object": "list", "data": []})],
        [refusal(404, "not_found")],
        [httpx2.ReadTimeout("a proxy holds it back")],
        [stream(), stream(), stream()],
    ],
)
def test_without_a_stream_it_asks_again_and_again(given):
    polled = [answer(progress(10), openai_poll_after_ms="700"), answer(progress(60)), answer(DONE)]
    stub = Stub(answer(video()), *given, *polled)
    seen: list[int] = []
    stub.client().wait(VIDEO, lambda now: seen.append(now.progress))
    assert seen == [0, 10, 60, 100]
    assert stub.slept[-2:] == [0.7, 1.0]


def test_what_was_over_before_is_not_told_again():
    old = [(n, "video.progress", progress(n * 10)) for n in range(1, 5)]
    stub = Stub(answer(progress(40)), stream(*old, (5, "video.completed", DONE)))
    seen: list[int] = []
    stub.client().wait(VIDEO, lambda now: seen.append(now.progress))
    assert seen == [40, 100]


def test_a_job_that_failed_is_an_error_with_the_job():
    failed = video(status="failed", error={"code": "out_of_memory", "message": "too long"})
    with pytest.raises(JobFailedError, match=f"{VIDEO} failed: too long") as caught:
        Stub(answer(failed)).client().wait(VIDEO)
    assert caught.value.code == "out_of_memory"
    assert caught.value.job.error.message == "too long"


def test_a_waiting_job_that_is_cancelled_elsewhere_ends_the_wait():
    failed = video(status="failed", error={"code": "cancelled", "message": "the job was cancelled"})
    with pytest.raises(JobFailedError) as caught:
        Stub(answer(video()), stream((1, "video.queued", video()), (2, "video.failed", failed))).client().wait(VIDEO)
    assert caught.value.code == "cancelled"


def test_a_stage_that_begins_within_a_percent_is_told():
    stages = [progress(99, step=50), {**progress(99, step=1), "stage": "decode"}, video(attempts=1, progress=99)]
    stub = Stub(
        answer(video()),
        stream(*((n, "video.progress", one) for n, one in enumerate(stages)), (9, "video.completed", DONE)),
    )
    seen: list[Video] = []
    stub.client().wait(VIDEO, seen.append)
    assert [(now.status, now.stage) for now in seen[1:-1]] == [
        ("in_progress", "sampling"),
        ("in_progress", "decode"),
        ("queued", None),
    ]


def test_a_callback_cancels():
    stub = Stub(answer(video()), stream((2, "video.progress", progress(40))), answer(video(status="failed")))
    with pytest.raises(CancelledError, match="cancelled at 40 percent"):
        stub.client().wait(VIDEO, lambda now: now.status == "queued")
    assert stub.asked[-1] == f"POST /v1/videos/{VIDEO}/cancel"


def test_a_wait_can_end_before_the_job():
    stub = Stub(answer(video()), stream(b": still here\n\n", b": still here\n\n"))
    with pytest.raises(ServerError, match="has not ended within") as caught:
        stub.client().wait(VIDEO, timeout=1e-9)
    assert caught.value.code == "wait_timeout"


def test_a_job_that_is_deleted_meanwhile_is_told():
    stub = Stub(answer(video()), stream((1, "video.queued", video())), refusal(404, "video_not_found"))
    with pytest.raises(ServerError) as caught:
        stub.client().wait(VIDEO)
    assert caught.value.code == "video_not_found"


def test_events_have_numbers_types_and_reasons():
    again = {**video(), "reason": "worker_died"}
    stub = Stub(stream((4, "video.queued", again), (5, "video.completed", DONE)))
    found = list(stub.client().events(VIDEO, after=3))
    assert [(e.id, e.type, e.reason) for e in found] == [
        (4, "video.queued", "worker_died"),
        (5, "video.completed", None),
    ]
    assert stub.requests[0].headers["Last-Event-ID"] == "3"


# --- lists, files, ends ---------------------------------------------------------------------------------------------


def test_a_long_list_is_asked_for_page_by_page():
    ids = [f"video_{n:032x}" for n in range(130)]
    first, second = ([video(id=one) for one in part] for part in (ids[:100], ids[100:]))
    stub = Stub(answer({"data": first, "has_more": True}), answer({"data": second, "has_more": False}))
    assert [one.id for one in stub.client().list(limit=None)] == ids
    assert stub.asked[1] == f"GET /v1/videos?limit=100&after={ids[99]}"


def test_models():
    (model,) = Stub(answer({"data": [{"id": "skiing", "source": True, "fps": 8}]})).client().models()
    assert isinstance(model, Model)
    assert (model.id, model.source, model.fps) == ("skiing", True, 8)


def test_a_download_is_whole_or_not_there(tmp_path):
    def breaks():
        yield b"half"
        raise httpx2.RemoteProtocolError("peer closed connection")

    out = tmp_path / "new" / "out.mp4"
    stub = Stub(httpx2.Response(200, content=breaks()), httpx2.Response(200, content=b"whole"))
    assert stub.client().download(VIDEO, out) == out
    assert out.read_bytes() == b"whole"
    with pytest.raises(ServerError):
        Stub(httpx2.Response(200, content=breaks())).client(retries=0).download(VIDEO, out)
    assert out.read_bytes() == b"whole"
    assert list(out.parent.iterdir()) == [out]


def test_a_download_into_a_folder_is_named_by_its_job(tmp_path):
    stub = Stub(httpx2.Response(200, content=b"png"))
    assert stub.client().download(VIDEO, tmp_path, "sheet") == tmp_path / f"{VIDEO}.png"
    assert stub.asked == [f"GET /v1/videos/{VIDEO}/content?variant=sheet"]


def test_a_tuning_has_no_video():
    with pytest.raises(InputError, match="a tuning makes a model"):
        Stub().client().download(TUNING, Path("x.mp4"))


def test_what_is_gone_already_is_deleted():
    Stub(REFUSED, refusal(404, "video_not_found")).client().delete(VIDEO)


def test_objects_are_frozen_and_can_be_keys():
    one = Video.read(video(extra_params={"fast": True}, stage_durations={"sampling": 1.0}))
    assert {one: 1}[Video.read(video(extra_params={"fast": True}, stage_durations={"sampling": 1.0}))] == 1
    with pytest.raises(AttributeError):
        one.status = "failed"  # type: ignore[misc]


def test_an_empty_token_file_is_refused(tav, tmp_path):
    (tmp_path / "token").write_text("\n")
    result = tav("jobs", "--token-file", tmp_path / "token")
    assert (result.exit_code, "is empty" in result.stderr) == (ConfigError.exit_code, True)
