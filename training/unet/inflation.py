"""Inflation of an image U-Net to video by injection, and its inverse (paper, section 4.1)."""

# diffusers and transformers annotate loosely:
# pyright: reportOptionalMemberAccess=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from tav_sdk.errors import BaseModelError, CheckpointError, InputError
from tav_sdk.training.base.layout import check_unet
from tav_sdk.training.base.mismatches import listed
from tav_sdk.training.config import InflationOptions
from tav_sdk.training.unet.attention import (
    ClipCrossAttnProcessor,
    FrameAttnProcessor,
    FrameAxis,
    make_temporal_attention,
)
from tav_sdk.training.unet.norm import VideoGroupNorm
from tav_sdk.training.unet.video_unet import VideoUNet

TUNED_MODULES = ("attn1.to_q", "attn2.to_q", "attn_temp")
"""Names that a module's path ends with if its parameters are tuned (paper, section 4.2); ``norm_temp`` is not."""

TEMPORAL_MARK = "_temp."
"""Stands in the key of every tensor that inflation adds, and in no other."""


def transformer_blocks(model: nn.Module) -> Iterator[tuple[str, BasicTransformerBlock]]:
    """Every transformer block of a U-Net with its name."""
    for name, module in model.named_modules():
        if isinstance(module, BasicTransformerBlock):
            yield name, module


def inflate(
    unet: UNet2DConditionModel, options: InflationOptions | None = None, num_frames: int = 8, *, seed: int = 0
) -> VideoUNet:
    """Turn an image U-Net into a video U-Net, in place; :func:`deflate` is the inverse.

    Three things are injected: attention processors on ``attn1`` and ``attn2``, a temporal attention after each
    transformer block, and, with ``group_norm = video``, group norms over all frames. No weight is copied or renamed.
    Temporal attention starts at zero, so with ``group_norm = frame`` frame 0 equals the image model's output.

    Args:
        unet: the base's U-Net; belongs to the result afterwards.
        options: see :class:`InflationOptions`.
        num_frames: frames of a clip, which export and tuning record. The model follows its input, but causal temporal
            attention reaches back over as many frames as these.
        seed: of the temporal projections' random weights.

    Raises:
        InputError: the model is inflated already, or ``num_frames`` is below 1.
        BaseModelError: the U-Net has parts that cannot be inflated.
    """
    options = options or InflationOptions()
    if num_frames < 1:
        raise InputError(f"num_frames must be at least 1, got {num_frames}")
    if isinstance(unet, VideoUNet):
        raise InputError("the model is inflated already; deflate() it first")
    _check_can_inflate(unet)
    frames = FrameAxis(num_frames, span=num_frames)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for index, (_, block) in enumerate(transformer_blocks(unet)):
            block.attn1.set_processor(FrameAttnProcessor(frames, options.attention, index))
            block.attn2.set_processor(ClipCrossAttnProcessor(frames))
            if options.temporal:
                _add_temporal(block, frames, causal=options.temporal_mask == "causal", index=index)
    if options.group_norm == "video":
        for parent, name, norm in _video_norms(unet):
            setattr(parent, name, VideoGroupNorm(norm, frames))
    return VideoUNet(unet, options, frames)


