"""One-shot tuning (paper, section 4.2): a few projections, one captioned clip."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.errors import ConfigError, InputError, NonFiniteLossError, OutputError
from tav_sdk.files import check_new, put_in_place, sha256_of
from tav_sdk.progress import Callback, StepProgress, report
from tav_sdk.training.base.model import PretrainedBase
from tav_sdk.training.checkpoint import save_tuned_weights, versions, write_record
from tav_sdk.training.config import TuneConfig
from tav_sdk.training.encode import prepare
from tav_sdk.training.run_base import base_of_config
from tav_sdk.training.run_folder import (
    LOG,
    RECORD,
    SNAPSHOTS,
    STARTED,
    TUNED,
    Run,
    load_run,
    partial_folder,
    read_started,
    snapshot_name,
)
from tav_sdk.training.run_record import FORMAT_VERSION
from tav_sdk.training.tune_step import Tuner
from tav_sdk.training.unet.inflation import inflate
from tav_sdk.video.clip import Video, read_video
from tav_sdk.video.frames import check_size

RESUME = "resume.safetensors"
MAY_CHANGE = {
    *("num_train_steps", "checkpointing_steps", "out", "base", "video"),
    *("loras", "tokenizer", "revision", "local_files_only"),
}
"""Settings that a resumed run may change; base, LoRAs and clip are compared by their hashes."""


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
        OutputError: ``config.out`` is not empty, or cannot be written.
        CancelledError: the callback returned ``False``.
    """
    out = Path(config.out)
    if resume and (out / RECORD).is_file():
        return _finished(config, load_run(out))
    check_new(out, overwrite=overwrite)
    if (partial_folder(out) / RESUME).is_file() and not (resume or overwrite):
        raise OutputError(f"an unfinished run of {out} is there; continue it with resume, or start anew with overwrite")
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
    with _partial(out, record, resume=resume) as folder:
        tuner = Tuner(model, latents, states, schedule, config, device)
        if (folder / RESUME).is_file():
            tuner.load(folder / RESUME)
        seconds = _run(tuner, config, folder, callback)
        save_tuned_weights(model, folder / TUNED, {"format": "tav-sdk tuned weights"})
        record |= {"tuned_sha256": sha256_of(folder / TUNED), "seconds": round(seconds, 1), "device": str(device)}
        write_record(folder, record)
        for name in (RESUME, STARTED):
            (folder / name).unlink(missing_ok=True)
        put_in_place(folder, out)
    return load_run(out)


def _run(tuner: Tuner, config: TuneConfig, folder: Path, callback: Callback | None) -> float:
    """All steps that are left; whatever stops them, the state for ``resume`` is written."""
    total, began, saved = config.num_train_steps, time.perf_counter(), tuner.steps_done
    _truncate_log(folder / LOG, tuner.steps_done)
    try:
        with open(folder / LOG, "a", encoding="utf-8") as log:
            while tuner.steps_done < total:
                metrics = tuner.step()
                log.write(json.dumps({"step": tuner.steps_done, **metrics}) + "\n")
                if tuner.steps_done % config.checkpointing_steps == 0 and tuner.steps_done < total:
                    log.flush()
                    tuner.save(folder / RESUME)
                    saved = tuner.steps_done
                    save_tuned_weights(tuner.model, folder / SNAPSHOTS / snapshot_name(saved))
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
        # A non-finite loss would come again: continue from the last good snapshot, not from here.
        if not isinstance(error, (NonFiniteLossError, OSError)) and tuner.steps_done > saved:
            tuner.save(folder / RESUME)
        raise
    return time.perf_counter() - began


@contextlib.contextmanager
def _partial(out: Path, record: dict[str, Any], *, resume: bool) -> Iterator[Path]:
    """The hidden folder of an unfinished run; removed after a failure that leaves nothing to resume from."""
    folder = partial_folder(out)
    if folder.exists() and not resume:
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_same_run(folder, record)
        yield folder
    except OSError as error:
        raise OutputError(f"cannot write the run {out}: {error.strerror or error}") from error
    finally:
        if folder.exists() and not (folder / RESUME).is_file():
            shutil.rmtree(folder, ignore_errors=True)


def _check_same_run(folder: Path, record: dict[str, Any]) -> None:
    started = folder / STARTED
    if started.is_file():
        before = read_started(started)
        old, new = _identity(before), _identity(record)
        if changed := sorted(key for key in new if new[key] != old.get(key)):
            what = ", ".join(f"{key} (was {old.get(key)!r}, is {new[key]!r})" for key in changed)
            raise ConfigError(
                f"the unfinished run cannot be resumed with other settings: {what}; start anew with overwrite"
            )
    started.write_text(json.dumps(record), encoding="utf-8")


def _identity(record: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in record["config"].items() if key not in MAY_CHANGE}
    return kept | {"base hash": record["base"]["sha256"], "clip hash": record["clip"]["sha256"]}


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


def _truncate_log(path: Path, steps: int) -> None:
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[:steps]), encoding="utf-8")
