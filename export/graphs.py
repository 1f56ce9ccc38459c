"""The contracts of the exported graphs: names, dtypes, axes and tolerance, declared once.

Dummy inputs, the dynamic axes of the trace, the manifest and the parity check all derive from these.
"""

# diffusers and transformers annotate loosely:
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel
from torch import Tensor, nn

from tav_sdk.bundle.layout import (
    CONTROLNET,
    DOWN_RESIDUAL,
    MID_RESIDUAL,
    PAST,
    PRESENT,
    TEXT_ENCODER,
    UNET,
    VAE_DECODER,
    VAE_ENCODER,
    WINDOWED_UNET,
)
from tav_sdk.bundle.precision import TOLERANCES
from tav_sdk.engines.base import Graph, TensorSpec
from tav_sdk.video.frames import chunk_lengths

OPSET = 23
"""Keeps ``Attention``, ``GroupNormalization`` and ``Gelu`` whole; see ``benchmarks/opset.py`` for the measurement."""


@dataclass(frozen=True, kw_only=True)
class GraphContract:
    """What a graph takes and gives.

    Attributes:
        name: the graph's folder in the bundle.
        inputs: in the module's argument order; a string axis is dynamic.
        outputs: in the module's return order.
        precision: what it computes in.
        tolerance: largest difference to the float32 module, relative to the output's largest magnitude.
        high: exclusive upper bound of dummy integers, by input name.
        axes: the lengths in use of each dynamic axis, by its name.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str = "fp32"
    tolerance: float = TOLERANCES["fp32"]
    high: dict[str, int] = field(default_factory=dict)
    axes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def computing_in(self, precision: str) -> GraphContract:
        """The same in another precision, with its tolerance."""
        return dataclasses.replace(self, precision=precision, tolerance=TOLERANCES[precision])

    def graph(self, path: Path, tuned: tuple[TensorSpec, ...] = ()) -> Graph:
        """The exported graph as an engine opens it; never shared or cached."""
        return Graph(
            name=self.name,
            path=path,
            inputs=self.inputs,
            outputs=self.outputs,
            precision=self.precision,
            axes=self.axes,
            tuned=tuned,
        )

    def dummy_feeds(self, seed: int = 0, axis_length: int = 2) -> dict[str, np.ndarray]:
        """Random inputs that fit the contract, with every dynamic axis ``axis_length`` long."""
        rng = np.random.default_rng(seed)
        feeds = {}
        for spec in self.inputs:
            shape = tuple(axis_length if isinstance(axis, str) else axis for axis in spec.shape)
            if spec.name in self.high:
                feeds[spec.name] = rng.integers(1, self.high[spec.name], shape, dtype=np.int64)
            else:
                feeds[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
        return {name: np.asarray(array) for name, array in feeds.items()}

    def dynamic_shapes(self) -> dict[str, dict[int, torch.export.Dim]]:
        """The dynamic axes as ``torch.export`` wants them, by input name."""
        names = {axis for spec in self.inputs for axis in spec.shape if isinstance(axis, str)}
        # Up to what is in use: PyTorch has limits of its own below any large number, and would trace a second time.
        dims = {axis: torch.export.Dim(axis, min=1, max=max(2, *self.axes.get(axis, (1024,)))) for axis in names}
        return {
            spec.name: {place: dims[axis] for place, axis in enumerate(spec.shape) if isinstance(axis, str)}
            for spec in self.inputs
        }


def text_encoder_contract(*, num_tokens: int, width: int, vocabulary: int) -> GraphContract:
    """Token ids to text states (the last hidden states, final layer norm included)."""
    return GraphContract(
        name=TEXT_ENCODER,
        inputs=(TensorSpec("input_ids", "int64", ("batch", num_tokens)),),
        outputs=(TensorSpec("last_hidden_state", "float32", ("batch", num_tokens, width)),),
        high={"input_ids": vocabulary},
        axes={"batch": (1,)},
    )


def vae_encoder_contract(*, channels: int, num_frames: int, height: int, width: int, factor: int) -> GraphContract:
    """Pixels in [-1, 1] to mean and log-variance of the posterior, concatenated; unscaled."""
    return GraphContract(
        name=VAE_ENCODER,
        inputs=(TensorSpec("sample", "float32", ("frames", 3, height, width)),),
        outputs=(
            TensorSpec("latent_parameters", "float32", ("frames", 2 * channels, height // factor, width // factor)),
        ),
        axes={"frames": chunk_lengths(num_frames)},
    )


def vae_decoder_contract(*, channels: int, num_frames: int, height: int, width: int, factor: int) -> GraphContract:
    """Unscaled latents to pixels, about in [-1, 1]."""
    return GraphContract(
        name=VAE_DECODER,
        inputs=(TensorSpec("latent_sample", "float32", ("frames", channels, height // factor, width // factor)),),
        outputs=(TensorSpec("sample", "float32", ("frames", 3, height, width)),),
        axes={"frames": chunk_lengths(num_frames)},
    )


def unet_contract(
    *,
    channels: int,
    num_frames: int,
    height: int,
    width: int,
    num_tokens: int,
    text_width: int,
    num_timesteps: int,
) -> GraphContract:
    """Noisy latents, timestep and text states to the prediction; ``height`` and ``width`` in latents."""
    video = ("batch", channels, num_frames, height, width)
    return GraphContract(
        name=UNET,
        inputs=(
            TensorSpec("sample", "float32", video),
            TensorSpec("timestep", "int64", ()),
            TensorSpec("encoder_hidden_states", "float32", ("batch", num_tokens, text_width)),
        ),
        outputs=(TensorSpec("out_sample", "float32", video),),
        high={"timestep": num_timesteps},
        axes={"batch": (1, 2)},  # inversion; sampling with guidance
    )


def windowed_unet_contract(unet: GraphContract, past: Mapping[str, Sequence[int]]) -> GraphContract:
    """The U-Net for a window of a longer video: what was kept of former windows goes in, for the next one comes out.

    Args:
        unet: the contract of the U-Net for a whole clip, without control.
        past: shapes without the batch by name, see :func:`~tav_sdk.training.unet.windowed.past_shapes`.
    """

    def kept(prefix: str) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(f"{prefix}.{name}", "float32", ("batch", *shape)) for name, shape in past.items())

    frames = unet.inputs[0].shape[2]
    return dataclasses.replace(
        unet,
        name=WINDOWED_UNET,
        inputs=(*unet.inputs, TensorSpec("position", "int64", ()), *kept(PAST)),
        outputs=(*unet.outputs, *kept(PRESENT)),
        high={**unet.high, "position": 2 * int(frames)},
    )


def residual_specs(
    channels: Sequence[int], layers_per_block: Sequence[int] | int, *, num_frames: int, height: int, width: int
) -> tuple[TensorSpec, ...]:
    """What a ControlNet gives to a U-Net: after its first convolution, each layer and each downsampler, and the middle.

    Args:
        channels: of the U-Net's levels.
        layers_per_block: of its down blocks.
        num_frames: of the clip.
        height: in latents.
        width: in latents.

    Returns:
        ``(b, f, c, h, w)`` float32, with diffusers' names and a number; the middle's last.
    """
    layers = [layers_per_block] * len(channels) if isinstance(layers_per_block, int) else list(layers_per_block)
    shapes = [(channels[0], height, width)]
    for level, (width_of_level, count) in enumerate(zip(channels, layers, strict=True)):
        shapes += [(width_of_level, height, width)] * count
        if level + 1 < len(channels):
            height, width = -(-height // 2), -(-width // 2)
            shapes.append((width_of_level, height, width))
    names = [f"{DOWN_RESIDUAL}_{number}" for number in range(len(shapes))]
    shapes.append((channels[-1], height, width))
    return tuple(
        TensorSpec(name, "float32", ("batch", num_frames, *shape))
        for name, shape in zip([*names, MID_RESIDUAL], shapes, strict=True)
    )


def controlnet_contract(
    *,
    video: tuple[int | str, ...],
    states: tuple[int | str, ...],
    size: tuple[int, int],
    num_timesteps: int,
    residuals: Sequence[TensorSpec],
) -> GraphContract:
    """Noisy latents, timestep, text states, control pictures in [0, 1] and their scale to a U-Net's residuals.

    Args:
        video: shape of the latents, as in :func:`unet_contract`.
        states: shape of the text states, likewise.
        size: height and width of the control pictures in pixels.
        num_timesteps: exclusive upper bound of the timestep.
        residuals: as :func:`residual_specs` gives them.
    """
    return GraphContract(
        name=CONTROLNET,
        inputs=(
            TensorSpec("sample", "float32", video),
            TensorSpec("timestep", "int64", ()),
            TensorSpec("encoder_hidden_states", "float32", states),
            TensorSpec("controlnet_cond", "float32", (video[2], 3, *size)),
            TensorSpec("conditioning_scale", "float32", ()),
        ),
        outputs=tuple(residuals),
        high={"timestep": num_timesteps},
        axes={"batch": (1, 2)},
    )


class TextEncoderGraph(nn.Module):
    """A text encoder that returns its last hidden state alone."""

    def __init__(self, text_encoder: nn.Module) -> None:
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        """``(b, s)`` int64 -> ``(b, s, d)``."""
        return self.text_encoder(input_ids)[0]


class ControlNetGraph(nn.Module):
    """A ControlNet over the frames of videos, whose control pictures are embedded once for a batch."""

    def __init__(self, controlnet: ControlNetModel) -> None:
        super().__init__()
        self.controlnet_cond_embedding = controlnet.controlnet_cond_embedding
        controlnet.controlnet_cond_embedding = nn.Identity()
        self.controlnet = controlnet

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        controlnet_cond: Tensor,
        conditioning_scale: Tensor,
    ) -> tuple[Tensor, ...]:
        """``(b, c, f, h, w)``, ``()``, ``(b, s, d)``, ``(f, 3, H, W)``, ``()`` -> residuals ``(b, f, c, h, w)``."""
        b, _, f, _, _ = sample.shape
        folded = sample.transpose(1, 2).flatten(0, 1)  # (b f, c, h, w)
        states = encoder_hidden_states[:, None].expand(-1, f, -1, -1).flatten(0, 1)  # (b f, s, d)
        embedded = self.controlnet_cond_embedding(controlnet_cond)[None]  # (1, f, c, h, w)
        embedded = embedded.expand(b, -1, -1, -1, -1).flatten(0, 1)
        down, mid = self.controlnet(folded, timestep, states, embedded, return_dict=False)
        return tuple(residual.unflatten(0, (-1, f)) * conditioning_scale for residual in (*down, mid))


class VaeEncoderGraph(nn.Module):
    """A VAE's encoder up to the posterior's parameters."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, sample: Tensor) -> Tensor:
        """``(f, 3, h, w)`` -> ``(f, 2 c, h / s, w / s)``."""
        return self.vae.encode(sample).latent_dist.parameters


class VaeDecoderGraph(nn.Module):
    """A VAE's decoder."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: Tensor) -> Tensor:
        """``(f, c, h / s, w / s)`` -> ``(f, 3, h, w)``."""
        return self.vae.decode(latent_sample, return_dict=False)[0]
