"""What a graph computes in: half precision, with islands of float32 where they pay.

The graph is strongly typed: engines take the types that stand in it. So a module is converted before it is traced, by
its weights' types and by hooks; parameters keep their names. ``benchmarks/precision.py`` measures what each island
gains; docs/ENGINES.md has the numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tav_sdk.bundle.layout import TEXT_ENCODER, UNET

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
INT8 = "int8"

KINDS = ("sinusoids", "time_embedding", "conv_in", "conv_out", "norms", "attention")
"""Islands that a U-Net can have: the timestep's sinusoids, their two layers, the first convolution, the last norm,
activation and convolution, group and layer norms, and attention from its projections on."""


def graph_precision(graph: str, precision: str) -> str:
    """What one graph of a bundle computes in.

    The VAE stays in float32: it runs once per clip, where the U-Net runs at every step; whether it overflows in float16
    depends on its weights and on the picture; in bfloat16 it loses as much as 8-bit pixels do. The text encoder runs
    once per prompt, and its error is in every step, so it follows to float16 alone. 8-bit integers are for the U-Net
    alone, for the same reasons; see :mod:`tav_sdk.export.int8`.
    """
    if graph == UNET or (graph == TEXT_ENCODER and precision == "fp16"):
        return precision
    return "fp32"


def kept_islands(graph: str, precision: str, *, upcast_attention: bool = False) -> tuple[str, ...]:
    """The islands of a graph, those of :data:`KINDS` that pay.

    The ends take a quarter off the U-Net's error on Pocket, and cost two small convolutions. Norms and attention gain
    nothing where an engine computes inside of them in float32, as ONNX has it for norms (``stash_type``); TensorRT
    takes both as one layer, and refuses ``Attention`` with a ``softmax_precision``.

    Args:
        graph: its name.
        precision: what the graph computes in.
        upcast_attention: the base's own word that its attention overflows in float16, as Stable Diffusion 2.1's does.
    """
    if graph != UNET or precision not in HALF:
        return ()
    kept = ("sinusoids", "conv_in", "conv_out")
    return (*kept, "attention") if upcast_attention and precision == "fp16" else kept


def to_half(module: nn.Module, precision: str, kept: Collection[str] = ()) -> None:
    """Make a module compute in half precision, in place and for good: its weights are rounded.

    Inputs and outputs stay float32; every part casts what it gets to the type of its weights. So sinusoids, which
    diffusers computes in the type of the sample, are in float32 without more; ``kept`` names them all the same.

    Args:
        module: in float32, one of :mod:`tav_sdk.export.graphs` or an inflated U-Net.
        precision: ``fp16`` or ``bf16``.
        kept: islands, of :data:`KINDS`.
    """
    dtype = HALF[precision]
    for name, part in module.named_modules():
        tensors = list(_own_tensors(part))
        if not tensors:
            continue
        keep = _is_kept(name, part, kept)
        for tensor in tensors if not keep else ():
            tensor.data = tensor.data.to(dtype)
        part.register_forward_pre_hook(_CastInputs(torch.float32 if keep else dtype))
        if keep and name.endswith("conv_in"):
            part.register_forward_hook(_CastOutput(dtype))  # or every residual behind it would be float32
        if "attention" in kept and name.endswith((".to_q", ".to_k", ".to_v")):
            part.register_forward_hook(_CastOutput(torch.float32))
    module.register_forward_hook(_CastOutput(torch.float32))


class _CastInputs:
    """A forward pre-hook."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(arg.to(self.dtype) if isinstance(arg, Tensor) and arg.is_floating_point() else arg for arg in args)


class _CastOutput:
    """A forward hook."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, _: nn.Module, __: object, output: Tensor) -> Tensor:
        return output.to(self.dtype)


def _own_tensors(part: nn.Module) -> Iterator[Tensor]:
    """A part's own weights and buffers of floating point, its children's left out."""
    for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
        if tensor.is_floating_point():
            yield tensor


def _is_kept(name: str, part: nn.Module, kept: Collection[str]) -> bool:
    steps = name.split(".")
    if "norms" in kept and isinstance(part, (nn.GroupNorm, nn.LayerNorm)):
        return True
    if "conv_out" in kept and steps[-1] in ("conv_norm_out", "conv_out"):
        return True
    if "conv_in" in kept and steps[-1] == "conv_in":
        return True
    return "time_embedding" in kept and "time_embedding" in steps
