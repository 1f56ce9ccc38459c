"""Inflation against the image U-Net, and ``preset="original"`` against oracles of the released formulas."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0

from tav_sdk.errors import BaseModelError, CheckpointError, InputError
from tav_sdk.training import InflationOptions, VideoUNet, deflate, inflate, load_original_state, trainable_parameters
from tav_sdk.training.unet.inflation import transformer_blocks

FRAMES, TOKENS = 5, 7


def make_unet(**changes) -> UNet2DConditionModel:
    torch.manual_seed(0)
    config = {
        "sample_size": 8,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "norm_num_groups": 4,
        "cross_attention_dim": 12,
        "attention_head_dim": 2,
    }
    return UNet2DConditionModel(**{**config, **changes}).eval()


@pytest.fixture
def unet() -> UNet2DConditionModel:
    return make_unet()


@pytest.fixture
def sample() -> torch.Tensor:
    return torch.randn(2, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def states() -> torch.Tensor:
    return torch.randn(2, TOKENS, 12, generator=torch.Generator().manual_seed(2))


def awaken(model: VideoUNet) -> VideoUNet:
    """Give temporal attention weights that matter."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "attn_temp" in name:
            parameter.data.normal_(0, 0.3, generator=generator)
    return model


def middle_block(model: VideoUNet) -> Any:
    """The transformer block in the middle."""
    return model.get_submodule("mid_block.attentions.0.transformer_blocks.0")


@torch.no_grad()
def moved_frames(model: VideoUNet, sample: torch.Tensor, states: torch.Tensor, frame: int) -> set[int]:
    """The frames of the output that change with one frame of the input."""
    changed = sample.clone()
    changed[:, :, frame] += 1
    difference = (model(changed, 400, states) - model(sample, 400, states)).abs().amax((0, 1, 3, 4))
    return {index for index, value in enumerate(difference.tolist()) if value > 1e-6}


