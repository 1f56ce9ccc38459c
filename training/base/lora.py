"""Fusing LoRA files into a base's U-Net and text encoder: ``W + scale * alpha / rank * up @ down``.

diffusers translates the names of the formats (its own, old and new, peft's and kohya's); the arithmetic is here, so
that every tensor of a file is accounted for, and peft is not needed.
"""

# diffusers and transformers annotate loosely:
# pyright: reportArgumentType=false

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils.state_dict_utils import (
    StateDictType,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from tav_sdk.errors import BaseModelError, PickledWeightsError
from tav_sdk.training.base.lora_file import LoraFile
from tav_sdk.training.base.lora_metadata import LoraMetadata, PartMetadata
from tav_sdk.training.base.mismatches import listed
from tav_sdk.training.base.pickled import load_pickled
from tav_sdk.training.base.reading import PICKLED, reading
from tav_sdk.training.tensor_file import read_header

UNET, TEXT_ENCODER = "unet", "text_encoder"
ADVICE = "download or convert it again"
OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "LoCon in three factors",
    "oft_": "OFT",
}
"""By a part of a key, adapters that are no plain LoRA."""
_ANY_SIDE = re.compile(r"(lora_|lora\.|lora_linear_layer\.)(down|up|A|B)\b(?=.*weight$)")
_OTHER_SIDE = {"down": "up", "up": "down", "A": "B", "B": "A"}
"""How every format calls the two factors of a module."""
_SIDE = re.compile(r"\.lora_([AB])(?:\.\w+)?\.weight$")


