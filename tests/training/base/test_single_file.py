"""Single-file checkpoints of Stable Diffusion, as its own code writes them."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tav_sdk.errors import BaseModelError, ConfigError, PickledWeightsError
from tav_sdk.training import PretrainedBase, TuneConfig, base_of_run, tune
from tav_sdk.training.base.single_file import SingleFile
from tav_sdk.training.tensor_file import TensorFile, read_header

V = {"sd1": None, "sd2": "v_prediction"}
PARTS = ("load_unet", "load_vae", "load_text_encoder")


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch, tmp_path):
    """No tokenizer is found by chance."""
    monkeypatch.setattr("tav_sdk.training.base.model.find_tokenizer", lambda: None)


@pytest.fixture
def tokenizer(tiny_base):
    return tiny_base / "tokenizer"


@pytest.fixture
def opened(single_file, tokenizer):
    return lambda name: PretrainedBase(single_file(name), tokenizer=tokenizer, prediction_type=V[name])


@pytest.fixture
def changed(single_file, tmp_path):
    """``changed("sd1", change)``: a copy whose tensors ``change`` has edited."""

    def make(name, change, metadata=None):
        state = load_file(single_file(name))
        change(state)
        save_file(state, tmp_path / "changed.safetensors", metadata=metadata)
        return tmp_path / "changed.safetensors"

    return make


@pytest.mark.parametrize("name", ["sd1", "sd2"])
@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_the_weights_of_the_folder(opened, family, name, part):
    got, expected = getattr(opened(name), part)(), getattr(PretrainedBase(family(name)), part)()
    assert not got.training
    for key, tensor in expected.state_dict().items():
        assert torch.equal(got.state_dict()[key], tensor), key


@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_the_configurations_are_those_of_the_folder(opened, family, name):
    base, folder = opened(name), PretrainedBase(family(name))
    for part in ("unet", "vae", "text_encoder"):
        ignored = ("_class_name", "architectures")
        for key, value in base.configs[part].items():
            if key not in ignored and key in folder.configs[part]:
                assert folder.configs[part][key] == value, (part, key)
    assert base.schedule == folder.schedule
    assert (base.vae_scale_factor, base.size_multiple) == (folder.vae_scale_factor, folder.size_multiple)


@pytest.mark.parametrize("name", ["sd1", "sd2"])
@pytest.mark.parametrize("loader", ["UNet2DConditionModel", "AutoencoderKL"])
def test_diffusers_reads_the_same(opened, single_file, family, name, loader):
    import diffusers

    part = {"UNet2DConditionModel": "unet", "AutoencoderKL": "vae"}[loader]
    theirs = getattr(diffusers, loader).from_single_file(
        str(single_file(name)), config=str(family(name)), subfolder=part, local_files_only=True
    )
    ours = getattr(opened(name), f"load_{part}")().state_dict()
    assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.state_dict().items())


def test_the_pad_token_is_the_familys(opened):
    assert (opened("sd1").load_tokenizer().pad_token, opened("sd2").load_tokenizer().pad_token) == (
        "<|endoftext|>",
        "!",
    )


def test_a_tokenizer_beside_the_file_is_taken(single_file, tokenizer, tmp_path):
    path = shutil.copy(single_file("sd1"), tmp_path / "model.safetensors")
    shutil.copytree(tokenizer, tmp_path / "tokenizer")
    assert PretrainedBase(path).sha256 == PretrainedBase(single_file("sd1"), tokenizer=tokenizer).sha256


def test_without_a_tokenizer_it_says_what_to_give(single_file):
    with pytest.raises(BaseModelError, match=r"has no tokenizer, and there is none .* give one as tokenizer"):
        PretrainedBase(single_file("sd1"))


def test_a_tokenizer_without_a_vocabulary_is_refused(single_file, tmp_path):
    with pytest.raises(BaseModelError, match=r"there is no CLIP tokenizer in .*: it has neither vocab.json"):
        PretrainedBase(single_file("sd1"), tokenizer=tmp_path)


def test_what_2x_predicts_must_be_said(single_file, tokenizer):
    with pytest.raises(BaseModelError, match=r"does not say what its U-Net predicts; say it with prediction_type"):
        PretrainedBase(single_file("sd2"), tokenizer=tokenizer)
    small = PretrainedBase(single_file("sd2"), tokenizer=tokenizer, prediction_type="epsilon")
    large = PretrainedBase(single_file("sd2"), tokenizer=tokenizer, prediction_type="v_prediction")
    assert (small.configs["unet"]["sample_size"], large.configs["unet"]["sample_size"]) == (64, 96)
    assert (small.schedule.prediction_type, large.schedule.prediction_type) == ("epsilon", "v_prediction")
    assert small.sha256 != large.sha256


def test_what_a_file_says_of_itself_is_believed(changed, tokenizer):
    path = changed("sd2", lambda state: None, {"modelspec.prediction_type": "v"})
    assert PretrainedBase(path, tokenizer=tokenizer).schedule.prediction_type == "v_prediction"


def test_an_unknown_prediction_type_is_refused(single_file, tokenizer):
    with pytest.raises(ConfigError, match=r"prediction_type must be one of epsilon, v_prediction, sample; got 'v'"):
        PretrainedBase(single_file("sd1"), tokenizer=tokenizer, prediction_type="v")


def test_half_precision_and_names_without_text_model_load(changed, opened, tokenizer):
    def older(state):
        for key in list(state):
            tensor = state.pop(key)
            tensor = tensor.half() if tensor.is_floating_point() else tensor
            state[key.replace("transformer.text_model.", "transformer.")] = tensor

    base, expected = PretrainedBase(changed("sd1", older), tokenizer=tokenizer), opened("sd1")
    for part in PARTS:
        got, wanted = getattr(base, part)().state_dict(), getattr(expected, part)().state_dict()
        assert all(torch.equal(got[key], tensor.half().float()) for key, tensor in wanted.items())
        assert {tensor.dtype for tensor in got.values() if tensor.is_floating_point()} == {torch.float32}


def test_missing_and_extra_tensors_are_listed_with_their_count(changed, tokenizer):
    def damage(state):
        del state["model.diffusion_model.out.2.bias"]
        state["model.diffusion_model.middle_block.1.motion.weight"] = torch.zeros(1)
        for index in range(12):
            state[f"model.diffusion_model.adapter.{index}"] = torch.full((1,), float(index))

    with pytest.raises(BaseModelError) as refused:
        PretrainedBase(changed("sd1", damage), tokenizer=tokenizer).load_unet()
    text = str(refused.value)
    assert "is not one of Stable Diffusion 1.x (14 differences):\n  missing conv_out.bias\n  unexpected " in text
    assert text.count("unexpected") == 9  # ten are shown


def test_a_missing_part_is_named(changed, tokenizer):
    def without_vae(state):
        for key in [key for key in state if key.startswith("first_stage_model.")]:
            del state[key]

    with pytest.raises(BaseModelError, match=r"has no VAE \(first_stage_model.\*\); give a whole checkpoint"):
        PretrainedBase(changed("sd1", without_vae), tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("conditioner.embedders.0.transformer.x", "a checkpoint of SDXL"),
        ("model.diffusion_model.joint_blocks.0.x", "a checkpoint of SD 3: a transformer, which has no U-Net"),
        ("model.diffusion_model.double_blocks.0.x", "a checkpoint of Flux: a transformer"),
        ("lora_unet_mid_block_x.lora_up.weight", "a LoRA, which is given in loras, beside a base"),
        ("control_model.input_hint_block.0.weight", "a ControlNet"),
        ("down_blocks.0.resnets.0.x", "one part of a model in the diffusers layout"),
    ],
)
def test_files_of_other_kinds_are_refused_with_the_reason(tmp_path, tokenizer, key, reason):
    save_file({key: torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BaseModelError, match=reason):
        PretrainedBase(tmp_path / "other.safetensors", tokenizer=tokenizer)


def test_an_inpainting_checkpoint_is_refused_with_the_reason(changed, tokenizer):
    def widen(state):
        key = "model.diffusion_model.input_blocks.0.0.weight"
        state[key] = torch.zeros(state[key].shape[0], 9, 3, 3)

    with pytest.raises(BaseModelError, match=r"takes 9 channels, its VAE gives 4: models for inpainting"):
        PretrainedBase(changed("sd1", widen), tokenizer=tokenizer)


def test_a_pickled_checkpoint_is_refused(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(PickledWeightsError, match=r"is a pickled checkpoint, and reading a pickle can run code"):
        PretrainedBase(tmp_path / "model.ckpt", allow_pickle=True)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(BaseModelError, match=r"cannot be read as .safetensors"):
        PretrainedBase(tmp_path / "model.safetensors")


def test_the_header_alone_says_the_size(single_file):
    config = TuneConfig(base=single_file("sd1"), video="clip.mp4", prompt="a man", out="run")
    assert (config.height, config.width) == (128, 128)  # 64 latents, and a VAE factor of 2
    assert SingleFile(single_file("sd1")).configs["unet"]["block_out_channels"] == [64, 128]


def test_it_is_described_without_a_tokenizer(tav, single_file):
    facts = json.loads(tav("info", single_file("sd2"), "--prediction-type", "v_prediction", "--json").stdout)
    assert facts["schedule"]["prediction_type"] == "v_prediction"
    assert "sha256" not in facts


def test_it_is_tuned_and_recorded(single_file, tokenizer, clip_path, tmp_path):
    config = TuneConfig(
        base=single_file("sd2"),
        tokenizer=tokenizer,
        prediction_type="v_prediction",
        video=clip_path,
        prompt="a red square",
        out=tmp_path / "run",
        num_frames=2,
        height=16,
        width=16,
        num_train_steps=1,
    )
    run = tune(config)
    assert run.record["base"]["name"] == "sd2.safetensors"
    assert run.record["schedule"]["prediction_type"] == "v_prediction"
    assert base_of_run(run).sha256 == run.record["base"]["sha256"]


def test_memory_is_planned_from_the_header(tav, single_file):
    options = ("--prediction-type", "v_prediction", "--size", 32, "--frames", 2, "--json")
    result = tav("plan", "--base", single_file("sd2"), *options)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["stages"][0]["peak"] > 0


REAL = {
    "sd1": {"attention_head_dim": 8, "cross_attention_dim": 768},
    "sd2": {"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "use_linear_projection": True},
}
REAL_TEXT: dict[str, dict[str, Any]] = {
    "sd1": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "sd2": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
}
REAL_SIZES = {"sd1": (859_520_964, 83_653_863, 123_060_480), "sd2": (865_910_724, 83_653_863, 340_387_840)}
"""Parameters of the U-Net, the VAE and the text encoder, as published."""


@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_the_real_models_are_known_by_their_shapes(names_of_stable_diffusion, monkeypatch, tmp_path, name):
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    def models(unet: dict[str, Any], vae: dict[str, Any], text: CLIPTextConfig) -> tuple[Any, Any, CLIPTextModel]:
        with torch.device("meta"):
            return UNet2DConditionModel.from_config(unet), AutoencoderKL.from_config(vae), CLIPTextModel(text)

    vae = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4}
    vae |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    activation = {"sd1": "quick_gelu", "sd2": "gelu"}[name]
    text = CLIPTextConfig(vocab_size=49408, hidden_act=activation, **REAL_TEXT[name])
    state = names_of_stable_diffusion(*models({"sample_size": 64, **REAL[name]}, vae, text))

    # Nobody has room for the tensors themselves.
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    header = TensorFile(shapes=shapes, dtypes={}, metadata={})
    monkeypatch.setattr("tav_sdk.training.base.single_file.read_header", lambda *_, **__: header)
    configs = SingleFile(tmp_path / "real.safetensors", V[name]).configs
    for key, value in REAL[name].items():
        assert configs["unet"][key] == value
    for key, value in REAL_TEXT[name].items():
        assert configs["text_encoder"][key] == value
    found = models(configs["unet"], configs["vae"], CLIPTextConfig(**configs["text_encoder"]))
    assert tuple(sum(p.numel() for p in model.parameters()) for model in found) == REAL_SIZES[name]
    assert configs["unet"]["sample_size"] == {"sd1": 64, "sd2": 96}[name]


WIDE = "model.diffusion_model.input_blocks.0.0.weight"
TOKENS = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        (WIDE, (), "a tensor has another number of dimensions than Stable Diffusion's; download it again"),
        (WIDE, (320, 2**31 - 1, 3, 3), "the unet of the checkpoint .* in_channels: Input should be less than"),
        (TOKENS, (9,), "a tensor has another number of dimensions"),
        (TOKENS, (2**31 - 1, 768), "the text_encoder of the checkpoint .* vocab_size: Input should be less than"),
        (TOKENS, (49408, 0), "the text_encoder of the checkpoint .* hidden_size: Input should be greater than"),
    ],
)
def test_shapes_that_no_such_model_has_are_refused(single_file, monkeypatch, name, shape, said):
    header = read_header(single_file("sd1"), error=BaseModelError, advice="")
    assert name in header.shapes
    changed = TensorFile(shapes={**header.shapes, name: shape}, dtypes={}, metadata={})
    monkeypatch.setattr("tav_sdk.training.base.single_file.read_header", lambda *_, **__: changed)
    with pytest.raises(BaseModelError, match=said):
        _ = SingleFile(single_file("sd1")).configs


def test_many_numbered_blocks_are_no_model(single_file, monkeypatch):
    header = read_header(single_file("sd1"), error=BaseModelError, advice="")
    more = {f"cond_stage_model.transformer.text_model.encoder.layers.{n}.a": (1,) for n in range(1000)}
    changed = TensorFile(shapes={**header.shapes, **more}, dtypes={}, metadata={})
    monkeypatch.setattr("tav_sdk.training.base.single_file.read_header", lambda *_, **__: changed)
    with pytest.raises(BaseModelError, match=r"num_hidden_layers: Input should be less than or equal to 64, got 1000"):
        _ = SingleFile(single_file("sd1")).configs
