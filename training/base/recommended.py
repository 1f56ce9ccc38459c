"""What a base model is best tuned and edited with, where a caller says nothing."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from tav_sdk.bundle.manifest import InvertWith
from tav_sdk.errors import BaseModelError
from tav_sdk.pocket import find_base
from tav_sdk.training.base.hub import fetch_configs, is_hub_id
from tav_sdk.training.base.single_file import SingleFile

RECOMMENDED_FILE = "tav_sdk.json"


@dataclass(frozen=True, kw_only=True)
class Recommended:
    """Defaults that belong to a base. Those below are the paper's, for Stable Diffusion 1.4.

    Attributes:
        height: of the frames that the base was trained on, in pixels.
        width: likewise.
        num_train_steps: optimizer steps of tuning.
        learning_rate: AdamW's.
        num_inference_steps: DDIM steps of inversion and of sampling.
        guidance_scale: classifier-free guidance of editing.
        invert_with: the prompt of inversion: ``empty`` as in the released code, or the clip's ``caption``.
    """

    height: int = 512
    width: int = 512
    num_train_steps: int = 300
    learning_rate: float = 3e-5
    num_inference_steps: int = 50
    guidance_scale: float = 12.5
    invert_with: InvertWith = "empty"


def read_recommended(
    base: str | Path,
    *,
    prediction_type: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Recommended:
    """The defaults of a base: its size from the U-Net's ``sample_size``, the rest from ``tav_sdk.json`` if it has one.

    A folder that is missing or incomplete has the paper's; loading it says what is wrong with it. For a base
    on the hub the configurations are fetched; the last two arguments are for that.

    Raises:
        BaseModelError: ``tav_sdk.json`` is damaged, or has a key that :class:`Recommended` does not have, or a value
            out of range; a single file is of a kind that cannot be inflated; configurations cannot be fetched.
    """
    folder = find_base(base)
    values: dict[str, Any] = {}
    configs: dict[str, Any] = {}
    if folder.is_file():
        configs = SingleFile(folder, prediction_type).configs
    elif is_hub_id(base):
        folder = fetch_configs(Path(base).as_posix(), revision=revision, local_files_only=local_files_only)
    try:
        unet, vae = (
            configs.get(part) or json.loads((folder / part / "config.json").read_text()) for part in ("unet", "vae")
        )
        size = int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
        values = {"height": size, "width": size}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    path = folder / RECOMMENDED_FILE
    if path.is_file():
        values |= _read(path)
    return Recommended(**values)


def _read(path: Path) -> dict[str, Any]:
    kinds: dict[str, Any] = {f.name: type(f.default) for f in dataclasses.fields(Recommended)}
    try:
        given = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise BaseModelError(f"{path} is damaged: {error}") from error
    for key, value in given.items():
        if key not in kinds:
            raise BaseModelError(f"{path} has the unknown key {key!r}; known keys: {', '.join(kinds)}")
        if key == "invert_with":
            if value not in get_args(InvertWith):
                raise BaseModelError(f"{path}: {key} must be one of {', '.join(get_args(InvertWith))}, got {value!r}")
        elif isinstance(value, bool) or not isinstance(value, (int, kinds[key])) or value <= 0:
            raise BaseModelError(f"{path}: {key} must be a positive {kinds[key].__name__}, got {value!r}")
    return {key: kinds[key](value) for key, value in given.items()}
