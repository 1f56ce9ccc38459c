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
        ("{", r"tav_sdk.json is not valid JSON"),
        ("[1]", r"tav_sdk.json is not valid: Input should be a valid dictionary.*; its keys are height, width"),
        (
            '{"steps": 3}',
            r"is not valid: steps: Extra inputs are not permitted, got 3; its keys are height, width, num_train",
        ),
        ('{"num_train_steps": 1.5}', r"num_train_steps: Input should be a valid integer.*got 1.5"),
        ('{"learning_rate": 0}', r"learning_rate: Input should be greater than 0, got 0"),
        ('{"invert_with": "none"}', r"invert_with: Input should be 'empty' or 'caption', got 'none'"),
        ('{"guidance_scale": "3"}', r"guidance_scale: Input should be a valid number, got '3'"),
        ('{"guidance_scale": Infinity}', r"guidance_scale: Input should be"),
        ('{"height": null}', r"height: Input should be a valid integer, got None"),
        ('{"width": 1000000}', r"width: Input should be less than or equal to 8192, got 1000000"),
        ('{"num_inference_steps": 9223372036854775808}', r"num_inference_steps: Input should be less than or equal"),
        ('{"learning_rate": 1e400}', r"learning_rate: Input should be"),
        ("[" * 100_000, r"tav_sdk.json is nested more than 64 deep"),
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
    config = TuneConfig(base=str(base_copy), num_frames=4, num_train_steps=1, **{**CLIP, "video": clip_path})
    run = tune(config.replace(out=str(tmp_path / "run"), height=64, width=64))
    with load(export_bundle(run, tmp_path / "bundle", ExportOptions(windows=False))) as pipeline:
        manifest = pipeline.manifest
        assert (manifest.num_inference_steps, manifest.guidance_scale) == (7, 2.5)
        inversion = pipeline.invert(read_video(clip_path, num_frames=4, size=(64, 64)))
        assert (inversion.prompt, inversion.num_inversion_steps) == ("a man is skiing", 7)
        steps = []
        pipeline.edit("a panda", inversion, callback=lambda step: steps.append(step.stage))
        assert steps.count("sampling") == 7
