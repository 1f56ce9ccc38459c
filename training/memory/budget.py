"""A stage against a budget of memory: the largest setting that it holds, and what would make the stage smaller."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from tav_sdk.training.memory.report import BudgetFit, Remedy, Stage
from tav_sdk.training.memory.setting import Setting
from tav_sdk.training.memory.stages import Planner

MAX_FRAMES, MAX_SIZE_STEPS = 1024, 64
"""Where the search for what fits a budget ends; steps of the base's size multiple."""


def fit(planner: Planner, stage: Stage, setting: Setting, memory: int) -> BudgetFit:
    """Compare a stage with a budget of ``memory`` bytes."""
    multiple = planner.size_multiple

    def peak(**changes: Any) -> int:
        return planner.stage(stage, dataclasses.replace(setting, **changes)).peak

    def sized(steps: int) -> tuple[int, int]:
        """``steps`` size multiples along the shorter side, the aspect ratio kept as well as multiples can."""
        short, long = sorted((setting.height, setting.width))
        small, large = steps * multiple, max(steps, round(steps * long / short)) * multiple
        return (small, large) if setting.height <= setting.width else (large, small)

    def peak_of_size(steps: int) -> int:
        height, width = sized(steps)
        return peak(height=height, width=width)

    planned = min(setting.height, setting.width) // multiple
    steps = largest(peak_of_size, memory, start=planned, limit=MAX_SIZE_STEPS, power=2)
    return BudgetFit(
        memory=memory,
        fits=peak() <= memory,
        max_frames=largest(lambda frames: peak(num_frames=frames), memory, start=setting.num_frames, limit=MAX_FRAMES),
        max_size=sized(steps) if steps else None,
        remedies=_remedies(planner, stage, setting, memory),
    )


def _remedies(planner: Planner, stage: Stage, setting: Setting, memory: int) -> tuple[Remedy, ...]:
    single: list[dict[str, Any]] = []
    if stage == "tune":
        if not setting.gradient_checkpointing:
            single.append({"gradient_checkpointing": True})
        if setting.mixed_precision == "no":
            single.append({"mixed_precision": "bf16"})
    elif stage == "export":
        single.append({"parity": False})
    else:
        if setting.guidance:
            single.append({"guidance": False})
        if setting.precision == "fp32" and setting.device == "cuda":
            single.append({"precision": "fp16"})
    both = [{key: value for change in single for key, value in change.items()}] if len(single) > 1 else []
    before, remedies = planner.stage(stage, setting).peak, []
    for changes in [*single, *both]:
        peak = planner.stage(stage, dataclasses.replace(setting, **changes)).peak
        if peak < before:
            remedies.append(Remedy(changes=changes, peak=peak, fits=peak <= memory))
    return tuple(sorted(remedies, key=lambda remedy: remedy.peak))


def largest(peak: Callable[[int], float], budget: float, *, start: int, limit: int, power: int = 1) -> int:
    """The largest ``n`` in [1, limit] with ``peak(n) <= budget``; 0 if there is none.

    ``peak`` must not fall. It is about affine in ``n ** power``, so the next try is where the line through the two
    nearest known points meets the budget; every third try halves the bracket, so the search ends whatever the shape.
    """
    low, high = 0, limit + 1
    known: dict[int, float] = {}
    guess, tries = min(max(start, 1), limit), 0
    while high - low > 1:
        value = known[guess] = peak(guess)
        low, high = (guess, high) if value <= budget else (low, guess)
        tries += 1
        nearest = sorted(known, key=lambda n: abs(known[n] - budget))[:2]
        if len(nearest) == 2 and tries % 3 and known[nearest[0]] != known[nearest[1]]:
            a, b = nearest
            slope = (known[b] - known[a]) / (b**power - a**power)
            target = max(a**power + (budget - known[a]) / slope, 0.0) ** (1 / power)
            guess = math.floor(min(target, limit))
        elif len(nearest) == 1:
            guess = guess * 2 if value <= budget else guess // 2
        else:
            guess = (low + high) // 2
        guess = min(max(guess, low + 1), high - 1)
    return low
