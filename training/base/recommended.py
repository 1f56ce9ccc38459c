"""What a base model is best tuned and edited with, where a caller says nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from tav_sdk.bundle.manifest import InvertWith
from tav_sdk.errors import BaseModelError
from tav_sdk.pocket import find_base
from tav_sdk.reading import MAX_CONFIG_BYTES, read_json, validated
from tav_sdk.training.base.hub import fetch_configs, is_hub_id
from tav_sdk.training.base.part_configs import KINDS, read_part_config
from tav_sdk.training.base.single_file import SingleFile

MAX_SIDE = 8192
"""Most pixels along a side of a frame."""
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
            configs.get(part) or read_part_config(folder / part / "config.json", KINDS[part])
            for part in ("unet", "vae")
        )
        size = int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
        values = {"height": size, "width": size}
    except (BaseModelError, KeyError, TypeError):  # left out, or of two numbers
        pass
    path = folder / RECOMMENDED_FILE
    if path.is_file():
        values |= _read(path)
    return Recommended(**values)


class _Given(BaseModel):
    """What ``tav_sdk.json`` may say."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    height: Annotated[int, Field(ge=1, le=MAX_SIDE)] = 1
    width: Annotated[int, Field(ge=1, le=MAX_SIDE)] = 1
    num_train_steps: Annotated[int, Field(ge=1, le=10_000_000)] = 1
    learning_rate: Annotated[float, Field(gt=0, le=1e3)] = 1
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 1
    guidance_scale: Annotated[float, Field(gt=0, le=1e3)] = 1
    invert_with: InvertWith = "empty"


def _read(path: Path) -> dict[str, Any]:
    advice = f"its keys are {', '.join(_Given.model_fields)}"
    given = read_json(path, max_bytes=MAX_CONFIG_BYTES, error=BaseModelError, advice=advice)
    return validated(_Given, given, what=str(path), error=BaseModelError, advice=advice).model_dump(exclude_unset=True)
