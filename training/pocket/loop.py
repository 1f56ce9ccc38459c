"""One resumable training loop for every stage: constant learning rate, EMA, and a decay phase from any checkpoint.

Nothing random lives outside the step number: step n of stage s always draws from the same generator, so a run that was
killed and resumed does exactly what an uninterrupted one does.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tav_sdk.errors import BaseModelError, NonFiniteLossError

LossOf = Callable[[int, torch.Generator], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate over the steps: warm-up, then constant (``steps`` is only an end) or a cosine decay to zero."""

    lr: float
    steps: int
    warmup: int = 100
    decay_from: int | None = None

    def at(self, step: int) -> float:
        """Learning rate of step ``step``."""
        warm = min(1.0, (step + 1) / max(self.warmup, 1))
        if self.decay_from is None or step < self.decay_from:
            return self.lr * warm
        progress = (step - self.decay_from) / max(self.steps - self.decay_from, 1)
        return self.lr * warm * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def step_generator(seed: int, stage: str, step: int) -> torch.Generator:
    """The CPU generator of one step; depends on nothing else."""
    mixed = (seed * 1_000_003 + sum(stage.encode()) * 7919 + step) % (2**63)
    return torch.Generator().manual_seed(mixed)


class ThreadChoice:
    """Chooses the number of CPU threads by trying: beside other jobs one thread is often faster than all.

    Each count is timed for ``trial`` steps and the fastest is kept, for ``period`` steps or until steps become 1.6
    times as slow as they were in the trial.
    """

    def __init__(self, counts: Sequence[int], *, trial: int = 3, period: int = 100) -> None:
        self.counts, self.trial, self.period = tuple(counts), trial, period
        self.position = 0
        self.times: dict[int, float] = {}
        self.slow = 0

    def before_step(self, last_seconds: float | None) -> None:
        """Set the number of threads for the coming step; ``last_seconds`` is what the last one took."""
        tried = self.trial * len(self.counts)
        if last_seconds is not None and 0 < self.position <= tried:
            count = self.counts[(self.position - 1) // self.trial]
            self.times[count] = min(self.times.get(count, math.inf), last_seconds)
        elif last_seconds is not None and self.times:
            self.slow = self.slow + 1 if last_seconds > 1.6 * min(self.times.values()) else 0
        if self.slow >= 3 or self.position >= self.period:
            self.position, self.slow, self.times = 0, 0, {}
        if self.position < tried:
            torch.set_num_threads(self.counts[self.position // self.trial])
        elif self.position == tried and self.times:
            torch.set_num_threads(min(self.times, key=lambda count: self.times[count]))
        self.position += 1


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint under a temporary name, then rename it: a kill leaves the former one intact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def read_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint (tensors only, nothing is executed)."""
    if not path.is_file():
        raise BaseModelError(f"There is no training state {path}. Run the stage before this one first.")
    return torch.load(path, map_location="cpu", weights_only=True)


class Ema:
    """Running average of a module's parameters; young averages forget faster."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {name: p.detach().clone() for name, p in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the model by ``1 - decay``."""
        decay = min(self.decay, (1 + step) / (10 + step))
        own, new = list(self.shadow.values()), list(model.state_dict().values())
        torch._foreach_lerp_(own, new, 1 - decay)


def run_stage(
    *,
    stage: str,
    model: nn.Module,
    loss_of: LossOf,
    state_path: Path,
    log_path: Path,
    schedule: Schedule,
    seed: int,
    ema_decay: float | None = None,
    save_seconds: float = 60.0,
    weight_decay: float = 0.01,
    max_steps: int | None = None,
    trainable: Callable[[str], bool] = lambda name: True,
    threads: ThreadChoice | None = None,
) -> dict[str, Any]:
    """Train until ``schedule.steps`` and return the final state; picks up from ``state_path`` where it exists.

    ``loss_of(step, generator)`` gives the loss of one step. ``max_steps`` stops this call (not the stage) early.
    """
    parameters = [p.requires_grad_(trainable(name)) for name, p in model.named_parameters()]
    parameters = [p for p in parameters if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.lr, betas=(0.9, 0.99), weight_decay=weight_decay)
    ema = Ema(model, ema_decay) if ema_decay is not None else None
    step = _restore(state_path, model, optimizer, ema)

    def snapshot() -> dict[str, Any]:
        return {
            "step": step,
            "model": model.state_dict(),
            "ema": ema.shadow if ema is not None else model.state_dict(),
            "optimizer": optimizer.state_dict(),
        }

    last = schedule.steps if max_steps is None else min(schedule.steps, step + max_steps)
    losses = _LossLog(log_path, stage)
    saved = time.monotonic()
    took: float | None = None
    model.train()
    while step < last:
        began = time.monotonic()
        if threads is not None:
            threads.before_step(took)
        rate = schedule.at(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(step, step_generator(seed, stage, step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if ema is not None:
            ema.update(model, step)
        losses.add(float(loss.detach()))
        now = time.monotonic()
        took = now - began
        if losses.count >= 20 or step == last:
            mean = losses.write(step, rate, now)
            if not math.isfinite(mean):
                raise NonFiniteLossError(
                    f"The loss of stage '{stage}' became {mean} at step {step}. "
                    f"Lower its learning rate ({schedule.lr}); the last good state is {state_path}."
                )
        if now - saved > save_seconds:
            write_state(state_path, snapshot())
            saved = now
    state = snapshot()
    write_state(state_path, state)
    return state


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None) -> int:
    """Load the state of a stage into what trains, and return its step: 0 where there is none."""
    if not path.is_file():
        return 0
    state = read_state(path)
    model.load_state_dict(state["model"])
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    if ema is not None:
        for name, value in state["ema"].items():
            ema.shadow[name].copy_(value)
    return int(state["step"])


class _LossLog:
    """The mean loss of the steps since the last line, and the lines, as JSON; a mean that is not finite has none."""

    def __init__(self, path: Path, stage: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.stage, self.written = path, stage, time.monotonic()
        self.total, self.count = 0.0, 0

    def add(self, loss: float) -> None:
        """Count a step's loss."""
        self.total, self.count = self.total + loss, self.count + 1

    def write(self, step: int, rate: float, now: float) -> float:
        """Write a line if the mean is finite; the mean."""
        mean, seconds = self.total / self.count, (now - self.written) / self.count
        if math.isfinite(mean):
            record = {"stage": self.stage, "step": step, "loss": mean, "lr": rate, "seconds_per_step": seconds}
            with self.path.open("a", encoding="utf-8") as log:
                log.write(json.dumps({**record, "time": round(time.time())}) + "\n")
        self.written, self.total, self.count = now, 0.0, 0
        return mean
