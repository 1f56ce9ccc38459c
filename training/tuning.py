"""One-shot tuning (paper, section 4.2): a few projections, one captioned clip."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.errors import ConfigError, InputError, NonFiniteLossError
from tav_sdk.files import sha256_of, write_text
from tav_sdk.output_paths import check_new
from tav_sdk.progress import Callback, StepProgress, report
from tav_sdk.training.base.model import PretrainedBase
from tav_sdk.training.checkpoint import save_tuned_weights, versions, write_record
from tav_sdk.training.config import TuneConfig
from tav_sdk.training.encode import prepare
from tav_sdk.training.partial_run import (
    MAY_CHANGE,
    RESUME,
    check_partial,
    complete_record,
    finish,
    partial_run,
    remove_leftover,
)
from tav_sdk.training.run_base import base_of_config
from tav_sdk.training.run_folder import LOG, RECORD, SNAPSHOTS, TUNED, Run, load_run, snapshot_name
from tav_sdk.training.run_record import FORMAT_VERSION
from tav_sdk.training.tune_step import Tuner
from tav_sdk.training.unet.inflation import inflate
from tav_sdk.video.clip import Video, read_video
from tav_sdk.video.frames import check_size

DECIDED_LAST = ("tuned_sha256", "seconds", "device")
"""What a record gets when tuning is done."""


def tune(
    config: TuneConfig,
    *,
    callback: Callback | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str | torch.device | None = None,
) -> Run:
    """Tune a base model on one captioned clip and write the run folder ``config.out``.

    The folder appears when tuning is done; until then everything lies in a hidden folder beside it, which
    ``resume=True`` continues after an interrupt, bit for bit like an uninterrupted run on a CPU.

    Args:
        config: see :class:`TuneConfig`.
        callback: called after every step, with its ``loss``; ``False`` stops, as Ctrl-C does.
        resume: continue an unfinished run of the same configuration; start anew if there is none.
        overwrite: replace a run that is there.
        device: a torch device; by default a GPU if there is one.

    Raises:
        VideoError: the clip cannot be read as asked.
        SizeError: the base cannot take height or width.
        BaseModelError: the base is incomplete or cannot be inflated.
        ConfigError: an unfinished run of another configuration is there.
        NonFiniteLossError: the loss became NaN or infinite.
        OutputError: ``config.out`` is not empty, or cannot be written; an unfinished run is there and neither
            ``resume`` nor ``overwrite`` is set, or it is not this user's own, or another command tunes it.
        CancelledError: the callback returned ``False``.
    """
    out = Path(config.out)
    if resume and os.path.isfile(out / RECORD):
        run = _finished(config, load_run(out))
        remove_leftover(out)
        return run
    check_new(out, overwrite=overwrite)
    check_partial(out, may_use=resume or overwrite)
    device = find_device(device)
    base = base_of_config(config)
    check_size(config.height, config.width, base.size_multiple)
    schedule = base.schedule
    clip = read_video(
        config.video,
        num_frames=config.num_frames,
        start=config.start,
        stride=config.stride,
        size=(config.height, config.width),
    )
    latents, states = prepare(base, clip, config.prompt, device)
    model = inflate(base.load_unet(), config.inflation, config.num_frames, seed=config.seed)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    record = _record(config, base, clip, schedule)
    with partial_run(out, record, resume=resume) as folder:
        if done := complete_record(folder, config.num_train_steps):
            record |= {key: done[key] for key in DECIDED_LAST if key in done}
        else:
            (folder / RECORD).unlink(missing_ok=True)
            tuner = Tuner(model, latents, states, schedule, config, device)
            if (folder / RESUME).is_file():
                tuner.load(folder / RESUME)
            if tuner.steps_done > config.num_train_steps:
                raise InputError(
                    f"must be at least {tuner.steps_done}, the steps that the unfinished run has done, got "
                    f"{config.num_train_steps}; start anew with overwrite",
                    field="num_train_steps",
                )
            seconds = _run(tuner, config, folder, callback)
            save_tuned_weights(model, folder / TUNED, {"format": "tav-sdk tuned weights"})
            record |= {"tuned_sha256": sha256_of(folder / TUNED), "seconds": round(seconds, 1), "device": str(device)}
        write_record(folder, record)
        finish(folder, out, overwrite=overwrite)
    return load_run(out)


def _run(tuner: Tuner, config: TuneConfig, folder: Path, callback: Callback | None) -> float:
    """All steps that are left; whatever stops them, the state for ``resume`` is written."""
    total, began = config.num_train_steps, time.perf_counter()
    _as_after(tuner, config, folder)
    saved = logged = tuner.steps_done
    try:
        with open(folder / LOG, "a", encoding="utf-8") as log:
            while tuner.steps_done < total:
                metrics = tuner.step()
                log.write(json.dumps({"step": tuner.steps_done, **metrics}) + "\n")
                logged = tuner.steps_done
                if _is_due(tuner, config):
                    log.flush()
                    _save(tuner, config, folder)
                    saved = tuner.steps_done
                report(
                    callback,
                    StepProgress(
                        "tune",
                        tuner.steps_done,
                        total,
                        timestep=int(metrics["timestep"]),
                        loss=metrics["loss"],
                        grad_norm=metrics["grad_norm"],
                    ),
                )
    except BaseException as error:
        # A non-finite loss would come again: continue from the last good snapshot, not from here. Nor from between two
        # steps, where an interrupt may fall into the update.
        whole = tuner.is_between_steps and saved < tuner.steps_done == logged
        if whole and not isinstance(error, (NonFiniteLossError, OSError)):
            _save(tuner, config, folder)
        raise
    return time.perf_counter() - began


def _is_due(tuner: Tuner, config: TuneConfig) -> bool:
    """Whether a snapshot is taken after the steps that are done."""
    return tuner.steps_done % config.checkpointing_steps == 0 and 0 < tuner.steps_done < config.num_train_steps


def _save(tuner: Tuner, config: TuneConfig, folder: Path) -> None:
    """Write the state for ``resume``; before it the snapshot, which a kill between the two would lose otherwise."""
    if _is_due(tuner, config):
        save_tuned_weights(tuner.model, folder / SNAPSHOTS / snapshot_name(tuner.steps_done))
    tuner.save(folder / RESUME)


def _as_after(tuner: Tuner, config: TuneConfig, folder: Path) -> None:
    """Make log and snapshots of an unfinished run those of the steps that its state has done."""
    done = tuner.steps_done
    log = folder / LOG
    if log.is_file():
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
        write_text(log, "".join(lines[:done]))
    due = snapshot_name(done)
    for path in (folder / SNAPSHOTS).glob("step-*.safetensors"):
        if path.name > due:
            path.unlink()
    if _is_due(tuner, config) and not (folder / SNAPSHOTS / due).is_file():  # there were fewer steps to do
        save_tuned_weights(tuner.model, folder / SNAPSHOTS / due)


def find_device(device: str | torch.device | None) -> torch.device:
    """A torch device; by default a GPU if there is one.

    Raises:
        ConfigError: it cannot be used here.
    """
    try:
        found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"the device {str(device)!r} cannot be used here: {reason}; leave device out") from error
    return found


def _finished(config: TuneConfig, run: Run) -> Run:
    changed = [
        key for key, value in run.config.to_dict().items() if key not in MAY_CHANGE and value != config.to_dict()[key]
    ]
    if changed:
        raise ConfigError(
            f"the run {run.folder} is finished, with other settings ({', '.join(changed)}); tune anew with overwrite"
        )
    if run.config.num_train_steps != config.num_train_steps:
        raise InputError(
            f"the run {run.folder} is finished with {run.config.num_train_steps} steps and cannot be resumed to "
            f"{config.num_train_steps}; tune anew with overwrite"
        )
    return run


def _record(config: TuneConfig, base: PretrainedBase, clip: Video, schedule: DDIMSchedule) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "prompt": config.prompt,
        "config": config.to_dict(),
        "base": base.record,
        "clip": {
            "name": Path(config.video).name,
            "sha256": clip.content_hash,
            "num_frames": clip.num_frames,
            "height": clip.height,
            "width": clip.width,
            "fps": clip.fps,
        },
        "schedule": schedule.to_config(),
        "versions": versions(),
    }
