"""Videos longer than a bundle's clips: made window by window they equal those of one pass."""

import dataclasses
import json
import logging
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import UNET, WINDOWED_UNET
from tav_sdk.errors import BundleError, CancelledError, InputError, OutputError
from tav_sdk.export.bench.peers import SDPA, peer_engines
from tav_sdk.pipeline.pipeline import Pipeline, load
from tav_sdk.pipeline.windows import PastStore
from tav_sdk.training.checkpoint import load_tuned_weights
from tav_sdk.training.run_folder import load_run
from tav_sdk.training.unet.inflation import inflate
from tav_sdk.video.clip import Video, read_video

WINDOW = 4
LENGTHS = (WINDOW, WINDOW + 1, 2 * WINDOW + 3, 5 * WINDOW)
STEPS = 2
HOW = {"num_inference_steps": STEPS, "guidance_scale": 5.0}


def clip_of(num_frames, seed=0):
    rng = np.random.default_rng(seed)
    return Video(frames=rng.integers(0, 256, (num_frames, 64, 64, 3), dtype=np.uint8), fps=8)


@pytest.fixture(scope="module")
def pipeline(tiny_bundle):
    with load(tiny_bundle, engine="onnxruntime-cpu", cache=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def one_pass(tiny_run):
    """The inflated U-Net over all frames at once, in PyTorch."""
    from tav_sdk.training.run_base import base_of_run

    run = load_run(tiny_run)
    unet = inflate(base_of_run(run).load_unet(), run.config.inflation, WINDOW).eval()
    load_tuned_weights(unet, run.tuned_path)

    @torch.no_grad()
    def predict(sample, timestep, states):
        return unet(*(torch.from_numpy(np.array(x)) for x in (sample, timestep, states))).numpy()

    return predict


@pytest.fixture
def in_one_pass(pipeline, one_pass, monkeypatch):
    """``in_one_pass(job)``: what a job gives if the U-Net sees the whole video at once."""

    def run(job):
        with monkeypatch.context() as patch:
            patch.setattr(pipeline.unet, "over", lambda *_: one_pass)
            return job()

    return run


@pytest.mark.parametrize("num_frames", LENGTHS)
def test_inversion_window_by_window_equals_one_pass(pipeline, in_one_pass, num_frames):
    def job():
        return pipeline.invert(clip_of(num_frames), num_inversion_steps=STEPS).latents

    windowed, whole = job(), in_one_pass(job)
    assert windowed.shape[2] == num_frames
    assert abs(windowed - whole).max() < 1e-4 * abs(whole).max()


@pytest.mark.parametrize("num_frames", LENGTHS)
def test_sampling_with_guidance_window_by_window_equals_one_pass(pipeline, in_one_pass, num_frames, monkeypatch):
    inversion = pipeline.invert(clip_of(num_frames), num_inversion_steps=1)
    sampled = []
    monkeypatch.setattr(pipeline.vae, "decode", lambda latents, **_: iter([sampled.append(latents)]))

    def job():
        how = {"negative_prompt": "blur", "num_inference_steps": STEPS, "guidance_scale": 5.0}
        list(pipeline.edit_frames("a red square", inversion, **how))
        return sampled[-1]

    windowed, whole = job(), in_one_pass(job)
    assert abs(windowed - whole).max() < 1e-4 * abs(whole).max()


@pytest.mark.parametrize("num_frames", LENGTHS)
def test_generation_window_by_window_equals_one_pass(pipeline, in_one_pass, num_frames):
    def job():
        return pipeline.generate("a red square", num_frames=num_frames, seed=3, **HOW).frames

    windowed, whole = job(), in_one_pass(job)
    assert windowed.shape == (num_frames, 64, 64, 3)
    assert np.abs(windowed.astype(int) - whole).max() <= 1  # rounding to 8 bits


def test_the_one_pass_of_a_longer_video_is_not_that_of_its_parts(pipeline, one_pass):
    """Windows that knew nothing of each other would not pass the tests above."""
    noise = np.random.default_rng(0).standard_normal((1, 4, 2 * WINDOW, 8, 8), dtype=np.float32)
    states = pipeline.encode_prompt("a red square")
    whole = one_pass(noise, np.asarray(500), states)
    second = one_pass(noise[:, :, WINDOW:], np.asarray(500), states)
    assert abs(whole[:, :, WINDOW:] - second).max() > 1e-2 * abs(whole).max()


def test_a_shorter_clip_is_taken_too(pipeline, in_one_pass):
    def job():
        return pipeline.invert(clip_of(2), num_inversion_steps=STEPS).latents

    assert abs(job() - in_one_pass(job)).max() < 1e-4


@pytest.mark.parametrize("max_bytes", [10**9, 0], ids=["in memory", "on disk"])
def test_a_stream_gives_the_frames_of_an_edit(pipeline, max_bytes):
    clip = clip_of(2 * WINDOW + 3)
    inversion = pipeline.invert(clip, num_inversion_steps=STEPS)
    whole = pipeline.edit("a red square", inversion, **HOW).frames
    seen = []
    how = {"num_inversion_steps": STEPS, "max_bytes": max_bytes, "callback": seen.append, **HOW}
    parts = list(pipeline.stream("a red square", clip, **how))
    assert [(step.item.index, step.item.count) for step in seen[:: 2 * STEPS]] == [
        (1, 3),
        (2, 3),
        (3, 3),
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_stream_gives_its_first_frames_before_it_reads_the_last(pipeline):
    class Clip(Video):
        read = 0

        def chunks(self, length):
            for chunk in super().chunks(length):
                type(self).read += len(chunk)
                yield chunk

    clip = Clip(frames=clip_of(3 * WINDOW).frames, fps=8)
    stream = pipeline.stream("a red square", clip, num_inversion_steps=1, num_inference_steps=1)
    assert len(next(stream)) == WINDOW
    assert Clip.read == WINDOW
    stream.close()


def test_the_posterior_is_drawn_alike_in_parts_and_at_once(pipeline):
    clip = clip_of(2 * WINDOW + 1)
    latents = pipeline.encode(clip, posterior_seed=5)
    parts = list(pipeline.vae.latents(clip, WINDOW, 5))
    np.testing.assert_allclose(np.concatenate(parts, axis=2), latents, atol=1e-6)
    assert abs(latents - pipeline.encode(clip)).max() > 0


def test_a_fast_inversion_goes_window_by_window_too(pipeline, in_one_pass):
    def job():
        return pipeline.invert(clip_of(WINDOW + 1), fast=True, num_inversion_steps=2).latents

    windowed, whole = job(), in_one_pass(job)
    assert abs(windowed - whole).max() < 1e-3 * abs(whole).max()


def test_windows_are_reported_and_can_be_cancelled(pipeline):
    seen = []
    pipeline.generate("a red square", num_frames=WINDOW + 1, callback=seen.append, **HOW)
    windows = [(step.step, step.part.index, step.part.count) for step in seen if step.part]
    assert windows == [(step + 1, window, 2) for step in range(STEPS) for window in (1, 2)]
    assert {(step.stage, step.total) for step in seen if step.part} == {("sampling", STEPS)}
    with pytest.raises(CancelledError, match=f"sampling was cancelled after step 1 of {STEPS}, part 1 of 2"):
        pipeline.generate("a red square", num_frames=WINDOW + 1, callback=lambda step: False, **HOW)


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["inversion", "sampling"])
def test_a_killed_edit_goes_on_where_it_stopped(tiny_bundle, monkeypatch, stage):
    monkeypatch.setattr("tav_sdk.pipeline.resume.SECONDS", 0)
    clip, seen = clip_of(WINDOW + 1), []

    def stop(step):
        if step.stage == stage and step.step == 1 and step.part is None:
            raise KeyboardInterrupt

    def edit(callback=None):
        with load(tiny_bundle, engine="onnxruntime-cpu") as pipeline:
            inversion = pipeline.invert(clip, num_inversion_steps=STEPS, callback=callback)
            return pipeline.edit("a red square", inversion, callback=callback, **HOW).frames

    with pytest.raises(KeyboardInterrupt):
        edit(stop)
    resumed = edit(seen.append)
    # What was reported when it was stopped, the first step, is kept already.
    steps = [step for step in seen if step.stage == stage and step.part is None]
    assert [step.step for step in steps] == [1, 2]
    assert steps[0].resumed == "interrupted"
    with load(tiny_bundle, engine="onnxruntime-cpu", cache=False) as pipeline:
        inversion = pipeline.invert(clip, num_inversion_steps=STEPS)
        np.testing.assert_array_equal(pipeline.edit("a red square", inversion, **HOW).frames, resumed)
    seen.clear()
    edit(seen.append)  # nothing is left of what is finished
    assert [step.step for step in seen if step.stage == "sampling" and step.part is None] == [1, 2]


def interrupt_sampling(step):
    if step.stage == "sampling" and step.part is None:
        raise KeyboardInterrupt


def test_another_edit_does_not_go_on_with_it(tiny_bundle, monkeypatch):
    monkeypatch.setattr("tav_sdk.pipeline.resume.SECONDS", 0)
    seen = []
    with load(tiny_bundle, engine="onnxruntime-cpu") as pipeline:
        with pytest.raises(KeyboardInterrupt):
            pipeline.generate("a red square", num_frames=5, callback=interrupt_sampling, **HOW)
        pipeline.generate("a blue square", num_frames=5, callback=seen.append, **HOW)
    assert [step.step for step in seen if step.stage == "sampling" and step.part is None] == [1, 2]


def test_a_damaged_remainder_is_not_used(tiny_bundle, monkeypatch, caplog):
    from tav_sdk.cache.limits import cache_root

    monkeypatch.setattr("tav_sdk.pipeline.resume.SECONDS", 0)
    seen = []
    with load(tiny_bundle, engine="onnxruntime-cpu") as pipeline:
        with pytest.raises(KeyboardInterrupt):
            pipeline.generate("a red square", num_frames=5, callback=interrupt_sampling, **HOW)
        (kept,) = (cache_root() / "unfinished").glob("*/latents.npy")
        kept.write_bytes(kept.read_bytes()[:-4] + b"abcd")
        with caplog.at_level(logging.WARNING, "tav_sdk"):
            pipeline.generate("a red square", num_frames=5, callback=seen.append, **HOW)
    assert [step.step for step in seen if step.stage == "sampling" and step.part is None] == [1, 2]
    assert "is not used" in caplog.text


# --- bundles that cannot continue -------------------------------------------------------------------------------------


@pytest.fixture
def blended(tiny_bundle, tiny_run):
    """A pipeline whose U-Net was given, so that it has no windowed one."""
    bundle = Bundle(tiny_bundle)
    engine = peer_engines(SDPA, load_run(tiny_run), bundle)[UNET]
    with Pipeline(bundle, engine="onnxruntime-cpu", engines={UNET: engine}, cache=False) as pipeline:
        yield pipeline


def test_without_a_windowed_graph_windows_are_blended(blended):
    assert not blended.exact_long_video
    video = blended.generate("a red square", num_frames=11, **HOW)
    assert video.num_frames == 11


def test_without_a_windowed_graph_nothing_is_streamed(blended):
    with pytest.raises(BundleError, match="cannot be streamed: it was exported without windows"):
        blended.stream("a red square", clip_of(9))


def test_without_a_windowed_graph_a_clip_is_not_shorter_than_a_window(blended):
    with pytest.raises(InputError, match="clip must have 4 frames or more of 64x64"):
        blended.invert(clip_of(3))
    with pytest.raises(InputError, match=r"makes videos of at least 4 frames, .*; got 3"):
        blended.generate("a red square", num_frames=3)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"num_inversion_steps": 0}, "num_inversion_steps must be a whole number from 1 to 1000, got 0"),
        ({"num_inference_steps": 1001}, "num_inference_steps must be a whole number from 1 to 1000, got 1001"),
        ({"guidance_scale": np.inf}, "guidance_scale must be a finite number, got inf"),
    ],
)
def test_a_stream_refuses_bad_numbers_at_once(pipeline, how, text):
    with pytest.raises(InputError, match=text):
        pipeline.stream("a red square", clip_of(9), **how)


