import shutil
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tav_sdk.errors import BaseModelError, BundleError, OutputError, PickledWeightsError
from tav_sdk.training import PretrainedBase, make_tiny_base


@pytest.fixture
def copied(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "base")


def test_every_part_loads_in_float32(tiny_base):
    base = PretrainedBase(tiny_base)
    for part in (base.load_unet(), base.load_vae(), base.load_text_encoder()):
        assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}
        assert not part.training


def test_sizes_follow_from_the_configurations(tmp_path):
    base = PretrainedBase(make_tiny_base(tmp_path / "sd-like"))
    assert (base.vae_scale_factor, base.size_multiple, base.scaling_factor) == (8, 64, 0.18215)


def test_the_identity_is_that_of_the_contents(tiny_base, copied):
    assert PretrainedBase(copied).sha256 == PretrainedBase(tiny_base).sha256
    config = copied / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("0.012", "0.013"))
    assert PretrainedBase(copied).sha256 != PretrainedBase(tiny_base).sha256


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(BaseModelError, match=r"there is no base model folder .*'pocket', the base in the package"):
        PretrainedBase(tmp_path / "none")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(copied, part):
    shutil.rmtree(copied / part)
    with pytest.raises(BaseModelError, match=f"lacks {part}/"):
        PretrainedBase(copied)


def test_missing_weights_are_named(copied):
    (copied / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(BaseModelError, match=r"lacks vae/diffusion_pytorch_model.safetensors"):
        PretrainedBase(copied)


def test_damaged_weights_are_refused(copied):
    (copied / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(BaseModelError, match=r"the unet of the base model .* cannot be read"):
        PretrainedBase(copied).load_unet()


@pytest.fixture
def pickled(copied):
    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    return copied


def test_pickled_weights_are_refused_with_the_flag_that_allows_them(pickled):
    with pytest.raises(PickledWeightsError, match=r"only pickled weights .*allow it with allow_pickle"):
        PretrainedBase(pickled)


def test_pickled_weights_load_when_allowed(pickled, tiny_base):
    allowed = PretrainedBase(pickled, allow_pickle=True).load_unet().state_dict()
    for name, tensor in PretrainedBase(tiny_base).load_unet().state_dict().items():
        assert torch.equal(allowed[name], tensor)


def test_a_tiny_base_is_the_same_for_the_same_seed(tmp_path):
    shapes: dict[str, Any] = {"block_out_channels": (8, 16), "vae_channels": (4, 4)}
    a, b, c = (make_tiny_base(tmp_path / str(i), seed=seed, **shapes) for i, seed in enumerate((0, 0, 1)))
    assert PretrainedBase(a).sha256 == PretrainedBase(b).sha256 != PretrainedBase(c).sha256


def test_a_tiny_base_loads_as_a_diffusers_pipeline(tiny_base):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    images = pipe("a man", num_inference_steps=1, output_type="np", height=32, width=32).images  # pyright: ignore[reportAttributeAccessIssue]
    image = np.asarray(images[0])
    assert image.shape == (32, 32, 3)


def test_a_tiny_base_replaces_nothing_unasked(tiny_base):
    with pytest.raises(OutputError, match="is not empty"):
        make_tiny_base(tiny_base)


@pytest.mark.parametrize("content", ["{}", "[]", '{"a": 0}', '{"a": "x"}'])
def test_a_vocabulary_that_is_none_is_refused(base_copy, content):
    (base_copy / "tokenizer" / "vocab.json").write_text(content)
    with pytest.raises(BaseModelError, match=r"tokenizer.* (is not valid|cannot be read): "):
        PretrainedBase(base_copy).load_tokenizer()


def test_an_empty_vocabulary_is_refused(base_copy):
    (base_copy / "tokenizer" / "vocab.json").write_text("{}")
    (base_copy / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(
        (BaseModelError, BundleError),
        match=r"tokenizer/vocab.json is not valid: vocabulary: Dictionary should have at least 1 item",
    ):
        PretrainedBase(base_copy).load_tokenizer()
