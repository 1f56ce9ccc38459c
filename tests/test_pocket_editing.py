"""Real edits: Pocket is tuned on a sample clip, and an independent classifier says what the edits show."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.pocket_editing import ClipEditor, Edit
from benchmarks.pocket_judge import Judge
from tav_sdk.pocket import sample_clip
from tav_sdk.training import InflationOptions, PretrainedBase

STEPS = 20
SNOW = Edit.of("background", subject="car", background="snow", color="red")
PIXELS = Edit.of("style", subject="car", background="road", color="red", style="pixel art")


@pytest.fixture(scope="module")
def editor() -> ClipEditor:
    return ClipEditor(PretrainedBase("pocket"), sample_clip("car-road"), [SNOW, PIXELS])


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@pytest.fixture(scope="module")
def pipeline(editor):
    model, _ = editor.model(InflationOptions(), num_train_steps=30, learning_rate=5e-4, seed=33)
    with editor.pipeline(model) as pipeline:
        yield pipeline


def test_an_edit_shows_what_the_prompt_says_and_keeps_the_motion(editor, judge, pipeline):
    noise = editor.invert(pipeline, STEPS, "caption")
    snow, pixels = editor.edit(pipeline, noise, STEPS, 3.5)
    scores = judge(snow, SNOW, editor.sample.centers)
    assert scores["subject"] >= 0.75
    assert scores["background"] >= 0.75
    assert scores["trajectory"] >= 0.9
    assert judge(pixels, PIXELS, editor.sample.centers)["style"] >= 0.75


def test_the_source_is_no_edit(editor, judge):
    scores = judge(editor.clip.frames, SNOW, editor.sample.centers)
    assert scores["background"] == 0
    assert scores["trajectory"] >= 0.95


def test_random_noise_does_not_keep_the_motion_as_an_inversion_does(editor, judge, pipeline):
    """The judge tells a good edit from a bad one."""
    snow, _ = editor.edit(pipeline, 0, STEPS // 2, 3.5)
    assert judge(snow, SNOW, editor.sample.centers)["trajectory"] < 0.9


def test_sampling_without_guidance_gives_the_clip_back(editor, pipeline):
    editor = ClipEditor(editor.base, editor.sample, [Edit.of("source", subject="car", background="road", color="red")])
    (back,) = editor.edit(pipeline, editor.invert(pipeline, 25, "caption"), 25, 1.0)
    error = np.square(back.astype(float) - editor.clip.frames).mean()
    assert 10 * np.log10(255**2 / error) > 20