def deflate(model: VideoUNet) -> UNet2DConditionModel:
    """Take everything out that :func:`inflate` put in, and give back the image U-Net, tuned projections included."""
    unet = model.image_unet
    for _, block in transformer_blocks(unet):
        block.attn1.set_processor(AttnProcessor2_0())
        block.attn2.set_processor(AttnProcessor2_0())
        if model.options.temporal:
            block.temporal_hook.remove()
            del block.temporal_hook, block.attn_temp, block.norm_temp
    for parent, name, norm in _video_norms(unet):
        if isinstance(norm, VideoGroupNorm):
            setattr(parent, name, norm.deflate())
    return unet


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are tuned, by name, in the model's order: ``attn1.to_q``, ``attn2.to_q``, ``attn_temp``.

    74.35 M of 909 M parameters for Stable Diffusion 1.x (paper, section 4.2).
    """
    return {
        f"{name}.{suffix}" if suffix else name: parameter
        for name, module in model.named_modules()
        if name.endswith(TUNED_MODULES)
        for suffix, parameter in module.named_parameters()
    }


def freeze_all_but_tuned(model: nn.Module) -> dict[str, nn.Parameter]:
    """Let only :func:`trainable_parameters` require a gradient, and return them."""
    model.requires_grad_(False)
    tuned = trainable_parameters(model)
    for parameter in tuned.values():
        parameter.requires_grad_(True)
    return tuned


def load_original_state(model: VideoUNet, state_dict: Mapping[str, Tensor], *, where: str = "the checkpoint") -> None:
    """Load the weights of a ``UNet3DConditionModel`` of the released code, strictly.

    Args:
        model: an inflated U-Net.
        state_dict: the weights by name.
        where: what the weights are called in messages.

    Raises:
        CheckpointError: they are an image model's, keys are missing or left over, or shapes differ; names the first
            ten and the count. The model is unchanged then.
    """
    own = model.state_dict()
    temporal = [key for key in own if TEMPORAL_MARK in key]
    if temporal and not any(TEMPORAL_MARK in key for key in state_dict):
        raise CheckpointError(
            f"{where} is an image model's, not one of the released code: it has none of the {len(temporal)} tensors of "
            "temporal attention. Give what tuning with the released code has written"
        )
    problems = [f"missing {key}" for key in own if key not in state_dict]
    problems += [f"unexpected {key}" for key in state_dict if key not in own]
    shapes = [
        f"{key}: expected {tuple(own[key].shape)}, got {tuple(state_dict[key].shape)}"
        for key in own
        if key in state_dict and own[key].shape != state_dict[key].shape
    ]
    problems += shapes
    if problems:
        other = "was made from another base, and " if shapes else ""
        raise CheckpointError(
            f"{where} {other}does not fit this U-Net ({len(problems)} differences):{listed(problems)}"
            "Inflate the base that the checkpoint was made from, with temporal attention"
        )
    model.load_state_dict(dict(state_dict))


def _add_temporal(block: BasicTransformerBlock, frames: FrameAxis, *, causal: bool, index: int) -> None:
    weight = block.attn1.to_q.weight
    attn_temp = make_temporal_attention(block.attn1, frames, causal=causal, block=index)
    block.norm_temp = nn.LayerNorm(weight.shape[1]).to(weight.device, weight.dtype)
    block.attn_temp = attn_temp.to(weight.device, weight.dtype).train(block.training)

    # Last in the block, after the feed-forward.
    block.temporal_hook = block.register_forward_hook(TemporalHook(frames))


class TemporalHook:
    """Adds a block's temporal attention to its output; a class, so that a deep copy of a model has its own frames."""

    def __init__(self, frames: FrameAxis) -> None:
        self.frames = frames

    def __call__(self, block: nn.Module, _: object, hidden_states: Tensor) -> Tensor:
        """``(b f, n, d)`` -> ``(b f, n, d)``."""
        n = hidden_states.shape[1]
        pixels = block.norm_temp(hidden_states).unflatten(0, (-1, self.frames.num_frames))  # (b, f, n, d)
        pixels = pixels.transpose(1, 2).flatten(0, 1)  # (b n, f, d)
        attended = block.attn_temp(pixels).unflatten(0, (-1, n))  # (b, n, f, d)
        return hidden_states + attended.transpose(1, 2).flatten(0, 1)


def _video_norms(unet: UNet2DConditionModel) -> list[tuple[nn.Module, str, nn.GroupNorm]]:
    """The norms that are 5-dimensional in the released code: the resnets' and the last; not the transformers'."""
    resnets = [module for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    norms: list[tuple[nn.Module, str, nn.GroupNorm]] = [
        (resnet, name, getattr(resnet, name)) for resnet in resnets for name in ("norm1", "norm2")
    ]
    if unet.conv_norm_out is not None:
        norms.append((unet, "conv_norm_out", unet.conv_norm_out))
    return norms


def _check_can_inflate(unet: UNet2DConditionModel) -> None:
    if not isinstance(unet, UNet2DConditionModel):
        raise BaseModelError(
            f"expected a diffusers UNet2DConditionModel, got {type(unet).__name__}; transformer models "
            "(SD 3, Flux, PixArt) have no U-Net to inflate"
        )
    check_unet(unet.config, "this U-Net")
    blocks = list(transformer_blocks(unet))
    if not blocks:
        raise BaseModelError("this U-Net has no transformer block with attention, so there is nothing to tune")
    for name, block in blocks:
        if block.attn2 is None or block.only_cross_attention or block.attn1.added_kv_proj_dim is not None:
            raise BaseModelError(
                f"{name} has no plain self-attention followed by cross-attention; it cannot be inflated"
            )