def test_no_frames_are_refused(pipeline):
    with pytest.raises(InputError, match="num_frames must be a whole number from 1 to 1000000, got 0"):
        pipeline.generate("a red square", num_frames=0)


# --- the command line -------------------------------------------------------------------------------------------------


def test_edit_of_all_frames(tav, tiny_bundle, clip_path, tmp_path):
    out = tmp_path / "out"
    how = ("--prompt", "a red square", "--num-inference-steps", 2, "--start", 0, "--stride", 1, "--frames", "all")
    result = tav("edit", tiny_bundle, "--video", clip_path, *how, "--window", WINDOW, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "10 frames, 3 windows of 4: as in one pass" in result.stderr
    made = read_video(out / "00.mp4")
    assert made.num_frames == 10
    record = json.loads((out / "edits.json").read_text())
    assert record["num_frames"] == 10
    assert {path.name for path in out.iterdir()} == {"00.mp4", "source.mp4", "sheet.png", "edits.json"}

    streamed = tmp_path / "streamed"
    result = tav("edit", tiny_bundle, "--video", clip_path, *how, "--stream", "--out", streamed)
    assert result.exit_code == 0, result.stderr
    assert "watch the video as it grows" in result.stderr
    assert read_video(streamed / "00.mp4").num_frames == 10


def test_a_bundle_without_a_windowed_graph_says_that_it_is_approximate(
    tav, bundle_copy, edit_manifest, clip_path, tmp_path
):
    edit_manifest(lambda manifest: manifest["graphs"].pop(WINDOWED_UNET))  # as older versions wrote it
    how = ("--prompt", "a red square", "--num-inference-steps", 1, "--start", 0, "--stride", 1, "--frames", "all")
    result = tav("edit", bundle_copy, "--video", clip_path, *how, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert (
        "10 frames by overlapping windows of 4, which is approximate: it was exported without windows" in result.stderr
    )
    assert read_video(tmp_path / "out" / "00.mp4").num_frames == 10
    result = tav("edit", bundle_copy, "--video", clip_path, *how, "--stream", "--out", tmp_path / "streamed")
    assert result.exit_code == 2
    assert "cannot be streamed" in result.stderr


def test_generate_more_frames(tav, tiny_bundle, tmp_path):
    out = tmp_path / "out"
    how = ("--prompt", "a red square", "--num-inference-steps", 2, "--frames", 6, "--format", "gif")
    assert tav("generate", tiny_bundle, *how, "--out", out).exit_code == 0
    assert read_video(out / "00.gif").num_frames == 6


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--frames", "many"], "--frames must be a whole number from 1 to 1000000, or all, got 'many'"),
        (["--frames", "0"], "--frames must be a whole number from 1 to 1000000, or all, got 0"),
        (["--frames", "99"], "99 frames from start 0 at stride 1 need 99"),
        (["--window", 8], "--window must be 4, the frames that the bundle's graphs take at a time, got 8"),
        (["--stream", "--fast"], "--stream does not go with a fast inversion; leave one of them out"),
        (["--stream", "--format", "gif"], "--format must be mp4 with streaming, got gif"),
        (["--stream", "--reconstruct"], "--stream does not go with a reconstruction"),
        (["--stream", "--correction", "negative-prompt"], "--stream does not go with a correction"),
        (["--stream", "--prompt", "two"], "--prompt must be one with streaming, got 2"),
        (
            ["--frames", "8", "--control", "canny", "--controlnet", "pocket"],
            "--frames must be left out with a control, got 8",
        ),
    ],
)
def test_bad_options_of_long_edits(tav, tiny_bundle, clip_path, tmp_path, options, text):
    how = ("--prompt", "one", "--start", 0, "--stride", 1, "--out", tmp_path / "out")
    result = tav("edit", tiny_bundle, "--video", clip_path, *how, *options)
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_the_windowed_graph_shares_the_weights(tiny_bundle):
    bundle = Bundle(tiny_bundle)
    unet, windowed = bundle.graph(UNET), bundle.graph(WINDOWED_UNET)
    assert windowed.path.parent == unet.path.parent
    assert windowed.tuned == unet.tuned
    assert windowed.key != unet.key
    assert windowed.path.stat().st_size < 3 * unet.path.stat().st_size
    data = {path.name for path in unet.path.parent.iterdir() if "data" in path.name}
    assert data == {"model.onnx_data", "tuned.onnx_data"}


