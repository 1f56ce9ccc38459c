"""How far half precision takes each graph of a bundle from the float32 model, and what islands of float32 gain.

    python -m benchmarks.precision --base pocket --json precision.json

Every operator computes in float32 and rounds its result to the half type, as engines on a GPU do; ``unrolled`` shows
an operator with every single step rounded, as an engine might do that ignores the standard's ``stash_type`` for norms,
or that does not fuse attention. ``error`` is the largest difference to the float32 model, relative to its largest
magnitude; ``rms`` the same of root mean squares. ``pocket`` has trained weights, ``tiny`` and ``mid`` random ones.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from benchmarks import progress, table, write_json
from benchmarks.models import MID, TINY, write_base
from tav_sdk.bundle.layout import TEXT_ENCODER, UNET, VAE_DECODER, VAE_ENCODER
from tav_sdk.export.graphs import TextEncoderGraph, VaeDecoderGraph, VaeEncoderGraph
from tav_sdk.export.precision import HALF, to_half
from tav_sdk.export.reference import picture
from tav_sdk.training import InflationOptions, inflate
from tav_sdk.training.base.model import PretrainedBase

BASES = ("tiny", "pocket", "mid")
CASES: dict[str, dict[str, Any]] = {
    "nothing kept": {},
    "norms unrolled": {"unrolled": ("norms",)},
    "attention unrolled": {"unrolled": ("attention",)},
    "norms kept": {"kept": ("norms",)},
    "attention kept": {"kept": ("attention",)},
}
UNET_CASES: dict[str, dict[str, Any]] = {
    "sinusoids in half": {"unrolled": ("sinusoids",)},
    "time_embedding kept": {"kept": ("time_embedding",)},
    "conv_in kept": {"kept": ("conv_in",)},
    "conv_out kept": {"kept": ("conv_out",)},
    "both ends kept": {"kept": ("conv_in", "conv_out")},
    "ends and time kept": {"kept": ("time_embedding", "conv_in", "conv_out")},
    "everything kept": {"kept": ("time_embedding", "conv_in", "conv_out", "norms", "attention")},
}


def run(base: PretrainedBase, *, num_frames: int, size: int) -> dict[str, Any]:
    """Measure every graph of a base in each precision, with a clip of ``num_frames`` of ``size`` x ``size`` pixels."""
    rows = []
    for graph, module, feeds in _graphs(base, num_frames, size):
        args = tuple(torch.from_numpy(array) for array in feeds)
        with torch.no_grad():
            reference = module(*args).numpy()
        for precision in HALF:
            for name, case in {**CASES, **(UNET_CASES if graph == UNET else {})}.items():
                if graph == TEXT_ENCODER and name == "attention kept":
                    continue  # its projections have other names
                progress(f"{graph} {precision}: {name}")
                rows.append({"graph": graph, "precision": precision, "case": name})
                result, peak = _half(module, args, precision, **case)
                rows[-1] |= _error(result, reference) | {"peak": peak}
    return {"rows": rows}


def _graphs(
    base: PretrainedBase, num_frames: int, size: int
) -> Iterator[tuple[str, nn.Module, tuple[np.ndarray, ...]]]:
    """Each graph's float32 module and an input, as the export makes them, without a tuned clip."""
    ids = base.load_tokenizer()("a red square is moving over the meadow")
    text_encoder = TextEncoderGraph(base.load_text_encoder())
    yield TEXT_ENCODER, text_encoder, (ids,)
    encoder, pixels = VaeEncoderGraph(base.load_vae()), picture(size, size)
    yield VAE_ENCODER, encoder, (pixels,)
    with torch.no_grad():
        states = text_encoder(torch.from_numpy(ids)).numpy()
        clean = encoder(torch.from_numpy(pixels)).numpy()
    clean = clean[:, : clean.shape[1] // 2]  # (1, c, h, w)
    del text_encoder, encoder
    yield VAE_DECODER, VaeDecoderGraph(base.load_vae()), (clean,)
    unet = inflate(base.load_unet(), InflationOptions(), num_frames).eval()
    for name, parameter in unet.named_parameters():
        if name.endswith("attn_temp.to_out.0.weight"):  # zero before tuning
            torch.nn.init.normal_(parameter, std=0.02)
    video = np.repeat(clean[:, :, None], num_frames, axis=2) * np.float32(base.scaling_factor)
    noise = np.random.default_rng(0).standard_normal(video.shape, dtype=np.float32)
    timestep = base.schedule.num_train_timesteps // 3
    yield UNET, unet, (base.schedule.add_noise(video, noise, timestep), np.asarray(timestep), states)


@torch.no_grad()
def _half(
    module: nn.Module,
    args: tuple[Tensor, ...],
    precision: str,
    *,
    kept: tuple[str, ...] = (),
    unrolled: tuple[str, ...] = (),
) -> tuple[np.ndarray, float]:
    """A converted copy's output, and the largest magnitude that was rounded on the way."""
    module = copy.deepcopy(module)
    to_half(module, precision, kept)
    mode = Rounding(HALF[precision])
    with contextlib.ExitStack() as stack:
        if "norms" in unrolled:
            stack.enter_context(mock.patch.object(F, "group_norm", unrolled_group_norm))
            stack.enter_context(mock.patch.object(F, "layer_norm", unrolled_layer_norm))
        if "attention" in unrolled:
            stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", unrolled_attention))
        if "sinusoids" in unrolled:
            module.get_submodule("time_proj").register_forward_hook(_sinusoids_in(HALF[precision]))
        stack.enter_context(mode)
        result = module(*args)
    return result.numpy(), mode.peak


def _error(result: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    difference = result - reference
    return {
        "error": float(np.abs(difference).max() / np.abs(reference).max()),
        "rms": float(np.sqrt((difference**2).mean() / (reference**2).mean())),
        "psnr": float(20 * np.log10(np.ptp(reference) / np.sqrt((difference**2).mean()))),
    }


# --- what rounds -----------------------------------------------------------------------------------------------------


class Rounding(TorchDispatchMode):
    """Computes in float32 what gets half tensors, and rounds its result.

    Attributes:
        peak: the largest magnitude before it was rounded; float16 ends at 65504.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.peak = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        computes = not func.is_view and not func._schema.is_mutable and "_to_copy" not in func.name()
        if not computes or all(leaf.dtype != self.dtype for leaf in leaves):
            return func(*args, **kwargs)
        # A sum of half and float32 is float32 before and after.
        mixed = any(leaf.dtype == torch.float32 and leaf.ndim for leaf in leaves)
        return tree_map(
            lambda leaf: leaf if mixed else self._rounded(leaf), func(*tree_map(self._widened, args), **kwargs)
        )

    def _widened(self, leaf: Any) -> Any:
        return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype == self.dtype else leaf

    def _rounded(self, leaf: Any) -> Any:
        if not (isinstance(leaf, Tensor) and leaf.dtype == torch.float32):
            return leaf
        self.peak = max(self.peak, float(leaf.abs().max()) if leaf.numel() else 0.0)
        return leaf.to(self.dtype)


def unrolled_group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Group norm in single steps."""
    grouped = x.reshape(x.shape[0], groups, -1)
    normed = _normed(grouped, eps).reshape(x.shape)
    shape = (1, -1, *(1,) * (x.ndim - 2))
    return normed * weight.reshape(shape) + bias.reshape(shape)


def unrolled_layer_norm(x: Tensor, shape: Any, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Layer norm in single steps."""
    return _normed(x, eps) * weight + bias


def _normed(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)


def unrolled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """Attention in single steps, the scale shared between query and key, as engines do."""
    root = (query.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    logits = (query * root) @ (key * root).transpose(-1, -2)
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None:
        bias = attn_mask if attn_mask.is_floating_point() else torch.where(attn_mask, 0.0, -1e4)
        logits = logits + bias.to(logits.dtype)
    weights = torch.exp(logits - logits.amax(-1, keepdim=True))
    return (weights / weights.sum(-1, keepdim=True)) @ value


def _sinusoids_in(dtype: torch.dtype) -> Any:
    def hook(part: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        half = output.shape[-1] // 2
        exponent = torch.arange(half, dtype=torch.float32).to(dtype) / (half - part.downscale_freq_shift)
        angles = args[0][:, None].to(dtype) * torch.exp(exponent * -9.2103404)[None]
        parts = [torch.cos(angles), torch.sin(angles)]
        return torch.cat(parts if part.flip_sin_to_cos else parts[::-1], dim=-1)

    return hook


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=BASES, default="pocket")
    parser.add_argument("--json", help="also write the result to this file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as work:
        if options.base == "pocket":
            result = run(PretrainedBase(Path("pocket")), num_frames=8, size=64)
        else:
            scale = {"tiny": TINY, "mid": MID}[options.base]
            base = PretrainedBase(write_base(scale, Path(work) / "base"))
            result = run(base, num_frames=scale.num_frames, size=scale.pixels)
    rows = [
        (
            f"{row['graph']} {row['precision']}",
            row["case"],
            f"{row['error']:.1e}",
            f"{row['rms']:.1e}",
            f"{row['psnr']:.0f}",
            f"{row['peak']:.0f}",
        )
        for row in result["rows"]
    ]
    print(table(("graph", "case", "error", "rms", "PSNR dB", "peak"), rows))
    write_json(options.json, {"benchmark": "precision", "base": options.base, **result}, options)


if __name__ == "__main__":
    main()
