"""Export and edit of bases that are no plain folder of Stable Diffusion 1.x."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch

from tav_sdk import load, read_video
from tav_sdk.bundle.tokenizer import Tokenizer
from tav_sdk.export import ExportOptions, export_bundle
from tav_sdk.training import PretrainedBase, TuneConfig, base_of_run, load_run, tune

SIZE: dict[str, Any] = {"height": 16, "width": 16, "num_frames": 2}
PROMPT = "a red square is moving"


@pytest.fixture(scope="session")
def sd2_run(made_once, single_file, make_lora, tiny_base, clip_path):
    """A single file of 2.x at 768 (v-prediction) with a LoRA, tuned for a step; do not write into it."""

    def make(path):
        path.mkdir()
        shutil.copy(single_file("sd2"), path / "sd2.safetensors")
        make_lora(path / "ink.safetensors", base="sd2")
        tune(
            TuneConfig(
                base=path / "sd2.safetensors",
                tokenizer=tiny_base / "tokenizer",
                prediction_type="v_prediction",
                loras=(f"{path / 'ink.safetensors'}:0.5",),
                video=clip_path,
                prompt=PROMPT,
                out=path / "run",
                num_train_steps=1,
                learning_rate=1e-3,
                **SIZE,
            )
        )

    return made_once("sd2-run", make) / "run"


@pytest.fixture(scope="session")
def sd2_bundle(made_once, sd2_run):
    """The same, exported in half precision; do not write into it."""
    return made_once(
        "sd2-bundle", lambda path: export_bundle(sd2_run, path, ExportOptions(precision="fp16", windows=False))
    )


def test_the_bundle_has_what_2x_needs(sd2_bundle):
    with load(sd2_bundle) as pipeline:
        assert pipeline.schedule.prediction_type == "v_prediction"
        assert "attention" in pipeline.manifest.graphs["unet"].kept  # upcast_attention
        assert Tokenizer.from_folder(sd2_bundle / "tokenizer").pad_token == "!"
        assert pipeline.manifest.provenance["base"]["loras"][0]["name"] == "ink.safetensors"


def test_no_path_of_this_machine_is_in_the_manifest(sd2_bundle, sd2_run):
    text = (sd2_bundle / "manifest.json").read_text()
    assert str(sd2_run.parent) not in text
    assert not {"loras", "tokenizer"} & set(json.loads(text)["provenance"]["tuning"])


def test_the_lora_is_in_the_exported_graphs(sd2_bundle, sd2_run, family):
    with load(sd2_bundle) as pipeline:
        got = pipeline.encode_prompt(PROMPT)
    ids = torch.from_numpy(base_of_run(load_run(sd2_run)).load_tokenizer()(PROMPT))
    with torch.no_grad():
        fused = base_of_run(load_run(sd2_run)).load_text_encoder()(ids)[0].numpy()
        plain = PretrainedBase(family("sd2")).load_text_encoder()(ids)[0].numpy()
    assert np.abs(got - fused).max() < 2e-2 < np.abs(plain - fused).max()


def test_a_clip_is_inverted_and_edited(sd2_bundle, clip_path):
    clip = read_video(clip_path, num_frames=2, size=(16, 16))
    with load(sd2_bundle) as pipeline:
        inversion = pipeline.invert(clip, num_inversion_steps=4)
        video = pipeline.edit("a blue circle", inversion, num_inference_steps=4, guidance_scale=2.0)
    assert video.frames.shape == (2, 16, 16, 3)
    assert np.isfinite(inversion.latents).all()
