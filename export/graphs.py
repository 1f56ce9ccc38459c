"""The contracts of the exported graphs: names, dtypes, axes and tolerance, declared once.

Dummy inputs, the dynamic axes of the trace, the manifest and the parity check all derive from these.
"""

# diffusers and transformers annotate loosely:
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from tav_sdk.bundle import TEXT_ENCODER, TOLERANCES, UNET, VAE_DECODER, VAE_ENCODER, chunk_lengths
from tav_sdk.engines.base import Graph, TensorSpec

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
        dims = {axis: torch.export.Dim(axis, min=1, max=1024) for axis in names}
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
    *, channels: int, num_frames: int, height: int, width: int, num_tokens: int, text_width: int, num_timesteps: int
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


class TextEncoderGraph(nn.Module):
    """A text encoder that returns its last hidden state alone."""

    def __init__(self, text_encoder: nn.Module) -> None:
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        """``(b, s)`` int64 -> ``(b, s, d)``."""
        return self.text_encoder(input_ids)[0]


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
