"""Tunings in a worker: tune on a clip, export onto the graphs of a bundle on the same base."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tav_sdk.errors import BundleError, InputError
from tav_sdk.files import sha256_of
from tav_sdk.progress import StepProgress
from tav_sdk.server.protocol import Progressed, Run, Word

TUNED_PERCENT = 90
"""Share of the progress that is the tuning's; the rest is the export's."""
SNAPSHOTS = 4
"""How many snapshots a tuning keeps on its way, so that another attempt goes on from the last."""


def tune_job(run: Run, say: Callable[[Word], None], is_cancelled: Callable[[], bool]) -> dict[str, Any]:
    """Tune and export: ``run.out`` holds the bundle at the end.

    An unfinished run of an earlier attempt lies beside it, and is gone on with.

    Returns:
        What is kept of it: the last loss, snapshots, seconds of each stage.

    Raises:
        CancelledError: ``is_cancelled`` said so after a step.
        TavError: as :func:`tav_sdk.training.tune` and :func:`tav_sdk.export.export_bundle`.
    """
    from tav_sdk.export import ExportOptions, export_bundle, export_clip
    from tav_sdk.training import TuneConfig, tune

    out, params = Path(run.out), run.params
    runs = out.with_name(f"{run.job}.run")
    seconds: dict[str, float] = {}
    last = time.monotonic()

    def seen(step: StepProgress) -> bool:
        nonlocal last
        now = time.monotonic()
        took, last = now - last, now
        seconds[step.stage] = round(seconds.get(step.stage, 0.0) + took, 4)
        share = step.step / max(1, step.total)
        tuning = step.stage in ("encode", "tune")
        progress = TUNED_PERCENT * share * (step.stage == "tune") if tuning else TUNED_PERCENT + 9 * share
        say(
            Progressed(
                job=run.job,
                fence=run.fence,
                progress=int(progress),
                stage=step.stage,
                step=step.step,
                total=step.total,
                step_s=took,
                loss=step.loss,
                snapshot=step.stage == "tune" and step.step % every == 0,
            )
        )
        return not is_cancelled()

    given = {
        name: params[name]
        for name in ("num_frames", "start", "stride", "width", "height", "num_train_steps", "learning_rate", "seed")
        if params.get(name) is not None
    }
    config = TuneConfig(base=params["base"], video=str(run.source), prompt=params["prompt"], out=str(runs), **given)
    if params.get("preset") == "original":
        from tav_sdk.training import InflationOptions

        config = config.replace(inflation=InflationOptions(preset="original"))
    every = max(1, config.num_train_steps // SNAPSHOTS)
    config = config.replace(checkpointing_steps=every)
    tuned = tune(config, callback=seen, resume=True)
    losses = _losses(tuned.folder)  # of former attempts as well
    precision = params.get("precision") or "fp32"
    exported = False
    if run.bundle is not None:
        try:
            export_clip(tuned, out, bundle=run.bundle)
            exported = True
        except (BundleError, InputError):  # another size, number of frames or inflation: its own graphs then
            shutil.rmtree(out, ignore_errors=True)
    if not exported:
        export_bundle(tuned, out, ExportOptions(precision=precision), callback=seen)
    result = {
        "loss": losses[max(losses)] if losses else None,
        "snapshots": [{"step": step, "loss": loss} for step, loss in sorted(losses.items()) if step % every == 0],
        "stage_durations": seconds,
        "tuned_sha256": sha256_of(tuned.tuned_path),
    }
    shutil.rmtree(runs, ignore_errors=True)
    return result


def _losses(run: Path) -> dict[int, float]:
    """The loss of each step of a run."""
    from tav_sdk.training.run_folder import LOG

    lines = (json.loads(line) for line in (run / LOG).read_text(encoding="utf-8").splitlines())
    return {line["step"]: line["loss"] for line in lines}
