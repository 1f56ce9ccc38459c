"""A call runs with the weights that the pipeline had when it began, whatever is done to the pipeline meanwhile."""

from __future__ import annotations

import numpy as np
import pytest

import tav_sdk
from tav_sdk import edits
from tav_sdk.bundle.tokenizer import Tokenizer
from tav_sdk.request import EditRequest, InvertOptions, SampleOptions


@pytest.fixture
def pipeline(tiny_bundle):
    with tav_sdk.load(tiny_bundle, engine="onnxruntime-cpu", cache=False) as pipeline:
        yield pipeline


@pytest.fixture
def clip(pipeline, clip_path):
    m = pipeline.manifest
    return tav_sdk.read_video(clip_path, num_frames=m.num_frames, size=(m.height, m.width))


@pytest.fixture
def change(request, other_bundle):
    """What another thread does to a pipeline, by the parameter's name."""

    def swap(pipeline):
        pipeline.swap(other_bundle)

    def scale(pipeline):
        pipeline.adapter_scale = 0

    return {"swap": swap, "scale": scale}[request.param]


both = pytest.mark.parametrize("change", ["swap", "scale"], indirect=True)


def after_a_step(pipeline, change):
    def callback(step):
        if step.step == 1:
            change(pipeline)

    return callback


@both
def test_an_inversion_goes_on_with_its_weights(pipeline, clip, change):
    wanted = pipeline.invert(clip, num_inversion_steps=3)
    got = pipeline.invert(clip, num_inversion_steps=3, callback=after_a_step(pipeline, change))
    np.testing.assert_array_equal(got.latents, wanted.latents)
    later = pipeline.invert(clip, num_inversion_steps=3)
    assert (later.latents != wanted.latents).any()


@both
def test_frames_that_were_asked_for_come_with_the_weights_of_then(pipeline, clip, change):
    inversion = pipeline.invert(clip, num_inversion_steps=2)

    def frames(changed):
        parts = pipeline.edit_frames("a man", inversion, num_inference_steps=2)
        if changed:
            change(pipeline)
        return np.concatenate(list(parts))

    wanted = frames(changed=False)
    np.testing.assert_array_equal(frames(changed=True), wanted)
    assert (frames(changed=False) != wanted).any()


@both
def test_all_videos_of_one_call_have_the_same_weights(pipeline, clip, change):
    inversion = pipeline.invert(clip, num_inversion_steps=2)
    wanted = pipeline.edit(["a man", "a cat"], inversion, num_inference_steps=2)
    got = pipeline.edit(["a man", "a cat"], inversion, num_inference_steps=2, callback=after_a_step(pipeline, change))
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one.frames, other.frames)


@both
def test_a_stream_goes_on_with_its_weights(pipeline, clip, change):
    def frames(callback=None):
        parts = pipeline.stream("a man", clip, num_inversion_steps=2, num_inference_steps=2, callback=callback)
        return np.concatenate(list(parts))

    wanted = frames()
    np.testing.assert_array_equal(frames(after_a_step(pipeline, change)), wanted)


def test_a_fixed_pipeline_stays(pipeline, other_bundle, tiny_bundle):
    fixed = pipeline.fixed()
    pipeline.swap(other_bundle)
    pipeline.adapter_scale = 0.5
    assert (fixed.bundle.folder, fixed.adapter_scale) == (tiny_bundle, 1)
    fixed.adapter_scale = 0
    assert (pipeline.bundle.folder, pipeline.adapter_scale) == (other_bundle, 0.5)


@both
def test_an_edit_is_made_with_the_weights_and_facts_of_its_start(pipeline, clip_path, change, tmp_path, tiny_bundle):
    request = EditRequest(
        prompts=("a man", "a cat"),
        invert=InvertOptions(num_inversion_steps=2),
        sample=SampleOptions(num_inference_steps=2),
    )
    wanted = edits.make(request, pipeline, tmp_path / "wanted", video=clip_path)
    got = edits.make(request, pipeline, tmp_path / "got", video=clip_path, callback=after_a_step(pipeline, change))
    assert got.record == wanted.record
    assert got.record.settings["bundle"] == tiny_bundle.name
    for name in ("00.mp4", "01.mp4", "source.mp4"):
        assert (got.folder / name).read_bytes() == (wanted.folder / name).read_bytes()


def test_an_edit_leaves_the_pipelines_scale_as_it_is(pipeline, clip_path, tmp_path):
    request = EditRequest(
        prompts=("a man",),
        adapter_scale=0.5,
        invert=InvertOptions(num_inversion_steps=1),
        sample=SampleOptions(num_inference_steps=1),
    )
    edits.make(request, pipeline, tmp_path / "out", video=clip_path)
    assert pipeline.adapter_scale == 1


@both
def test_other_weights_read_nothing_of_the_base_again(pipeline, change, monkeypatch):
    def read_again(*_):
        raise AssertionError("the tokenizer is the base's")

    before = pipeline.encode_prompt("a man")
    monkeypatch.setattr(Tokenizer, "from_folder", read_again)
    change(pipeline)
    np.testing.assert_array_equal(pipeline.encode_prompt("a man"), before)
