"""A run on disk: the tuned weights only, and a record of everything that decided them. Read without PyTorch.

run.json                    the record
tuned.safetensors           the tuned weights, float32, sorted by name
snapshots/step-000100.safetensors ... likewise, of earlier steps
log.jsonl                   step and loss, one line per step

Until it is finished, a run lies in a hidden folder, see :mod:`.partial_run`.

In runs of format 1 the tuned weights are called ``delta.safetensors``, and their hash ``delta_sha256``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tav_sdk.errors import CheckpointError
from tav_sdk.files import sha256_of
from tav_sdk.training.config import InflationOptions, TuneConfig
from tav_sdk.training.run_record import read_record

RECORD, TUNED, SNAPSHOTS, LOG = "run.json", "tuned.safetensors", "snapshots", "log.jsonl"
STARTED = "started.json"
"""What an unfinished run was started with."""
TUNED_OF_FORMAT_1 = "delta.safetensors"

_STEP = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Run:
    """A finished tuning run.

    Attributes:
        folder: where it lies.
        record: the parsed ``run.json``, with the keys of the newest format.
        snapshot: the file of tuned weights, if the run is taken :meth:`at` an earlier step.
    """

    folder: Path
    record: dict[str, Any]
    snapshot: Path | None = None

    @property
    def config(self) -> TuneConfig:
        """What it was tuned with."""
        return TuneConfig.from_dict(self.record["config"])

    @property
    def inflation(self) -> InflationOptions:
        """How its U-Net is inflated."""
        return InflationOptions.from_dict(self.record["config"]["inflation"])

    @property
    def tuned_path(self) -> Path:
        """The file of the tuned weights."""
        return self.snapshot or self.folder / _tuned_file(self.record["format_version"])

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps whose tuned weights are there, rising: those of the snapshots, and the last."""
        names = [path.stem.removeprefix("step-") for path in (self.folder / SNAPSHOTS).glob("step-*.safetensors")]
        return tuple(sorted({int(name) for name in names if _STEP.fullmatch(name)} | {self.config.num_train_steps}))

    def at(self, step: int) -> Run:
        """The run as it was after ``step`` steps, to export that if later ones are over-tuned.

        Raises:
            CheckpointError: there is no snapshot of that step; lists those that there are.
        """
        last = self.config.num_train_steps
        if step == last:
            return self
        path = self.folder / SNAPSHOTS / snapshot_name(step)
        if not path.is_file():
            there = ", ".join(map(str, self.steps[:-1]))
            has = f"snapshots of the steps {there} and the last, {last}" if there else f"only the last step, {last}"
            raise CheckpointError(
                f"the run {self.folder} has no snapshot of step {step}: it has {has}; tune again with "
                "checkpointing_steps N for one every N steps"
            )
        config = {**self.record["config"], "num_train_steps": step}
        return Run(self.folder, {**self.record, "config": config, "tuned_sha256": sha256_of(path)}, path)


def snapshot_name(step: int) -> str:
    """The file of a step's tuned weights, in :data:`SNAPSHOTS`."""
    return f"step-{step:06d}.safetensors"


def load_run(folder: str | Path) -> Run:
    """Read and check a run folder.

    Raises:
        CheckpointError: there is no finished run, its record is damaged, or the tuned weights were changed.
    """
    folder = Path(folder)
    if not (folder / RECORD).is_file():
        started = partial_folder(folder)
        if (folder / "manifest.json").is_file():
            raise CheckpointError(f"{folder} is a bundle already; expected a run, as tav tune writes it")
        hint = f"; it was started but not finished: tune again with resume ({started})" if started.exists() else ""
        raise CheckpointError(f"there is no finished run in {folder} (no {RECORD}){hint}")
    record = read_record(folder / RECORD)
    expected = record["tuned_sha256"]
    run = Run(folder, record)
    if not run.tuned_path.is_file():
        raise CheckpointError(f"{folder} lacks {run.tuned_path.name}, the tuned weights; tune again")
    if (got := sha256_of(run.tuned_path)) != expected:
        raise CheckpointError(
            f"{run.tuned_path} was changed: expected sha256 {expected[:12]}..., got {got[:12]}...; tune again"
        )
    return run


def read_started(path: Path) -> dict[str, Any]:
    """What an unfinished run was started with: a record without the weights' hash.

    Raises:
        CheckpointError: it cannot be read, or is none.
    """
    return read_record(path, finished=False)


def _tuned_file(version: int) -> str:
    return TUNED_OF_FORMAT_1 if version == 1 else TUNED


def partial_folder(out: str | Path) -> Path:
    """Where an unfinished run lies until it is renamed to ``out``."""
    out = Path(out)
    return out.parent / f".{out.name}.partial"
