"""The base model in the package, and its sample clips."""

from __future__ import annotations

import numpy as np
import pytest

import tav_sdk
from tav_sdk.errors import InputError
from tav_sdk.pocket import CLIP, FOLDER, find_base, sample_clip, sample_clips

KINDS = {"subject", "background", "attribute", "style"}


def test_it_has_the_parts_of_stable_diffusion_and_a_clip():
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        assert list((FOLDER / part).glob("*.json")), part
    assert (CLIP / "model.safetensors").is_file()
    assert not [path for path in FOLDER.rglob("*") if path.suffix in (".bin", ".pt", ".ckpt")]


def test_it_is_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 40e6


def test_pocket_is_the_folder_in_the_package_unless_a_base_of_that_name_is_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_base("pocket") == FOLDER
    (tmp_path / "pocket").mkdir()
    assert find_base("pocket") == FOLDER
    (tmp_path / "pocket" / "unet").mkdir()
    assert find_base("pocket").resolve() == tmp_path / "pocket"
    assert str(find_base("sd14")) == "sd14"


def test_there_are_six_clips_or_more_of_different_subjects():
    clips = sample_clips()
    assert len(clips) >= 6
    assert len({name.split("-")[0] for name in clips}) == len(clips)


@pytest.mark.parametrize("name", sample_clips())
def test_a_clip_can_be_read_and_moves_half_the_frame(name):
    clip = sample_clip(name)
    video = tav_sdk.read_video(clip.path)
    assert video.frames.shape == (8, 64, 64, 3)
    assert clip.centers.shape == (8, 2)
    assert np.ptp(clip.centers[:, 0]) >= 0.5
    assert set(clip.edits) == KINDS
    assert len({clip.caption, *clip.edits.values()}) == 5


def test_an_unknown_clip_is_refused():
    with pytest.raises(InputError, match="there is no sample clip 'dog'; there are: car-road, bus-beach"):
        sample_clip("dog")