@torch.no_grad()
@pytest.mark.parametrize("preset", ["default", "original"])
def test_one_frame_equals_the_image_unet(unet, sample, states, preset):
    expected = unet(sample[:, :, 0], 400, states).sample
    model = inflate(unet, InflationOptions(preset=preset), 1)
    torch.testing.assert_close(model(sample[:, :, :1], 400, states)[:, :, 0], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_frame_0_of_an_untuned_model_equals_the_image_unet(unet, sample, states):
    expected = unet(sample[:, :, 0], 400, states).sample
    result = inflate(unet, InflationOptions(), FRAMES)(sample, 400, states)
    assert result.shape == sample.shape
    torch.testing.assert_close(result[:, :, 0], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_spatial_attention_without_temporal_is_the_image_unet_on_every_frame(unet, sample, states):
    expected = torch.stack([unet(frame, 400, states).sample for frame in sample.unbind(2)], 2)
    model = inflate(unet, InflationOptions(attention="spatial", temporal=False), FRAMES)
    torch.testing.assert_close(model(sample, 400, states), expected, atol=1e-5, rtol=1e-5)


def test_under_the_defaults_a_frame_changes_no_earlier_one(unet, sample, states):
    model = awaken(inflate(unet, InflationOptions(), FRAMES))
    for frame in range(FRAMES):
        assert moved_frames(model, sample, states, frame) == set(range(frame, FRAMES))


def test_under_the_original_preset_every_frame_changes_all(unet, sample, states):
    model = awaken(inflate(unet, InflationOptions(preset="original"), FRAMES))
    assert moved_frames(model, sample, states, FRAMES - 1) == set(range(FRAMES))


@pytest.mark.parametrize(
    ("attention", "frame", "moved"),
    [
        ("spatial", 2, {2}),
        ("first", 0, {0, 1, 2, 3, 4}),
        ("first", 2, {2}),
        ("sparse_causal", 0, {0, 1, 2, 3, 4}),
        ("causal", 2, {2, 3, 4}),
        ("full", 4, {0, 1, 2, 3, 4}),
    ],
)
def test_each_attention_looks_where_it_should(unet, sample, states, attention, frame, moved):
    model = inflate(unet, InflationOptions(attention=attention, temporal=False), FRAMES)
    assert moved_frames(model, sample, states, frame) == moved


@torch.no_grad()
@pytest.mark.parametrize("preset", ["default", "original"])
def test_deflating_restores_everything(unet, sample, states, preset):
    keys, expected = list(unet.state_dict()), unet(sample[:, :, 0], 400, states).sample
    restored = deflate(awaken(inflate(unet, InflationOptions(preset=preset), FRAMES)))
    assert restored is unet
    assert list(restored.state_dict()) == keys
    assert all(type(m) is not torch.nn.GroupNorm or m.weight.device.type == "cpu" for m in restored.modules())
    assert all(isinstance(processor, AttnProcessor2_0) for processor in restored.attn_processors.values())
    torch.testing.assert_close(restored(sample[:, :, 0], 400, states).sample, expected, atol=0, rtol=0)


def test_the_image_models_keys_survive_and_the_new_ones_are_the_released_codes(unet):
    keys = list(unet.state_dict())
    model = inflate(unet, InflationOptions(), FRAMES)
    added = [key for key in model.state_dict() if key not in keys]
    assert [key for key in model.state_dict() if "_temp." not in key] == keys
    block = "down_blocks.0.attentions.0.transformer_blocks.0."
    assert [key.removeprefix(block) for key in added if key.startswith(block)] == [
        "norm_temp.weight",
        "norm_temp.bias",
        "attn_temp.to_q.weight",
        "attn_temp.to_k.weight",
        "attn_temp.to_v.weight",
        "attn_temp.to_out.0.weight",
        "attn_temp.to_out.0.bias",
    ]


def test_only_query_projections_and_temporal_attention_are_tuned(unet):
    model = inflate(unet, InflationOptions(), FRAMES)
    tuned = trainable_parameters(model)
    block = "mid_block.attentions.0.transformer_blocks.0."
    assert {key.removeprefix(block) for key in tuned if key.startswith(block)} == {
        "attn1.to_q.weight",
        "attn2.to_q.weight",
        "attn_temp.to_q.weight",
        "attn_temp.to_k.weight",
        "attn_temp.to_v.weight",
        "attn_temp.to_out.0.weight",
        "attn_temp.to_out.0.bias",
    }
    assert len(tuned) == 7 * len(list(transformer_blocks(model)))
    assert not any("norm_temp" in key for key in tuned)


def test_temporal_weights_follow_the_seed(unet):
    a, b, c = (inflate(copy.deepcopy(unet), InflationOptions(), FRAMES, seed=seed) for seed in (1, 1, 2))
    key = "mid_block.attentions.0.transformer_blocks.0.attn_temp.to_q.weight"
    assert torch.equal(a.state_dict()[key], b.state_dict()[key])
    assert not torch.equal(a.state_dict()[key], c.state_dict()[key])


@torch.no_grad()
def test_a_deep_copy_counts_its_own_frames(unet, sample, states):
    model = awaken(inflate(unet, InflationOptions(preset="original"), FRAMES))
    twin = copy.deepcopy(model)
    expected = model(sample, 400, states)
    model(sample[:, :, :2], 400, states)
    assert torch.equal(twin(sample, 400, states), expected)


@torch.no_grad()
def test_a_timestep_may_be_given_per_video(unet, sample, states):
    model = awaken(inflate(unet, InflationOptions(), FRAMES))
    both = model(sample, torch.tensor([10, 900]), states)
    for index, timestep in enumerate((10, 900)):
        alone = model(sample[index : index + 1], timestep, states[index : index + 1])
        torch.testing.assert_close(both[index : index + 1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("preset", ["default", "original"])
def test_every_tuned_tensor_gets_a_gradient(unet, sample, states, preset, checkpointing):
    from tav_sdk.training.unet.inflation import freeze_all_but_tuned

    model = inflate(unet, InflationOptions(preset=preset), FRAMES).train()
    tuned = freeze_all_but_tuned(awaken(model))
    if checkpointing:
        model.enable_gradient_checkpointing()
    model(sample, 400, states).square().mean().backward()
    without = [name for name, p in tuned.items() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []
    assert all(p.grad is None for name, p in model.named_parameters() if name not in tuned)


def test_gradients_are_the_same_with_and_without_checkpointing(unet, sample, states):
    gradients = []
    for checkpointing in (False, True):
        model = awaken(inflate(copy.deepcopy(unet), InflationOptions(), FRAMES)).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        model(sample, 400, states).square().mean().backward()
        gradients.append({name: p.grad for name, p in trainable_parameters(model).items()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


# -- the released formulas -----------------------------------------------------------------------------------------


@torch.no_grad()
def test_sparse_causal_attention_equals_its_oracle(unet):
    model = inflate(unet, InflationOptions(), FRAMES)
    attn = middle_block(model).attn1
    b, n, d, heads = 2, 6, attn.to_q.in_features, attn.heads
    x = torch.randn(b, FRAMES, n, d)
    q, k, v = attn.to_q(x), attn.to_k(x), attn.to_v(x)
    oracle = torch.empty_like(q)
    for i in range(FRAMES):
        keys = torch.cat([k[:, 0], k[:, max(i - 1, 0)]], 1)
        values = torch.cat([v[:, 0], v[:, max(i - 1, 0)]], 1)
        for part in torch.arange(d).chunk(heads):
            scores = q[:, i, :, part] @ keys[..., part].transpose(1, 2) * (d // heads) ** -0.5
            oracle[:, i, :, part] = scores.softmax(-1) @ values[..., part]
    expected = attn.to_out[0](oracle).flatten(0, 1)
    torch.testing.assert_close(attn(x.flatten(0, 1)), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("mask", ["none", "causal"])
def test_temporal_attention_equals_its_oracle(unet, mask):
    model = awaken(inflate(unet, InflationOptions(temporal_mask=mask), FRAMES))
    attn = middle_block(model).attn_temp
    d, heads = attn.to_q.in_features, attn.heads
    x = torch.randn(9, FRAMES, d)  # (b n, f, d)
    q, k, v = attn.to_q(x), attn.to_k(x), attn.to_v(x)
    oracle = torch.empty_like(q)
    for part in torch.arange(d).chunk(heads):
        scores = q[..., part] @ k[..., part].transpose(1, 2) * (d // heads) ** -0.5
        if mask == "causal":
            scores = scores.masked_fill(torch.ones(FRAMES, FRAMES).triu(1).bool(), float("-inf"))
        oracle[..., part] = scores.softmax(-1) @ v[..., part]
    torch.testing.assert_close(attn(x), attn.to_out[0](oracle), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_group_norm_over_the_video_equals_the_5d_norm(unet):
    model = inflate(unet, InflationOptions(preset="original"), FRAMES)
    x = torch.randn(2, 8, FRAMES, 6, 6)
    for name in ("down_blocks.0.resnets.0.norm1", "conv_norm_out"):
        norm = model.get_submodule(name)
        assert isinstance(norm, torch.nn.GroupNorm)
        expected = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
        result = norm(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, FRAMES)).transpose(1, 2)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def test_transformer_norms_stay_per_frame_under_the_original_preset(unet):
    model = inflate(unet, InflationOptions(preset="original"), FRAMES)
    assert type(model.get_submodule("mid_block.attentions.0.norm")) is torch.nn.GroupNorm


@torch.no_grad()
def test_a_state_of_the_released_code_loads(unet, sample, states):
    original = awaken(inflate(copy.deepcopy(unet), InflationOptions(preset="original"), FRAMES, seed=9))
    model = inflate(unet, InflationOptions(preset="original"), FRAMES)
    load_original_state(model, original.state_dict())
    assert torch.equal(model(sample, 400, states), original(sample, 400, states))


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(unet):
    model = inflate(unet, InflationOptions(preset="original"), FRAMES)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {key: torch.ones_like(value) for key, value in before.items()}
    del state["conv_in.bias"]
    state["conv_extra.weight"] = torch.zeros(1)
    with pytest.raises(
        CheckpointError, match=r"2 differences\):\n  missing conv_in.bias\n  unexpected conv_extra.weight\n"
    ):
        load_original_state(model, state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# -- refusals --------------------------------------------------------------------------------------------------------


def test_a_foreign_model_is_refused():
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=4)
    with pytest.raises(BaseModelError, match="expected a diffusers UNet2DConditionModel, got AutoencoderKL"):
        inflate(vae)  # pyright: ignore[reportArgumentType]


def test_a_unet_without_attention_is_refused():
    plain = make_unet(
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), mid_block_type=None
    )
    with pytest.raises(BaseModelError, match="no transformer block with attention"):
        inflate(plain)


def test_an_sdxl_unet_is_refused():
    sdxl = make_unet(
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=36
    )
    with pytest.raises(BaseModelError, match=r"additional conditions .*SDXL"):
        inflate(sdxl)


def test_inflating_twice_is_refused(unet):
    with pytest.raises(InputError, match="inflated already"):
        inflate(inflate(unet))  # pyright: ignore[reportArgumentType]


def test_images_instead_of_a_video_are_refused(unet, states):
    with pytest.raises(InputError, match=r"sample must be \(b, c, f, h, w\), got shape \(2, 4, 8, 8\)"):
        inflate(unet)(torch.zeros(2, 4, 8, 8), 1, states)


def test_timesteps_of_another_batch_are_refused(unet, sample, states):
    with pytest.raises(InputError, match=r"timestep must be \(\), \(1,\) or \(2,\) for 2 videos, got \(3,\)"):
        inflate(unet)(sample, torch.tensor([1, 2, 3]), states)
