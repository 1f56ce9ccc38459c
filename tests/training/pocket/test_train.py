from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline
from transformers import CLIPModel

from tav_sdk.errors import BaseModelError, ConfigError
from tav_sdk.training.pocket.autoencoder import train_autoencoder, train_decoder
from tav_sdk.training.pocket.clip_model import contrastive_loss, train_clip
from tav_sdk.training.pocket.clips import SAMPLE_CLIPS
from tav_sdk.training.pocket.config import RECOMMENDED, SETTINGS, SMALL, TrainingSetting, find_setting
from tav_sdk.training.pocket.controlnet import EdgeCache, build_controlnet, load_controlnet, train_controlnet
from tav_sdk.training.pocket.export import export_pocket
from tav_sdk.training.pocket.loop import Schedule, ThreadChoice, read_state
from tav_sdk.training.pocket.train import main
from tav_sdk.training.pocket.unet import train_unet


@pytest.fixture(scope="module")
def trained(micro: TrainingSetting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pocket")
    train_clip(micro, folder)
    train_autoencoder(micro, folder)
    train_unet(micro, folder)
    train_controlnet(micro, folder)
    return folder


def _same(left: Path, right: Path) -> None:
    one, other = read_state(left), read_state(right)
    assert one["step"] == other["step"]
    for part in ("model", "ema"):
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), f"{part}.{name}"


def test_resuming_equals_an_uninterrupted_run(micro: TrainingSetting, trained: Path, tmp_path: Path):
    for _ in range(2):
        train_clip(micro, tmp_path, max_steps=2)
    _same(trained / "clip.pt", tmp_path / "clip.pt")
    for _ in range(2):
        train_autoencoder(micro, tmp_path, max_steps=2)
    _same(trained / "vae.pt", tmp_path / "vae.pt")
    train_unet(micro, tmp_path, max_steps=3)
    train_unet(micro, tmp_path, max_steps=1)
    _same(trained / "unet.pt", tmp_path / "unet.pt")
    train_controlnet(micro, tmp_path, max_steps=1)
    train_controlnet(micro, tmp_path)
    _same(trained / "controlnet.pt", tmp_path / "controlnet.pt")


def test_a_controlnet_starts_at_nothing_and_learns_with_the_unet_frozen(micro: TrainingSetting, trained: Path):
    fresh, (model, step) = build_controlnet(micro, trained), load_controlnet(micro, trained)
    assert step == micro.control_steps
    zero, moved = fresh.controlnet_mid_block.weight, model.controlnet_mid_block.weight
    assert not zero.any()
    assert moved.any()
    picked = EdgeCache(micro, trained).pick(torch.tensor([0, 1]))
    assert picked.shape == (2, 3, 64, 64)
    assert set(picked.unique().tolist()) == {0, 1}


def test_the_decay_phase_leaves_the_constant_state_alone(micro: TrainingSetting, trained: Path):
    train_unet(micro, trained, finish=2)
    assert read_state(trained / "unet.pt")["step"] == 4
    assert read_state(trained / "unet_finish.pt")["step"] == 6


def test_decoder_tuning_keeps_the_encoder(micro: TrainingSetting, trained: Path):
    train_decoder(micro, trained)
    before, after = read_state(trained / "vae.pt")["model"], read_state(trained / "decoder.pt")["model"]
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)


def test_the_exported_folder_is_a_diffusers_pipeline(micro: TrainingSetting, trained: Path, tmp_path: Path):
    export_pocket(micro, trained, tmp_path)
    controlnet = ControlNetModel.from_pretrained(tmp_path / "controlnet")
    assert controlnet.config["conditioning_embedding_out_channels"] == [16, 32, 64]
    pipeline: Any = StableDiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red car", num_inference_steps=2, height=64, width=64).images[0]
    assert image.size == (64, 64)
    assert pipeline.vae.config["scaling_factor"] == pytest.approx(read_state(trained / "scaling.pt")["scaling_factor"])
    scheduler = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    assert (scheduler["beta_start"], scheduler["beta_end"], scheduler["steps_offset"]) == (0.00085, 0.012, 1)
    clip: Any = CLIPModel.from_pretrained(tmp_path / "clip")
    assert clip.config.text_config.max_position_embeddings == 77
    assert json.loads((tmp_path / "tav_sdk.json").read_text()) == RECOMMENDED
    assert len(json.loads((tmp_path / "samples" / "samples.json").read_text())) == len(SAMPLE_CLIPS)


def test_one_command_runs_every_stage(micro: TrainingSetting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(SETTINGS, "micro", micro)
    assert main(["--setting", "micro", "--out", str(tmp_path), "--threads", "1"]) == 0
    assert (tmp_path / "pocket" / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert read_state(tmp_path / "unet_finish.pt")["step"] == micro.unet_steps + micro.finish_steps


def test_pictures_with_equal_captions_share_the_target():
    logits = torch.full((2, 2), 5.0)
    assert float(contrastive_loss(logits, ["a", "a"])) == pytest.approx(float(torch.log(torch.tensor(2.0))))


def test_the_schedule_is_constant_until_the_decay():
    schedule = Schedule(lr=1.0, steps=20, warmup=2, decay_from=10)
    assert [schedule.at(s) for s in (0, 1, 9)] == [0.5, 1.0, 1.0]
    assert schedule.at(15) == pytest.approx(0.5)
    assert schedule.at(20) == pytest.approx(0.0)


def test_thread_choice_keeps_the_faster_count():
    before, choice, took = torch.get_num_threads(), ThreadChoice((1, 2), trial=2), None
    try:
        for _ in range(8):
            choice.before_step(took)
            took = 1.0 if torch.get_num_threads() == 1 else 2.0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_bad_settings_and_missing_states_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(ConfigError, match="Unknown setting 'huge'; there are: small, large"):
        find_setting("huge")
    with pytest.raises(BaseModelError, match="Run the stage before this one first"):
        export_pocket(SMALL, tmp_path, tmp_path / "out")
    assert main(["--out", str(tmp_path), "--setting", "huge"]) == 2
    assert "Unknown setting" in capsys.readouterr().err
