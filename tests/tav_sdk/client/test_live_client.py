"""The client and its commands against a real server."""

from __future__ import annotations

import json

import pytest

from tav_sdk.client import Client, JobFailedError, ServerError, Video


@pytest.fixture
def client(live):
    with Client(live.url) as made:
        yield made


def test_from_the_prompt_to_the_file_and_a_remix(client, live, clip_path, tmp_path):
    assert {model.id for model in client.models()} == {"skiing", "bare"}
    made = client.create(
        "a blue circle", clip_path, "skiing", num_inference_steps=60, adapter_scale=0.5
    )  # a stage of 0.1 s may go unsaid
    states: list[Video] = []
    done = client.wait(made, states.append)
    assert (done.id, done.status, done.progress, done.error) == (made.id, "completed", 100, None)
    assert {"inversion", "sampling"} <= {state.stage for state in states}
    assert [state.progress for state in states] == sorted(state.progress for state in states)
    assert done.extra_params["adapter_scale"] == 0.5
    out = client.download(done, tmp_path / "new" / "blue.mp4")
    assert out.read_bytes() == live.ask("GET", f"/v1/videos/{done.id}/content").content
    remix = client.wait(client.remix(done, "a red circle"))
    assert (remix.remixed_from_video_id, remix.num_inference_steps) == (done.id, 60)
    types = [event.type for event in client.events(remix)]
    assert (types[0], types[-1]) == ("video.queued", "video.completed")
    assert [one.id for one in client.list(limit=2)] == [remix.id, done.id]
    for job in (remix, done):
        client.delete(job)
    with pytest.raises(ServerError) as gone:
        client.get(done)
    assert (gone.value.status, gone.value.code) == (404, "video_not_found")


def test_a_cancelled_job_ends_the_wait(client):
    made = client.create("a blue circle", model="skiing", num_inference_steps=200)
    client.cancel(made)
    with pytest.raises(JobFailedError) as failed:
        client.wait(made)
    assert (failed.value.code, failed.value.job.status) == ("cancelled", "failed")
    client.delete(made)


def test_the_commands(tav, live, tmp_path):
    server = ("--server", live.url)
    prompt = ("--model", "skiing", "--prompt", "a blue circle", "--num-inference-steps", 60)
    result = tav("submit", *prompt, "--out", tmp_path / "out.mp4", *server)
    assert result.exit_code == 0, result.output
    job = result.stdout.strip()
    assert "sampling" in result.stderr
    assert (tmp_path / "out.mp4").read_bytes()[4:8] == b"ftyp"
    listed = json.loads(tav("jobs", "--json", *server).stdout)
    assert job in [one["id"] for one in listed]
    assert job in tav("jobs", *server).stdout
    assert json.loads(tav("watch", job, "--json", *server).stdout.splitlines()[-1])["status"] == "completed"
    result = tav("download", job, "--variant", "thumbnail", "--out", tmp_path, *server)
    assert (tmp_path / f"{job}.webp").is_file(), result.output
    result = tav("download", job, "--out", tmp_path / "out.mp4", *server)
    assert (result.exit_code, "is there already" in result.stderr) == (2, True)
    result = tav("submit", *prompt, "--guidance-scale", 90, *server)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: guidance_scale must be a number from 0 to 20, got 90\n"
