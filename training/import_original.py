"""A checkpoint of the released code as a run: its tuned weights and a record, so that export and edit take it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tav_sdk.errors import CheckpointError, PickledWeightsError
from tav_sdk.files import new_folder, sha256_of
from tav_sdk.output_paths import check_new
from tav_sdk.training.base.hub import is_hub_id, snapshot
from tav_sdk.training.base.mismatches import listed
from tav_sdk.training.base.model import PretrainedBase
from tav_sdk.training.base.pickled import load_pickled
from tav_sdk.training.base.reading import reading
from tav_sdk.training.checkpoint import save_tuned_weights, versions, write_record
from tav_sdk.training.config import InflationOptions, TuneConfig
from tav_sdk.training.run_base import base_of_config
from tav_sdk.training.run_folder import TUNED, Run, load_run
from tav_sdk.training.run_record import FORMAT_VERSION
from tav_sdk.training.tensor_file import read_header
from tav_sdk.training.unet.inflation import inflate, load_original_state, trainable_parameters
from tav_sdk.video.clip import read_video
from tav_sdk.video.frames import check_size

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
"""What diffusers calls a U-Net's weights, in the order of preference."""
UNET = "unet"
DEFAULT_FPS = 8.0
"""What the released code writes its videos at."""


def import_original(
    folder: str | Path,
    out: str | Path,
    *,
    prompt: str,
    video: str | Path | None = None,
    base: str | Path = TuneConfig.base,
    overwrite: bool = False,
    **settings: Any,
) -> Run:
    """Make a run of a checkpoint that the released code of Tune-A-Video has written.

    The run is of ``preset="original"``: what it edits is what the released code computes with these weights. Only what
    tuning changes may differ from the base; the rest of the checkpoint is compared and left out.

    Args:
        folder: a pipeline's folder or its ``unet``; an id on the Hugging Face hub.
        out: the run folder to write.
        prompt: the caption of the clip that it was tuned on; a checkpoint does not have it.
        video: that clip, if it is there: its rate, and its hash for the record.
        base: the base that it was tuned from; see :class:`PretrainedBase`.
        overwrite: replace what is in ``out``.
        **settings: others of :class:`TuneConfig`: frames, size, start and stride of the clip, and those of the base.

    Raises:
        CheckpointError: the checkpoint is missing or unreadable, keys are missing or left over, or other tensors than
            the tuned weights differ from the base's; names the first ten and the count.
        PickledWeightsError: it has only a ``.bin`` file and ``allow_pickle`` is not set.
        BaseModelError: the base is missing, or of a kind that cannot be inflated.
        SizeError: the base cannot take height or width.
        VideoError: the clip cannot be read as asked.
        OutputError: ``out`` is not empty, or cannot be written.
    """
    check_new(out, overwrite=overwrite)
    config = TuneConfig(
        base=str(base),
        video=str(video or ""),
        prompt=prompt,
        out=str(out),
        inflation=InflationOptions(preset="original"),
        **settings,
    )
    path = find_checkpoint(folder, config)
    model = base_of_config(config)
    check_size(config.height, config.width, model.size_multiple)
    clip = _clip(config)
    unet = inflate(model.load_unet(), config.inflation, config.num_frames)
    state = _read(path)
    tuned = trainable_parameters(unet)
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items() if name not in tuned}
    load_original_state(unet, state, where=f"the checkpoint {path}")
    _check_frozen(path, before, state, model)
    record = {
        "format_version": FORMAT_VERSION,
        "prompt": prompt,
        "config": config.to_dict(),
        "base": model.record,
        "clip": clip,
        "schedule": model.schedule.to_config(),
        "versions": versions(),
        # What it was tuned with is not known: the configuration's steps and rate are no more than defaults.
        "imported": {"name": path.name, "sha256": sha256_of(path), "of": "showlab/Tune-A-Video"},
    }
    with new_folder(out, overwrite=overwrite, checked=True) as new:
        save_tuned_weights(unet, new / TUNED, {"format": "tav-sdk tuned weights"})
        write_record(new, record | {"tuned_sha256": sha256_of(new / TUNED)})
    return load_run(out)


def find_checkpoint(folder: str | Path, config: TuneConfig) -> Path:
    """The file of the U-Net's weights.

    Raises:
        CheckpointError: there is none.
        PickledWeightsError: it is pickled, and that is not allowed.
    """
    folder = Path(folder)
    if is_hub_id(folder):
        patterns = [f"{place}{WEIGHTS[0]}" for place in (f"{UNET}/", "")]
        if config.allow_pickle:
            patterns += [f"{place}{WEIGHTS[1]}" for place in (f"{UNET}/", "")]
        folder = snapshot(folder.as_posix(), patterns, local_files_only=config.local_files_only)
    places = [folder / UNET, folder]
    found = [place / name for name in WEIGHTS for place in places if (place / name).is_file()]
    if not found:
        raise CheckpointError(
            f"there is no checkpoint in {folder}: expected {' or '.join(WEIGHTS)} in it or in its folder {UNET}, as "
            "the released code of Tune-A-Video writes them"
        )
    if found[0].suffix == ".bin" and not config.allow_pickle:
        raise PickledWeightsError(
            f"the checkpoint {found[0]} is pickled; reading a pickle can run code. Convert it to .safetensors, or, if "
            "you trust it, allow it with allow_pickle, which reads tensors only (weights_only)"
        )
    return found[0]


def _read(path: Path) -> dict[str, Tensor]:
    what = f"the checkpoint {path}"
    if path.suffix == ".bin":
        return load_pickled(path, what, CheckpointError)
    read_header(path, error=CheckpointError, advice="download or export it again", what=what)
    with reading(what, CheckpointError):
        return load_file(path)


def _check_frozen(path: Path, before: Mapping[str, Tensor], state: Mapping[str, Tensor], base: PretrainedBase) -> None:
    """Compare all but the tuned weights with the base's."""
    changed = [name for name, tensor in before.items() if not _same(tensor, state[name].float())]
    if changed:
        raise CheckpointError(
            f"the checkpoint {path} was not tuned from the base {base.name}, or more than the paper's tensors were: "
            f"{len(changed)} of {len(before)} others differ:{listed(changed)}Give the base that it was made from"
        )


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal, or one of them is the other after rounding to half precision."""
    if torch.equal(a, b):
        return True
    for dtype in (torch.float16, torch.bfloat16):
        rounded_a, rounded_b = a.to(dtype).float(), b.to(dtype).float()
        if torch.equal(rounded_a, b) or torch.equal(a, rounded_b):
            return True
    return False


def _clip(config: TuneConfig) -> dict[str, Any]:
    """What the record says of the clip."""
    known = {"num_frames": config.num_frames, "height": config.height, "width": config.width}
    if not config.video:
        return {"name": None, "sha256": None, **known, "fps": DEFAULT_FPS}
    size = (config.height, config.width)
    clip = read_video(config.video, num_frames=config.num_frames, start=config.start, stride=config.stride, size=size)
    return {"name": Path(config.video).name, "sha256": clip.content_hash, **known, "fps": clip.fps}
