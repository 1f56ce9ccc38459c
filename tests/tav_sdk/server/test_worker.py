"""A worker process: what it makes, what it says, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import Any

import pytest
from PIL import Image

import tav_sdk
from tav_sdk import edits
from tav_sdk.files import sha256_of
from tav_sdk.server.protocol import Cancel, Completed, Failed, Previewed, Progressed, Ready, Run, line_of, word_of
from tav_sdk.server.video_request import request_of

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has neither modes nor SIGKILL")

PARAMS = {
    "prompt": "a blue circle",
    "mode": "edit",
    "num_inference_steps": 2,
    "extra_params": {"num_inversion_steps": 2},
}


class Process:
    def __init__(self, process, commands, words):
        self.process, self.commands, self.words = process, commands, words

    def send(self, command):
        os.write(self.commands, line_of(command))

    def hear(self):
        line = self.words.readline()
        return word_of(line) if line else None

    def until(self, *kinds):
        heard = []
        while word := self.hear():
            heard.append(word)
            if isinstance(word, kinds):
                return heard
        raise AssertionError(f"the worker ended; it said {heard}")


KEEPS_OFTEN = (
    "import runpy, tav_sdk.pipeline.resume as r; r.SECONDS = 0.05;"
    "runpy.run_module('tav_sdk.server.worker', run_name='__main__')"
)
"""A worker that keeps latents twenty times a second, not every ten seconds."""


@contextmanager
def a_worker(max_bases=1, *, program=("-m", "tav_sdk.server.worker")):
    commands, commands_write = os.pipe()
    words_read, words = os.pipe()
    process = subprocess.Popen(
        [sys.executable, *program, str(commands), str(words), "onnxruntime-cpu", str(max_bases)],
        pass_fds=(commands, words),
    )
    os.close(commands)
    os.close(words)
    with open(words_read, "rb") as pipe:
        try:
            yield Process(process, commands_write, pipe)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def worker():
    with a_worker() as one:
        assert isinstance(one.hear(), Ready)
        yield one


def run(bundle, out, *, source=None, fence=1, **changes):
    params = {**PARAMS, **changes}
    return Run(
        job="video_1",
        fence=fence,
        kind="video",
        params=params,
        bundle=str(bundle),
        source=None if source is None else str(source),
        out=str(out),
    )


def test_a_video_is_that_of_an_edit_in_process(worker, tiny_bundle, clip_path, tmp_path):
    worker.send(run(tiny_bundle, tmp_path / "out", source=clip_path))
    heard = worker.until(Completed, Failed)
    assert isinstance(heard[-1], Completed), heard[-1]
    with tav_sdk.load(tiny_bundle, engine="onnxruntime-cpu", cache=False) as pipeline:
        wanted = edits.make(request_of(PARAMS), pipeline, tmp_path / "wanted", video=clip_path)
    assert (tmp_path / "out" / "video.mp4").read_bytes() == (wanted.folder / "00.mp4").read_bytes()
    names = {"video.mp4", "source.mp4", "thumbnail.webp", "spritesheet.webp", "sheet.png", "edits.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    record = json.loads((tmp_path / "out" / "edits.json").read_text())
    assert record["edits"] == [{"file": "video.mp4", "prompt": "a blue circle"}]
    result = heard[-1].result
    assert result["num_frames"] == 4
    assert set(result["stage_durations"]) >= {"sampling", "decode", "write"}
    percents = [word.progress for word in heard if isinstance(word, Progressed)]
    assert percents == sorted(percents)
    assert percents[-1] == 99
    assert isinstance(worker.hear(), Ready)


def test_pictures_show_the_frames(worker, tiny_bundle, clip_path, tmp_path):
    worker.send(run(tiny_bundle, tmp_path / "out", source=clip_path))
    worker.until(Completed)
    assert isinstance(worker.hear(), Ready)
    video = tav_sdk.read_video(tmp_path / "out" / "video.mp4")
    with Image.open(tmp_path / "out" / "thumbnail.webp") as thumbnail:
        assert thumbnail.size == (video.width, video.height)
    with Image.open(tmp_path / "out" / "spritesheet.webp") as sheet:
        assert sheet.size == (2 * video.width, 2 * video.height)


def test_a_generation_with_previews(worker, tiny_bundle, tmp_path):
    more = {"mode": "generate", "seed": 3, "extra_params": {"preview": True}}
    worker.send(run(tiny_bundle, tmp_path / "out", **more))
    heard = worker.until(Completed, Failed)
    assert isinstance(heard[-1], Completed), heard[-1]
    assert any(isinstance(word, Previewed) for word in heard)
    with Image.open(tmp_path / "out.preview.webp") as picture:
        assert max(picture.size) <= 256
    assert isinstance(worker.hear(), Ready)


def test_a_cancelled_job_ends_after_the_evaluation_and_leaves_nothing(worker, tiny_bundle, clip_path, tmp_path):
    command = run(tiny_bundle, tmp_path / "out", source=clip_path, num_inference_steps=200)
    worker.send(command)
    worker.until(Progressed)
    worker.send(Cancel(job=command.job, fence=command.fence))
    failed = worker.until(Completed, Failed)[-1]
    assert isinstance(failed, Failed)
    assert (failed.code, failed.message) == ("cancelled", "the job was cancelled")
    assert list(tmp_path.iterdir()) == []
    assert isinstance(worker.hear(), Ready)


@pytest.mark.parametrize(
    ("how", "code"),
    [("no bundle", "bundle_damaged"), ("no clip", "invalid_video"), ("short clip", "invalid_video")],
)
def test_a_failure_is_told_without_paths_and_the_next_job_runs(how, code, worker, tiny_bundle, clip_path, tmp_path):
    broken = tmp_path / "clip.mp4"
    if how == "short clip":
        broken.write_bytes(clip_path.read_bytes()[:3000])
    source = clip_path if how == "no bundle" else broken
    worker.send(run(tmp_path / "none" if how == "no bundle" else tiny_bundle, tmp_path / "out", source=source))
    failed = worker.until(Completed, Failed)[-1]
    assert isinstance(failed, Failed)
    assert failed.code == code
    assert "/" not in failed.message
    assert isinstance(worker.hear(), Ready)
    worker.send(run(tiny_bundle, tmp_path / "out", source=clip_path))
    assert isinstance(worker.until(Completed, Failed)[-1], Completed)
    assert isinstance(worker.hear(), Ready)


def test_another_clip_of_the_base_is_a_swap(worker, tiny_bundle, other_bundle, clip_path, tmp_path):
    made = {}
    for name, bundle in (("one", tiny_bundle), ("other", other_bundle), ("again", tiny_bundle)):
        worker.send(run(bundle, tmp_path / name, source=clip_path))
        worker.until(Completed)
        assert isinstance(worker.hear(), Ready)
        made[name] = (tmp_path / name / "video.mp4").read_bytes()
    assert made["one"] == made["again"] != made["other"]


def test_a_worker_ends_with_its_server(tiny_bundle, tmp_path):
    with a_worker() as one:
        assert isinstance(one.hear(), Ready)
        one.send(run(tiny_bundle, tmp_path / "out", mode="generate", num_inference_steps=900))
        one.until(Progressed)
        os.close(one.commands)
        assert one.process.wait(10) == 0
    assert not (tmp_path / "out").exists()


def test_a_worker_leaves_ctrl_c_and_sigterm_to_its_server():
    with a_worker() as one:
        assert isinstance(one.hear(), Ready)
        one.process.send_signal(signal.SIGINT)
        one.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert one.process.poll() is None


def test_a_long_edit_goes_on_where_the_worker_died(tiny_bundle, clip_path, tmp_path, monkeypatch):
    steps: dict[str, Any] = {"num_frames": 10, "num_inference_steps": 30}
    more: dict[str, Any] = {"extra_params": {"num_inversion_steps": 30, "start": 0, "stride": 1}}
    bytes_of = {}
    for name in ("whole", "killed"):
        monkeypatch.setenv("TAV_CACHE", str(tmp_path / f"cache-{name}"))
        with a_worker(program=("-c", KEEPS_OFTEN)) as one:
            one.send(run(tiny_bundle, tmp_path / name, source=clip_path, **steps, **more))
            while name == "killed":
                word = one.hear()
                if isinstance(word, Progressed) and (word.stage, word.step) == ("sampling", 20):
                    one.process.kill()
                    break
            else:
                assert isinstance(one.until(Completed, Failed)[-1], Completed)
                bytes_of[name] = (tmp_path / name / "video.mp4").read_bytes()
    with a_worker(program=("-c", KEEPS_OFTEN)) as one:
        one.send(run(tiny_bundle, tmp_path / "again", source=clip_path, fence=2, **steps, **more))
        heard = one.until(Completed, Failed)
    assert isinstance(heard[-1], Completed), heard[-1]
    first = next(word for word in heard if isinstance(word, Progressed) and word.stage == "sampling")
    assert first.step > 1
    assert not any(isinstance(word, Progressed) and word.stage == "inversion" and word.step_s for word in heard)
    assert (tmp_path / "again" / "video.mp4").read_bytes() == bytes_of["whole"]


def test_a_tuning_goes_on_where_the_worker_died_makes_a_model_and_ends_the_worker(
    tiny_base, clip_path, tmp_path, tiny_bundle
):
    from tav_sdk.training import TuneConfig, tune

    # As the bundle's, onto whose graphs it is exported.
    size: dict[str, Any] = {"num_frames": 4, "width": 64, "height": 64}
    params = {"base": str(tiny_base), "prompt": "a red square", "num_train_steps": 4, **size}
    heard = []
    for fence in (1, 2):
        out = tmp_path / f"tun_1.{fence}"
        with a_worker() as one:
            one.send(
                Run(
                    job="tun_1",
                    fence=fence,
                    kind="tuning",
                    params=params,
                    bundle=str(tiny_bundle),
                    source=str(clip_path),
                    out=str(out),
                )
            )
            while fence == 1:
                word = one.hear()
                if isinstance(word, Progressed) and word.stage == "tune" and word.step == 3:
                    one.process.kill()
                    break
            else:
                heard = one.until(Completed, Failed)
                assert isinstance(heard[-1], Completed), heard[-1]
                assert one.process.wait(20) == 0
    tuned = [word for word in heard if isinstance(word, Progressed) and word.stage == "tune"]
    assert all(word.snapshot for word in tuned)
    steps = [word.step for word in tuned]
    assert steps[-1] == 4
    assert steps[0] > 1
    result = heard[-1].result
    assert [snapshot["step"] for snapshot in result["snapshots"]] == [1, 2, 3, 4]
    assert result["snapshots"][-1]["loss"] == result["loss"] > 0
    assert not (tmp_path / "tun_1.run").exists()
    config = TuneConfig(
        base=str(tiny_base), video=str(clip_path), prompt="a red square", out=str(tmp_path / "whole"), **size
    )
    whole = tune(config.replace(num_train_steps=4, checkpointing_steps=1))
    assert result["tuned_sha256"] == sha256_of(whole.tuned_path)
    with tav_sdk.load(out) as pipeline:
        assert pipeline.manifest.prompt == "a red square"
