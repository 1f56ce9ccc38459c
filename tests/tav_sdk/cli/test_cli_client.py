"""The commands that send jobs to a server: what they refuse, and how they end."""

from __future__ import annotations

import contextlib
import json

import pytest

from tests.tav_sdk.client.stub import TUNING, VIDEO, Stub, answer, refusal, stream, video

DONE = video(status="completed", progress=100, attempts=1, prompt="a panda")
FAILED = video(status="failed", attempts=1, error={"code": "out_of_memory", "message": "too long"})


@pytest.fixture
def served(tav, monkeypatch):
    """``served(answers, *args)``: a command whose server gives these answers; the result, and what it asked."""

    def call(answers, *args):
        from tav_sdk.cli import download, jobs, submit, watch

        stub = Stub(*answers)
        for module in (download, jobs, submit, watch):
            monkeypatch.setattr(module, "client_of", lambda *_: contextlib.nullcontext(stub.client(retries=0)))
        return tav(*args), stub

    return call


@pytest.mark.parametrize("command", ["submit", "jobs", "watch", "download"])
def test_the_help_shows_an_example(tav, command):
    assert f"tav {command}" in tav(command, "--help").stdout.partition("Examples")[2]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("submit", "--model", "a"), "--prompt must be given at least once"),
        (("submit", "--prompt", "a", "--learning-rate", 1e-3), "--learning-rate is for tunings; give --tune as well"),
        (("submit", "--prompt", "a", "--tune"), "--video must be given with --tune"),
        (("submit", "--prompt", "a", "--tune", "--video", "x", "--fast"), "--fast is not for tunings"),
        (("submit", "--prompt", "a", "--tune", "--video", "x", "--generate"), "--generate is not for tunings"),
        (("submit", "--prompt", "a", "--tune", "--video", "x", "--out", "y"), "--out cannot be given with --tune"),
        (("submit", "--prompt", "a", "--remix", VIDEO, "--model", "x"), "--remix takes source and model"),
        (("submit", "--prompt", "a", "--prompt", "b", "--out", "x.mp4"), "--out must be a folder for several videos"),
        (("submit", "--prompt", "a", "--video", "missing.mp4"), "missing.mp4: there is no such file"),
        (("watch", "video_1"), "JOB must be a job's id"),
        (("watch", TUNING, "--out", "x.mp4"), "--out cannot be given for a tuning"),
        (("download", VIDEO, "--variant", "mp3"), "--variant must be one of video, thumbnail, spritesheet, sheet"),
        (("download", TUNING), "a tuning makes a model"),
        (("jobs", "--kind", "cat"), "--kind must be video or tuning, got cat"),
        (("jobs", "--server", "localhost:8000"), "--server must be an address such as http://127.0.0.1:8000"),
        (("jobs", "--token-file", "missing"), "missing cannot be read"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_sent(tav, work, monkeypatch, args, text):
    monkeypatch.chdir(work)
    monkeypatch.setenv("TAV_SERVER", "http://127.0.0.1:9")
    result = tav(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert text in result.stderr
    assert list(work.iterdir()) == []


def test_nobody_there_is_one_message(tav, monkeypatch):
    monkeypatch.setattr("tav_sdk.cli.server_options.RETRIES", 0)
    result = tav("jobs", "--server", "http://127.0.0.1:9")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: http://127.0.0.1:9 does not answer: ")
    assert result.stderr.count("\n") == 1


def test_watching_ends_as_the_job_did(served):
    result, _ = served([answer(DONE)], "watch", VIDEO)
    assert (result.exit_code, result.stderr) == (0, f"completed {VIDEO}\n")
    result, _ = served([answer(FAILED)], "watch", VIDEO)
    assert (result.exit_code, result.stderr) == (1, f"failed {VIDEO}: too long (out_of_memory)\n")


def test_each_stage_is_a_bar_and_ends_full(served):
    half = video(status="in_progress", attempts=1, progress=40, stage="sampling", step=20, total_steps=50)
    later = {**half, "stage": "write", "step": 0, "total_steps": 1, "progress": 99}
    events = stream((1, "video.progress", half), (2, "video.progress", later), (3, "video.completed", DONE))
    result, _ = served([answer(video(queue_position=2)), events], "watch", VIDEO)
    assert result.stderr.startswith(f"queued {VIDEO}; 2 wait before it\n")
    assert "50/50" in result.stderr
    assert result.exit_code == 0


def test_ids_are_printed_at_once_and_one_failure_is_an_exit_code(served):
    other = f"video_{'1' * 32}"
    answers = [answer(video()), answer(video(id=other)), answer(FAILED), answer({**DONE, "id": other})]
    result, stub = served(answers, "submit", "--prompt", "a", "--prompt", "b", "--wait")
    assert (result.exit_code, result.stdout) == (1, f"{VIDEO}\n{other}\n")
    assert [json.loads(one.content)["prompt"] for one in stub.requests[:2]] == ["a", "b"]
    result, _ = served([answer(video()), refusal(429, "queue_full")], "submit", "--prompt", "a", "--prompt", "b")
    assert (result.exit_code, result.stdout) == (2, f"{VIDEO}\n")


def test_json_is_what_the_server_said(served):
    result, _ = served([answer(DONE)], "watch", VIDEO, "--json")
    assert json.loads(result.stdout) == DONE
    result, _ = served([answer({"data": [DONE]}), answer({"data": []})], "jobs", "--json")
    assert json.loads(result.stdout) == [DONE]


def test_the_list_shows_state_and_reason(served):
    running = video(status="in_progress", stage="sampling", progress=40, created_at=1, prompt="\x1b[31m")
    result, _ = served([answer({"data": [FAILED, running]}), answer({"data": []})], "jobs")
    assert "out_of_memory" in result.stdout
    assert "sampling, 40%" in result.stdout
    assert "\x1b" not in result.stdout
