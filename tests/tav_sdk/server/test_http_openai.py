"""OpenAI's own client against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # OpenAI itself gives its Videos API up


@pytest.fixture(scope="module")
def client(live) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_video_is_made_watched_downloaded_remixed_and_deleted(client):
    extra = {"num_inference_steps": 2, "guidance_scale": 3.5, "extra_params": {"correction": "none", "stride": 1}}
    video = client.videos.create(prompt="a blue circle", model="skiing", extra_body=extra)
    assert (video.object, video.status, video.model) == ("video", "queued", "skiing")
    assert (video.guidance_scale, video.num_inference_steps, video.mode) == (3.5, 2, "edit")
    done = client.videos.poll(video.id, poll_interval_ms=100)
    assert (done.id, done.status, done.progress, done.error) == (video.id, "completed", 100, None)
    assert client.videos.retrieve(video.id).completed_at == done.completed_at
    content = client.videos.download_content(video.id).read()
    assert content[4:8] == b"ftyp"
    assert client.videos.download_content(video.id, variant="thumbnail").read()[8:12] == b"WEBP"
    remix = client.videos.remix(video.id, prompt="a green circle")
    assert (remix.remixed_from_video_id, remix.guidance_scale) == (video.id, 3.5)
    assert client.videos.poll(remix.id, poll_interval_ms=100).status == "completed"
    assert client.videos.download_content(remix.id).read() != content
    assert [one.id for one in client.videos.list(limit=2, order="desc")][:2] == [remix.id, video.id]
    for one in (video, remix):
        gone = client.videos.delete(one.id)
        assert (gone.id, gone.deleted, gone.object) == (one.id, True, "video.deleted")
    with pytest.raises(openai.NotFoundError) as caught:
        client.videos.retrieve(video.id)
    assert caught.value.code == "video_not_found"


def test_an_edit_with_a_file(client, clip_path):
    with clip_path.open("rb") as clip:
        body = {"model": "bare", "num_inference_steps": 1}
        video = client.videos.edit(prompt="a blue circle", video=clip, extra_body=body)
    assert video.mode == "edit"
    assert client.videos.poll(video.id, poll_interval_ms=100).status == "completed"
    client.videos.delete(video.id)


def test_create_and_poll_with_a_clip(client, clip_path):
    extra = {"num_inference_steps": 1, "extra_params": {"start": 1}}
    video = client.videos.create_and_poll(
        prompt="a blue circle", model="bare", input_reference=clip_path, extra_body=extra, poll_interval_ms=100
    )
    assert (video.status, video.extra_params["start"]) == ("completed", 1)
    client.videos.delete(video.id)


def test_keys_and_errors(client):
    key = {"Idempotency-Key": "openai-1"}
    asked = {"prompt": "p", "model": "bare", "extra_body": {"num_inference_steps": 1}, "extra_headers": key}
    first, again = client.videos.create(**asked), client.videos.create(**asked)
    assert first.id == again.id
    client.videos.poll(first.id, poll_interval_ms=100)
    client.videos.delete(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.videos.create(prompt="p", model="skiing", extra_body={"guidance_scal": 2})
    assert (caught.value.code, caught.value.param) == ("unknown_parameter", "guidance_scal")
    with pytest.raises(openai.NotFoundError) as caught:
        client.videos.create(prompt="p", model="none")
    assert caught.value.code == "model_not_found"


def test_models(client):
    assert {model.id for model in client.models.list()} >= {"skiing", "bare"}
    assert client.models.retrieve("skiing").owned_by == "tav-sdk"
