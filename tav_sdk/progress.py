"""What long operations report, and how a caller stops them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from tav_sdk.errors import CancelledError, InputError

UNet = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""``unet(sample (b, c, f, h, w), timestep (), encoder_hidden_states (b, s, d)) -> noise_pred (b, c, f, h, w)``."""
Stage = Literal[
    "encode",
    "inversion",
    "correction",
    "sampling",
    "decode",
    "tune",
    "export",
    "build",
    "calibration",
    "quality",
    "evaluate",
    "verify",
]
"""What an operation is at: the VAE's ``encode`` and ``decode``, the loops ``inversion``, ``correction`` and
``sampling``, and those of tuning, export and evaluation."""
ItemKind = Literal["prompt", "reconstruction", "window", "graph", "snapshot"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """Which of several things a step belongs to.

    Attributes:
        kind: ``prompt``: of several edits; ``reconstruction``: the clip's own caption, beside them; ``window``: of a
            stream; ``graph``: of an export or a build; ``snapshot``: of a tuning.
        index: from 1.
        count: how many there are.
        name: what it is called, such as a graph's name; may be empty.
    """

    kind: ItemKind
    index: int
    count: int
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a step, such as a window of a long video.

    Attributes:
        index: parts of the step that are done, from 1.
        count: parts of the step.
    """

    index: int
    count: int


@dataclass(frozen=True)
class StepProgress:
    """One finished step of a long operation, or a finished part of one.

    Attributes:
        stage: what is running.
        step: the step that is done, from 1; the one that is in progress, if there is a ``part``.
        total: steps of this stage.
        timestep: the diffusion timestep of this step, where there is one.
        latents: ``(b, c, f, h, w)`` float32 after this step, where there are any; not a copy.
        item: which of several things the stage belongs to, where there are several.
        part: the part of the step that is done; ``None`` where the whole step is.
        resumed: set in the first event of a stage whose steps up to this one were not computed now: they came from the
            ``cache``, or from an ``interrupted`` call.
        loss: of a tuning step.
        grad_norm: norm of the gradient of a tuning step, before it is clipped.
    """

    stage: Stage
    step: int
    total: int
    timestep: int | None = None
    latents: np.ndarray | None = field(default=None, repr=False)
    item: Item | None = None
    part: Part | None = None
    resumed: Literal["cache", "interrupted"] | None = None
    loss: float | None = None
    grad_norm: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The event as plain JSON values: without latents, and without what is not set."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "latents"}
        nested = {name: asdict(values[name]) for name in ("item", "part") if values[name] is not None}
        return {name: value for name, value in {**values, **nested}.items() if value is not None}


Callback = Callable[[StepProgress], "bool | None"]
"""Called after every step; returning ``False`` cancels the operation, anything else lets it go on."""


def check_callback(callback: Any) -> None:
    """Check what is to be told of steps, before the first of them.

    Raises:
        InputError: it is neither ``None`` nor to be called.
    """
    if callback is not None and not callable(callback):
        raise InputError(f"must be a function of a StepProgress, got {type(callback).__name__}", field="callback")


def report(callback: Callback | None, progress: StepProgress) -> None:
    """Tell ``callback`` of a step.

    Raises:
        CancelledError: the callback returned ``False``.
    """
    if callback is not None and callback(progress) is False:
        part = f", part {progress.part.index} of {progress.part.count}" if progress.part else ""
        raise CancelledError(f"{progress.stage} was cancelled after step {progress.step} of {progress.total}{part}")


def labelled(callback: Callback | None, item: Item) -> Callback | None:
    """A callback that is told of which item every step is."""
    if callback is None:
        return None
    return lambda step: callback(replace(step, item=item))