@dataclass(frozen=True)
class _Pair:
    """The two factors for one module: ``(r, in, ...)`` and ``(out, r, ...)``; with them ``alpha / rank``."""

    down: Tensor
    up: Tensor
    scale: float

    def delta(self, shape: torch.Size) -> Tensor:
        """What the module's weight changes by; a 1x1 convolution may have the factors of a linear layer."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)  # (out, in k k)
        return self.scale * product.reshape(shape)

    def fits(self, shape: Sequence[int]) -> bool:
        return (
            self.up.shape[0] == shape[0]
            and self.up[0].numel() == self.down.shape[0]
            and self.down[0].numel() == math.prod(shape[1:])
        )


@torch.no_grad()
def fuse(
    model: nn.Module, part: str, loras: Iterable[LoraFile], unet_config: Mapping[str, Any], *, allow_pickle: bool
) -> None:
    """Add every LoRA to the weights of a base's part, in place, one after the other.

    Args:
        model: the image U-Net or the text encoder, in float32.
        part: ``unet`` or ``text_encoder``.
        loras: what to add.
        unet_config: the U-Net's configuration.
        allow_pickle: read files that are no ``.safetensors``, tensors only.

    Raises:
        BaseModelError: a file does not fit the model, or is no LoRA.
        PickledWeightsError: a file is pickled and ``allow_pickle`` is not set.
    """
    modules = dict(model.named_modules())
    for lora in loras:
        pairs = _read(lora, unet_config, allow_pickle=allow_pickle)[part]
        shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
        found, problems = _match(pairs, shapes, part)
        _refuse(lora, problems, len(pairs))
        for name, pair in found.items():
            weight = modules[name].weight
            weight += lora.scale * pair.delta(weight.shape)  # type: ignore[operator]
            if not weight.isfinite().all():
                raise BaseModelError(
                    f"the LoRA {lora.path} makes {part}.{name} infinite: its factors, their alpha or the scale "
                    f"{lora.scale:g} are too large; give a smaller scale, as FILE:0.8"
                )


def check_loras(configs: Mapping[str, Any], loras: Sequence[LoraFile], *, allow_pickle: bool) -> None:
    """Check that every tensor of the LoRAs has its place in a base, before any of its weights is read.

    Raises:
        BaseModelError: a file does not fit, or is no LoRA; names the first ten tensors and the count.
        PickledWeightsError: a file is pickled and ``allow_pickle`` is not set.
    """
    with reading("the configurations of the base model"), torch.device("meta"):
        models: dict[str, Any] = {
            UNET: UNet2DConditionModel.from_config(configs[UNET]),
            TEXT_ENCODER: CLIPTextModel(CLIPTextConfig(**configs[TEXT_ENCODER])),
        }
    shapes = {part: {name: tuple(p.shape) for name, p in model.named_parameters()} for part, model in models.items()}
    for lora in loras:
        parts = _read(lora, configs[UNET], allow_pickle=allow_pickle)
        problems = [problem for part, pairs in parts.items() for problem in _match(pairs, shapes[part], part)[1]]
        _refuse(lora, problems, sum(map(len, parts.values())))


def _read(lora: LoraFile, unet_config: Mapping[str, Any], *, allow_pickle: bool) -> dict[str, dict[str, _Pair]]:
    """The pairs of a file by part and by the module's name in the part."""
    lora.check()
    what = f"the LoRA {lora.path}"
    if lora.path.suffix in PICKLED:
        if not allow_pickle:
            raise PickledWeightsError(
                f"{what} is pickled; reading a pickle can run code. Convert it to .safetensors, or, if you trust it, "
                "allow it with allow_pickle, which reads tensors only (weights_only)"
            )
        tensors, metadata = load_pickled(lora.path, what, BaseModelError), LoraMetadata()
    else:
        header = read_header(lora.path, error=BaseModelError, advice=ADVICE, what=what)
        metadata = LoraMetadata.read(header.metadata, what)
        with reading(what):
            tensors = load_file(lora.path)
    _check_kind(what, tensors, metadata)
    _check_whole(what, tensors)
    with reading(what):
        # kohya's names of blocks are counted in layers.
        layout = SimpleNamespace(layers_per_block=unet_config.get("layers_per_block", 2))
        state, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(dict(tensors), unet_config=layout)[:2]
    if not any(key.startswith((f"{UNET}.", f"{TEXT_ENCODER}")) for key in state):
        state = {f"{UNET}.{key}": tensor for key, tensor in state.items()}  # the first format was of the U-Net alone
    parts = {part: {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}
             for part in (UNET, TEXT_ENCODER)}  # fmt: skip
    if left := [key for key in state if not key.startswith((f"{UNET}.", f"{TEXT_ENCODER}."))]:
        _refuse(lora, [f"unexpected {key}" for key in left], len(state))
    return {
        part: _pairs(lora, part, _peft_names(tensors, part), alphas or {}, metadata) for part, tensors in parts.items()
    }


def _check_kind(what: str, tensors: Mapping[str, Tensor], metadata: LoraMetadata) -> None:
    for mark, kind in OTHER_KINDS.items():
        if any(mark in key for key in tensors):
            raise BaseModelError(f"{what} is of the kind {kind}, which cannot be fused here; give a plain LoRA")
    if metadata.unet.use_dora or metadata.text_encoder.use_dora:
        raise BaseModelError(f"{what} is of the kind DoRA, which cannot be fused here; give a plain LoRA")
    if not tensors:
        raise BaseModelError(f"{what} is empty: there is no tensor in it; download it again")
    if not any("lora" in key for key in tensors):
        raise BaseModelError(
            f"{what} is no LoRA: it has no key with 'lora' in it, but {', '.join(list(tensors)[:3])}; "
            "give a whole checkpoint as base"
        )


def _check_whole(what: str, tensors: Mapping[str, Tensor]) -> None:
    sides = {key: _ANY_SIDE.search(key) for key in tensors}
    for key, tensor in tensors.items():
        if sides[key] and (tensor.ndim < 2 or not tensor.numel()):
            raise BaseModelError(
                f"{what} is damaged: {key} has the shape {tuple(tensor.shape)}, expected a factor of a matrix; {ADVICE}"
            )
    others = {key: f"{key[: s.start(2)]}{_OTHER_SIDE[s[2]]}{key[s.end(2) :]}" for key, s in sides.items() if s}
    if halves := [f"{key} is there, {other} is not" for key, other in others.items() if other not in tensors]:
        raise BaseModelError(
            f"{what} is damaged: of {len(halves)} pairs of factors only one is there:{listed(halves)}Download or "
            "convert it again"
        )
    if broken := [key for key, t in tensors.items() if not t.float().isfinite().all()]:
        more = f" and {len(broken) - 1} others" if len(broken) > 1 else ""
        raise BaseModelError(
            f"{what} has values that are not finite: {broken[0]}{more}; it would make a model of NaN. "
            "Download it again, or train it anew with a lower learning rate"
        )


