"""The diffusers layout of a base model's folder: its parts, and which of the weights in a part are read.

Without PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from tav_sdk.errors import BaseModelError
from tav_sdk.reading import MAX_CONFIG_BYTES, read_json, validated
from tav_sdk.words import brief

PARTS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
WEIGHTS = {
    "unet": ("diffusion_pytorch_model",),
    "vae": ("diffusion_pytorch_model",),
    "text_encoder": ("model", "pytorch_model"),
}
"""Names of a part's weights, without what follows the first dot."""
INDEX = "model_index.json"
UNET_CLASS = "UNet2DConditionModel"
ATTENTION = "CrossAttn"
"""Stands in the name of every block of a U-Net that has transformer blocks, as CrossAttnDownBlock2D."""
VARIANTS = ("fp16", "bf16")
"""Preferred where a part has no plain weights; any other comes after them."""
_WEIGHTS = re.compile(
    r"(?P<stem>\w+?)"
    r"(?P<shard>-\d{5}-of-\d{5})?"
    r"(?:\.(?P<variant>\w+?))?"
    r"(?P<late>-\d{5}-of-\d{5})?"
    r"\.(?P<suffix>safetensors|bin)"
    r"(?P<index>\.index(?:\.(?P<of>\w+))?\.json)?"
)
_ANY_WEIGHTS = re.compile(r"(diffusion_|diffusion_flax_|pytorch_|flax_|tf_|rust_|open_clip_)?(pytorch_)?model[.-]")

ShardName = Annotated[str, Field(pattern=r"^[\w.-]{1,200}\.(safetensors|bin)$")]


class _ShardIndex(BaseModel):
    """By tensor, the file beside the index that holds it."""

    model_config = ConfigDict(strict=True)

    weight_map: Annotated[dict[str, ShardName], Field(max_length=100_000)]


@dataclass(frozen=True)
class PartWeights:
    """The weights of a part that are read.

    Attributes:
        variant: as in ``diffusion_pytorch_model.fp16.safetensors``; none of the plain ones.
        pickled: whether they are ``.bin``.
        files: with the index of shards.
    """

    variant: str | None
    pickled: bool
    files: tuple[Path, ...]


def find_weights(folder: Path, part: str) -> PartWeights | None:
    """What is read of a part's folder: ``.safetensors`` before ``.bin``, plain weights before variants.

    Raises:
        BaseModelError: an index names a shard that is not there.
    """
    sets: dict[tuple[bool, str], list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        found = _WEIGHTS.fullmatch(path.name)
        if found and path.is_file() and found["stem"] in WEIGHTS[part]:
            variant = found["variant"] or found["of"] or ""
            sets.setdefault((found["suffix"] == "bin", variant), []).append(path)

    def order(key: tuple[bool, str]) -> tuple[bool, int, str]:
        pickled, variant = key
        return pickled, ("", *VARIANTS, variant).index(variant), variant

    if not sets:
        return None
    pickled, variant = min(sets, key=order)
    files = tuple(sets[pickled, variant])
    _check_shards(folder, files)
    return PartWeights(variant or None, pickled, files)


def part_files(folder: Path, part: str) -> Iterator[Path]:
    """Every file of a part but weights that are not read, sorted."""
    read = find_weights(folder / part, part) if part in WEIGHTS else None
    for path in sorted((folder / part).rglob("*")):
        if not path.is_file():
            continue
        if read and path not in read.files and path.parent == folder / part and _ANY_WEIGHTS.match(path.name):
            continue
        yield path


def check_pipeline(folder: Path, what: str) -> None:
    """Refuse a folder of another kind than Stable Diffusion 1.x and 2.x, with the reason.

    Only configurations are read; one that is missing or damaged is left to who needs it.

    Raises:
        BaseModelError: it is of another kind.
    """
    index = _read(folder / INDEX)
    kind = str(index.get("_class_name", ""))[:100]
    if "transformer" in index or (folder / "transformer").is_dir():
        reason = "it has a transformer, as SD 3, Flux and PixArt have, so there is no U-Net to inflate"
    elif "text_encoder_2" in index or (folder / "text_encoder_2").is_dir():
        reason = "its U-Net takes the size and a second text encoder's states, as SDXL's does"
    else:
        check_unet(_read(folder / "unet" / PARTS["unet"]), f"the U-Net of {what}")
        return
    raise BaseModelError(
        f"{what}{f' ({kind})' if kind else ''} cannot be inflated: {reason}; Stable Diffusion 1.x and 2.x are supported"
    )


def check_unet(config: Mapping[str, Any], what: str) -> None:
    """Refuse a U-Net that cannot be inflated, as far as its configuration tells, with the reason.

    Args:
        config: in diffusers' words; what is left out has diffusers' defaults.
        what: what the U-Net is called in messages.

    Raises:
        BaseModelError: it is of another kind than Stable Diffusion's.
    """
    kind = str(config.get("_class_name") or UNET_CLASS)[:100]
    if kind == "UNet3DConditionModel":
        reason = f"is a {kind}, a video model already; tav import-original takes those of the released code"
    elif kind.startswith("UNet") and kind != UNET_CLASS:
        reason = f"is a {kind}, expected a {UNET_CLASS}"
    elif given := _given(config, "addition_embed_type", "encoder_hid_dim", "encoder_hid_dim_type"):
        reason = f"takes additional conditions ({given}), as SDXL and DeepFloyd do"
    elif given := _given(config, "class_embed_type", "num_class_embeds"):
        reason = f"takes a class ({given}), as upscalers and unCLIP do"
    elif given := _given(config, "only_cross_attention", "mid_block_only_cross_attention"):
        reason = f"has no plain self-attention ({given})"
    elif not any(ATTENTION in str(block) for block in _blocks(config)):
        reason = "has no transformer block with attention, so there is nothing to tune"
    else:
        return
    raise BaseModelError(f"{what} {reason}; Stable Diffusion 1.x and 2.x are supported")


def _given(config: Mapping[str, Any], *names: str) -> str:
    """Those of the names that are set to something, with their values."""
    values = {name: config.get(name) for name in names}
    return ", ".join(
        f"{name}={brief(value)}"
        for name, value in values.items()
        if value not in (None, False) and not (isinstance(value, (list, tuple)) and not any(value))
    )


def _blocks(config: Mapping[str, Any]) -> list[Any]:
    """The kinds of all blocks; those that are left out are Stable Diffusion's."""
    sides = [config.get(name, (f"{ATTENTION}Block2D",)) for name in ("down_block_types", "up_block_types")]
    kinds = [kind for side in sides if isinstance(side, (list, tuple)) for kind in side]
    return [*kinds, config.get("mid_block_type", f"UNetMidBlock2D{ATTENTION}")]


def _read(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path, max_bytes=MAX_CONFIG_BYTES, error=BaseModelError, advice="download the model again")
    except BaseModelError:
        return {}
    return values if isinstance(values, dict) else {}


def _check_shards(folder: Path, files: tuple[Path, ...]) -> None:
    for path in files:
        if path.suffix != ".json":
            continue
        advice = "download the model again"
        values = read_json(path, error=BaseModelError, advice=advice)
        index = validated(_ShardIndex, values, what=f"{path}, an index of shards,", error=BaseModelError, advice=advice)
        shards = set(index.weight_map.values())
        if missing := sorted(shard for shard in shards if not (folder / shard).is_file()):
            raise BaseModelError(
                f"{path} names shards that are not there: {', '.join(missing[:10])}; download the model again"
            )
