"""What a plan of memory says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tav_sdk.bundle.precision import Precision
from tav_sdk.training.config import MixedPrecision

Device = Literal["cpu", "cuda"]
Stage = Literal["tune", "export", "build", "invert", "sample", "edit"]


@dataclass(frozen=True, kw_only=True)
class StageMemory:
    """The most that one stage takes, in bytes; the parts add up to :attr:`peak`.

    Attributes:
        stage: ``tune``; ``export``; ``build``, with TensorRT for RTX; ``invert`` and ``sample``, each in a process of
            its own; ``edit``, both in one, as ``tav edit`` runs them.
        peak: at the worst moment.
        weights: of the models in use at that moment, each once.
        activations: tensors of the computation, gradients included.
        optimizer: AdamW's state; 0 but for ``tune``.
        runtime: libraries, copies of weights, scratch and heap: what was calibrated, not counted.
        device: whose memory that is; export and build compute on the CPU whatever the device.
        calibrated: whether such predictions were compared with measurements; not for a GPU.
    """

    stage: Stage
    peak: int
    weights: int
    activations: int
    optimizer: int = 0
    runtime: int = 0
    device: Device = "cpu"
    calibrated: bool = True


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A change of the setting that makes a stage smaller.

    Attributes:
        changes: by name, what to set: ``gradient_checkpointing``, ``mixed_precision``, ``precision`` or ``guidance`` as
            :func:`plan_memory` takes them, or ``parity``, as :class:`~tav_sdk.export.ExportOptions` does.
        peak: bytes with it.
        fits: whether that is within the budget.
    """

    changes: Mapping[str, Any]
    peak: int
    fits: bool


@dataclass(frozen=True, kw_only=True)
class BudgetFit:
    """Whether a stage is within a budget, and what would be.

    Attributes:
        memory: the budget in bytes.
        fits: whether the stage as planned is within it.
        max_frames: most frames at the planned size; 0 if not even one fits; at most 1024.
        max_size: greatest ``(height, width)`` in pixels at the planned number of frames and about the planned aspect
            ratio; ``None`` if not even the smallest fits.
        remedies: changes that the plan has not made yet, smallest peak first.
    """

    memory: int
    fits: bool
    max_frames: int
    max_size: tuple[int, int] | None
    remedies: tuple[Remedy, ...]


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Predicted memory of every stage; ``plan["tune"]`` is one of them.

    Attributes:
        base: the base's folder or file, or its id on the hub.
        num_frames: of the clip.
        height: in pixels.
        width: in pixels.
        precision: the bundle's.
        mixed_precision: tuning's.
        gradient_checkpointing: tuning's.
        device: what tunes and edits.
        stages: in the order in which a user meets them.
        budget: ``tune``, ``export`` and ``edit`` compared with a budget; empty without one.
        notes: what was left out, and why.
    """

    base: str
    num_frames: int
    height: int
    width: int
    precision: Precision
    mixed_precision: MixedPrecision
    gradient_checkpointing: bool
    device: Device
    stages: tuple[StageMemory, ...]
    budget: Mapping[str, BudgetFit] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __getitem__(self, stage: str) -> StageMemory:
        for found in self.stages:
            if found.stage == stage:
                return found
        raise KeyError(stage)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, for JSON; sizes in bytes."""
        return dataclasses.asdict(self)
