"""What a base is best tuned with."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tav_sdk import load, read_video
from tav_sdk.errors import BaseModelError
from tav_sdk.export import ExportOptions, export_bundle
from tav_sdk.training import PretrainedBase, TuneConfig, tune
from tav_sdk.training.base.recommended import read_recommended

CLIP: dict[str, Any] = {"video": "clip.mp4", "prompt": "a man is skiing", "out": "runs/skiing"}


def test_a_base_that_is_not_there_has_the_papers():
    found = read_recommended("nowhere")
    assert (found.height, found.width, found.num_train_steps, found.learning_rate) == (512, 512, 300, 3e-5)
    assert found.guidance_scale == 12.5


def test_the_size_is_what_the_base_was_trained_at(tiny_base):
    found = read_recommended(tiny_base)
    assert (found.height, found.width, found.num_train_steps) == (64, 64, 300)


def test_a_configuration_takes_what_the_base_recommends(base_copy):
    (base_copy / "tav_sdk.json").write_text('{"num_train_steps": 40, "learning_rate": 1e-3, "width": 128}')
    config = TuneConfig(base=str(base_copy), **CLIP)
    assert (config.height, config.width, config.num_train_steps, config.learning_rate) == (64, 128, 40, 1e-3)


def test_what_is_given_wins(base_copy):
    (base_copy / "tav_sdk.json").write_text('{"num_train_steps": 40}')
    assert TuneConfig(base=str(base_copy), num_train_steps=7, height=32, **CLIP).num_train_steps == 7


def test_pocket_is_the_default_base_and_has_its_own():
    config = TuneConfig(**CLIP)
    assert config.base == "pocket"
    assert (config.height, config.width) == (64, 64)
    own = json.loads((PretrainedBase("pocket").path / "tav_sdk.json").read_text())
    assert (config.num_train_steps, config.learning_rate) == (own["num_train_steps"], own["learning_rate"])


def test_the_recommendation_is_no_part_of_the_bases_identity(base_copy):
    before = PretrainedBase(base_copy).sha256
    (base_copy / "tav_sdk.json").write_text('{"num_train_steps": 40}')
    assert PretrainedBase(base_copy).sha256 == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"tav_sdk.json is damaged"),
        ("[1]", r"tav_sdk.json is damaged"),
        ('{"steps": 3}', r"has the unknown key 'steps'; known keys: height, width, num_train_steps"),
        ('{"num_train_steps": 1.5}', r"num_train_steps must be a positive int, got 1.5"),
        ('{"learning_rate": 0}', r"learning_rate must be a positive float, got 0"),
        ('{"invert_with": "none"}', r"invert_with must be one of empty, caption, got 'none'"),
        ('{"guidance_scale": "3"}', r"guidance_scale must be a positive float, got '3'"),
    ],
)
def test_a_damaged_recommendation_is_refused(base_copy, text, message):
    (base_copy / "tav_sdk.json").write_text(text)
    with pytest.raises(BaseModelError, match=message):
        TuneConfig(base=str(base_copy), **CLIP)


def test_a_bundle_keeps_what_its_base_recommends(base_copy, clip_path, tmp_path, traced_once):
    (base_copy / "tav_sdk.json").write_text(
        '{"num_inference_steps": 7, "guidance_scale": 2.5, "invert_with": "caption"}'
    )
    config = TuneConfig(base=str(base_copy), num_frames=2, num_train_steps=1, **{**CLIP, "video": clip_path})
    run = tune(config.replace(out=str(tmp_path / "run"), height=32, width=32))
    with load(export_bundle(run, tmp_path / "bundle", ExportOptions(windows=False))) as pipeline:
        manifest = pipeline.manifest
        assert (manifest.num_inference_steps, manifest.guidance_scale) == (7, 2.5)
        inversion = pipeline.invert(read_video(clip_path, num_frames=2, size=(32, 32)))
        assert (inversion.prompt, inversion.num_inversion_steps) == ("a man is skiing", 7)
        steps = []
        pipeline.edit("a panda", inversion, callback=lambda step: steps.append(step.stage))
        assert steps.count("sampling") == 7