def kept(store: PastStore, index: int) -> Mapping[str, np.ndarray]:
    found = store.get(index)
    assert found is not None
    return found


def test_what_is_kept_goes_to_disk_beyond_the_limit(tmp_path):
    first, second = ({"past.x": np.full((2, 3), value, np.float32)} for value in (1, 2))
    with PastStore(max_bytes=24, folder=tmp_path) as store:
        assert store.get(0) is None
        store.put(0, first)
        store.put(1, second)
        assert len(list(tmp_path.rglob("*.npy"))) == 1
        np.testing.assert_array_equal(kept(store, 0)["past.x"], first["past.x"])
        np.testing.assert_array_equal(kept(store, 1)["past.x"], second["past.x"])
        store.put(1, first)
        np.testing.assert_array_equal(kept(store, 1)["past.x"], first["past.x"])
    assert not list(tmp_path.iterdir())


def test_a_full_disk_says_what_to_do(tmp_path):
    with PastStore(max_bytes=0, folder=tmp_path / "gone") as store, pytest.raises(OutputError) as caught:
        store.put(0, {"past.x": np.zeros(3, np.float32)})
    assert "cannot write its temporary files to" in str(caught.value)
    assert "edit without streaming" in str(caught.value)


def test_a_pipeline_says_what_graphs_it_takes(tiny_bundle, pipeline):
    engine = dataclasses.make_dataclass("Engine", ["name"])("x")
    with pytest.raises(InputError, match="the bundle has no 'decoder' graph; its graphs are text_encoder"):
        Pipeline(Bundle(tiny_bundle), engines={"decoder": engine})
