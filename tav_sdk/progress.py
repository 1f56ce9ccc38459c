"""What long operations report, and how a caller stops them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tav_sdk.errors import CancelledError

UNet = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""``unet(sample (b, c, f, h, w), timestep (), encoder_hidden_states (b, s, d)) -> noise_pred (b, c, f, h, w)``."""


@dataclass(frozen=True)
class StepProgress:
    """One finished step of a long operation.

    Attributes:
        stage: what is running: ``encode``, ``inversion``, ``correction``, ``sampling``, ``windows`` (of one
            step over a long video), ``decode``, ``tune``, ``export``, ``calibration``, ``quality``.
        step: steps done, from 1.
        total: steps of this stage.
        timestep: the diffusion timestep of this step, where there is one.
        latents: ``(b, c, f, h, w)`` float32 after this step, where there are any; not a copy.
        metrics: further numbers of this step, such as ``loss``.
    """

    stage: str
    step: int
    total: int
    timestep: int | None = None
    latents: np.ndarray | None = field(default=None, repr=False)
    metrics: dict[str, Any] = field(default_factory=dict)


Callback = Callable[[StepProgress], "bool | None"]
"""Called after every step; returning ``False`` cancels the operation, anything else lets it go on."""


def report(callback: Callback | None, progress: StepProgress) -> None:
    """Tell ``callback`` of a step.

    Raises:
        CancelledError: the callback returned ``False``.
    """
    if callback is not None and callback(progress) is False:
        raise CancelledError(f"{progress.stage} was cancelled after step {progress.step} of {progress.total}")