def _peft_names(tensors: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Keys as ``MODULE.lora_A.weight`` and ``MODULE.lora_B.weight``."""
    if part == UNET:
        return convert_unet_state_dict_to_peft(tensors)
    if any(re.search(r"\.to_(q|k|v|out)_lora\.", key) for key in tensors):
        return convert_state_dict_to_peft(tensors, original_type=StateDictType.DIFFUSERS_OLD)
    if any("lora_linear_layer" in key for key in tensors):
        return convert_state_dict_to_peft(tensors, original_type=StateDictType.DIFFUSERS)
    return dict(tensors)


def _pairs(
    lora: LoraFile, part: str, tensors: Mapping[str, Tensor], alphas: Mapping[str, float], metadata: LoraMetadata
) -> dict[str, _Pair]:
    sides: dict[str, dict[str, Tensor]] = {}
    problems = []
    for key, tensor in tensors.items():
        found = _SIDE.search(key)
        if found is None:
            problems.append(f"unexpected {part}.{key}")
        else:
            sides.setdefault(key[: found.start()], {})[found[1]] = tensor
    problems += [f"{part}.{name} lacks one of its two factors" for name, both in sides.items() if len(both) < 2]
    _refuse(lora, problems, len(tensors))
    # kohya's alphas carry the names of the tensors that they belong to, or of the module.
    named = {
        key.removeprefix(f"{part}.").removesuffix(".alpha"): alpha
        for key, alpha in alphas.items()
        if key.startswith(f"{part}.")
    }
    by_module = {_SIDE.sub("", key): alpha for key, alpha in _peft_names(named, part).items()}
    config = metadata.unet if part == UNET else metadata.text_encoder
    return {
        name: _Pair(both["A"], both["B"], _scale(name, int(both["A"].shape[0]), by_module, config))
        for name, both in sides.items()
    }


def _scale(name: str, rank: int, alphas: Mapping[str, float], config: PartMetadata) -> float:
    """``alpha / rank``; without an alpha it is 1."""
    alpha = alphas.get(name, rank if config.lora_alpha is None else config.lora_alpha)
    if (own := config.alpha_of(name)) is not None:
        alpha = own
    return float(alpha) / (math.sqrt(rank) if config.use_rslora else rank)


def _match(
    pairs: Mapping[str, _Pair], shapes: Mapping[str, tuple[int, ...]], part: str
) -> tuple[dict[str, _Pair], list[str]]:
    """The pairs by the model's own names, and what is wrong with the others."""
    found, problems = {}, []
    for name, pair in pairs.items():
        # transformers wrapped CLIP's text model in `text_model` once.
        own = next(
            (n for n in (name, name.removeprefix("text_model."), f"text_model.{name}") if f"{n}.weight" in shapes), None
        )
        if own is None:
            problems.append(f"unexpected {part}.{name}")
        elif not pair.fits(shape := shapes[f"{own}.weight"]):
            got = f"{tuple(pair.up.shape)} and {tuple(pair.down.shape)}"
            problems.append(f"{part}.{name}: expected factors of a weight {shape}, got {got}")
        else:
            found[own] = pair
    return found, problems


def _refuse(lora: LoraFile, problems: Sequence[str], count: int) -> None:
    if problems:
        raise BaseModelError(
            f"the LoRA {lora.path} does not fit the base model ({len(problems)} of its {count} parts match nothing):"
            f"{listed(problems)}It was made for another one: Stable Diffusion 1.x, 2.x and XL all differ"
        )
