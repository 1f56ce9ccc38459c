"""Configurations of bases: what no model has is refused before one is made."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tav_sdk.errors import BaseModelError
from tav_sdk.pocket import find_base
from tav_sdk.training.base.clip_configs import ClipConfig, ImageProcessorConfig
from tav_sdk.training.base.layout import PARTS, find_weights
from tav_sdk.training.base.part_configs import (
    KINDS,
    ControlNetConfig,
    PartConfig,
    check_has_weights,
    check_part_config,
    read_part_config,
)

ALL: dict[str, type[PartConfig]] = {
    **KINDS,
    "controlnet": ControlNetConfig,
    "clip": ClipConfig,
    "processor": ImageProcessorConfig,
}


@pytest.mark.parametrize(
    ("part", "values", "said"),
    [
        ("unet", {"layers_per_block": 1_000_000}, "layers_per_block.*less than or equal to 16, got 1000000"),
        (
            "unet",
            {"layers_per_block": [2, 2, 10**9, 2]},
            r"layers_per_block\.2: Input should be less than",
        ),
        ("unet", {"layers_per_block": 0}, "layers_per_block.*greater than or equal to 1, got 0"),
        ("unet", {"layers_per_block": None}, "layers_per_block.*valid integer, got None"),
        ("unet", {"layers_per_block": True}, "layers_per_block.*valid integer, got True"),
        ("unet", {"layers_per_block": "2"}, "layers_per_block.*valid integer, got '2'"),
        ("unet", {"transformer_layers_per_block": [[2, 99]]}, "transformer_layers_per_block.*equal to 16"),
        (
            "unet",
            {"layers_per_block": 16, "transformer_layers_per_block": 16},
            "it has up to 272 transformer layers, expected at most 128",
        ),
        ("unet", {"block_out_channels": [2**31]}, r"block_out_channels\.0.*less than or equal to 16384"),
        ("unet", {"block_out_channels": [32] * 9}, "block_out_channels: List should have at most 8 items"),
        ("unet", {"block_out_channels": []}, "block_out_channels: List should have at least 1 item"),
        ("unet", {"block_out_channels": 320}, "block_out_channels: Input should be a valid list, got 320"),
        ("unet", {"down_block_types": ["a"] * 9}, "down_block_types: List should have at most 8 items"),
        ("unet", {"down_block_types": [3]}, r"down_block_types\.0: Input should be a valid string, got 3"),
        ("unet", {"in_channels": 2**63}, "in_channels: Input should be less than or equal to 16384"),
        ("unet", {"in_channels": -4}, "in_channels: Input should be greater than or equal to 1"),
        ("unet", {"cross_attention_dim": 1e20}, "cross_attention_dim.*valid integer"),
        ("unet", {"attention_head_dim": 0}, "attention_head_dim.*greater than or equal to 1"),
        ("unet", {"norm_num_groups": 0}, "norm_num_groups: Input should be greater than or equal to 1"),
        ("unet", {"norm_eps": float("nan")}, "norm_eps: Input should be"),
        ("unet", {"conv_in_kernel": 10**6}, "conv_in_kernel: Input should be less than or equal to 15"),
        ("unet", {"time_embedding_dim": 10**6}, "time_embedding_dim: Input should be less than or equal to 16384"),
        ("unet", {"sample_size": 10**9}, "sample_size.*less than or equal to 4096"),
        ("unet", {"sample_size": [64]}, "sample_size: Input should be a valid integer"),
        ("unet", {"of_tomorrow": 10**400}, "a number is a number of about 400 digits, expected at most 2147483647"),
        ("unet", {"of_tomorrow": [[float("inf")]]}, "a number is inf, expected at most 2147483647"),
        ("unet", {"of_tomorrow": "x" * 20_000}, "a text has 20000 characters, expected at most 10000"),
        ("unet", {"of_tomorrow": [0] * 100_001}, "a list has 100001 items, expected at most 100000"),
        ("unet", [1], "valid dictionary or instance of UnetConfig, got .1."),
        ("unet", None, "valid dictionary or instance of UnetConfig, got None"),
        ("vae", {"block_out_channels": [1] * 60}, "block_out_channels: List should have at most 8 items"),
        ("vae", {"layers_per_block": 17}, "layers_per_block: Input should be less than or equal to 16"),
        ("vae", {"latent_channels": 0}, "latent_channels: Input should be greater than or equal to 1"),
        ("vae", {"scaling_factor": 0}, "scaling_factor: Input should be greater than 0, got 0"),
        ("vae", {"scaling_factor": float("inf")}, "scaling_factor: Input should be"),
        ("vae", {"scaling_factor": "x"}, "scaling_factor: Input should be a valid number, got 'x'"),
        ("text_encoder", {"num_hidden_layers": 10**6}, "num_hidden_layers: Input should be less than or equal to 64"),
        ("text_encoder", {"hidden_size": 2**31}, "hidden_size: Input should be less than or equal to 16384"),
        ("text_encoder", {"vocab_size": 2**40}, "vocab_size: Input should be less than or equal to 1000000"),
        ("text_encoder", {"max_position_embeddings": 2**31}, "max_position_embeddings: Input should be less than"),
        ("text_encoder", {"num_attention_heads": 0}, "num_attention_heads: Input should be greater than"),
        ("text_encoder", {"intermediate_size": None}, "intermediate_size: Input should be a valid integer, got None"),
        ("scheduler", {"num_train_timesteps": 2**40}, "num_train_timesteps: Input should be less than or equal"),
        ("scheduler", {"num_train_timesteps": 1.5}, "num_train_timesteps: Input should be a valid integer"),
        ("scheduler", {"beta_start": None}, "beta_start: Input should be a valid number, got None"),
        ("scheduler", {"beta_start": -1}, "beta_start: Input should be greater than or equal to"),
        ("scheduler", {"beta_end": float("nan")}, "beta_end: Input should be"),
        ("scheduler", {"trained_betas": 5}, "trained_betas: Input should be a valid list, got 5"),
        ("scheduler", {"trained_betas": ["x"]}, r"trained_betas\.0: Input should be a valid number, got 'x'"),
        ("scheduler", {"trained_betas": [0.1] * 10_001}, "trained_betas: List should have at most 10000 items"),
        ("scheduler", {"steps_offset": 10**9}, "steps_offset: Input should be less than or equal to 1000"),
        ("scheduler", {"prediction_type": ["epsilon"]}, "prediction_type: Input should be a valid string"),
        ("scheduler", {"set_alpha_to_one": "no"}, "set_alpha_to_one: Input should be a valid boolean, got 'no'"),
        ("tokenizer", {"model_max_length": "long"}, "model_max_length.*valid integer, got 'long'"),
        ("tokenizer", {"model_max_length": 0}, "model_max_length.*greater than or equal to 2, got 0"),
        ("tokenizer", {"model_max_length": None}, "model_max_length.*valid integer, got None"),
        ("controlnet", {"layers_per_block": 10**6}, "layers_per_block.*less than or equal to 16"),
        (
            "controlnet",
            {"conditioning_embedding_out_channels": [16] * 60},
            "conditioning_embedding_out_channels: List should have at most 8 items",
        ),
        ("controlnet", {"conditioning_channels": 10**9}, "conditioning_channels: Input should be less than"),
        ("clip", {"text_config": 3}, "text_config: Input should be a valid dictionary"),
        (
            "clip",
            {"text_config": {"num_hidden_layers": 10**6}},
            r"text_config\.num_hidden_layers: Input should be less",
        ),
        ("clip", {"vision_config": {"patch_size": 0}}, r"vision_config\.patch_size: Input should be greater"),
        (
            "clip",
            {"vision_config": {"image_size": 2048, "patch_size": 1}},
            "a picture has 4194304 patches, expected at most 65536",
        ),
        ("processor", {"size": 10**6}, "size.*less than or equal to 4096"),
        ("processor", {"size": {"shortest_edge": 10**6}}, "shortest_edge: Input should be less than or equal to 4096"),
        ("processor", {"crop_size": {"height": "x"}}, "height: Input should be a valid integer, got 'x'"),
        ("processor", {"image_mean": [float("nan")]}, "image_mean"),
        ("processor", {"image_processor": {"size": 10**6}}, "size.*less than or equal to 4096"),
    ],
)
def test_what_no_model_has_is_refused(part: str, values: Any, said: str) -> None:
    with pytest.raises(BaseModelError) as raised:
        check_part_config(values, ALL[part], "it")
    assert re.search(said, str(raised.value)), raised.value
    assert str(raised.value).startswith("it is not valid: ")
    assert str(raised.value).endswith("; download the model again, or convert it again")


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("unet", {}),
        ("unet", {"mid_block_type": None, "num_attention_heads": None, "_class_name": "UNet2DConditionModel"}),
        ("unet", {"attention_head_dim": [5, 10, 20, 20], "block_out_channels": [320, 640, 1280, 1280]}),
        ("unet", {"transformer_layers_per_block": [1, 2, 10], "layers_per_block": 2, "block_out_channels": [320] * 3}),
        ("vae", {"scaling_factor": None, "latents_mean": None, "sample_size": 512}),
        ("text_encoder", {"eos_token_id": [2, 3], "hidden_size": 1024, "num_hidden_layers": 23}),
        ("tokenizer", {"model_max_length": 1000000000000000019884624838656}),
        ("scheduler", {"trained_betas": None, "skip_prk_steps": True, "beta_schedule": "scaled_linear"}),
        ("clip", {"text_config": None, "logit_scale_init_value": 2.6592}),
        ("processor", {"size": 224, "crop_size": {"height": 224, "width": 224}, "resample": 3}),
    ],
)
def test_what_models_have_is_taken(part: str, values: dict[str, Any]) -> None:
    assert check_part_config(values, ALL[part], "it") == values


def test_the_packages_own_configurations_are_taken() -> None:
    for part, name in PARTS.items():
        assert read_part_config(find_base("pocket") / part / name, KINDS[part])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not valid JSON"),
        (b"\xff", "is not text in UTF-8"),
        (b'{"a":' * 100_000, "is nested more than 64 deep"),
        (b" " * (1 << 20) + b"{}", "bytes, more than the 1048576 that are read"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(BaseModelError, match=said):
        read_part_config(tmp_path / "config.json", KINDS["unet"])


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(BaseModelError, match=r"is not a regular file; download the model again"):
        read_part_config(tmp_path / "config.json", KINDS["unet"])


def test_a_model_that_is_larger_than_its_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    files = [tmp_path / "model.safetensors"]
    check_has_weights(1 << 26, files, "a")  # made whatever the files are
    with pytest.raises(
        BaseModelError, match=r"the weights of a do not fit its config.json: .* model of 67108865 numbers, .* 100 bytes"
    ):
        check_has_weights((1 << 26) + 1, files, "a")


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("{", "is not valid JSON"),
        ('{"a":' * 100_000, "is nested more than 64 deep"),
        ("[]", "an index of shards, is not valid: Input should be a valid dictionary"),
        ("{}", "an index of shards, is not valid: weight_map: Field required; download the model again"),
        ('{"weight_map": null}', "weight_map: Input should be a valid dictionary, got None"),
        ('{"weight_map": {"a": 3}}', r"weight_map\.a: Input should be a valid string, got 3"),
        ('{"weight_map": {"a": "../a.safetensors"}}', r"weight_map\.a: String should match pattern"),
        ('{"weight_map": {"a": "/etc/passwd"}}', r"weight_map\.a: String should match pattern"),
        ('{"weight_map": {"a": "b.safetensors"}}', r"names shards that are not there: b\.safetensors"),
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, index: str, said: str) -> None:
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(index)
    with pytest.raises(BaseModelError, match=said):
        find_weights(tmp_path, "unet")


def test_a_configuration_is_told_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"layers_per_block": 10**6}))
    with pytest.raises(BaseModelError, match=rf"^{re.escape(str(path))} is not valid: layers_per_block"):
        read_part_config(path, KINDS["vae"])
