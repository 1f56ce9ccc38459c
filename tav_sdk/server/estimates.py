"""How long jobs will take, from the steps that were measured."""

from __future__ import annotations

from tav_sdk.server.jobs import TUNING_STEPS, Job, Work
from tav_sdk.server.protocol import Progressed
from tav_sdk.server.store import JobStore

WEIGHT = 0.2
"""Of a new step in the mean of its kind."""


class Estimates:
    """Means of the steps' times, by model and stage.

    Args:
        num_workers: how many jobs run at once.
    """

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._step_s: dict[tuple[str, str], float] = {}

    def stepped(self, job: Job, word: Progressed) -> None:
        """A worker made a step."""
        if word.step_s is None:
            return
        key = (job.model if job.kind == "video" else "", word.stage)
        former = self._step_s.get(key)
        self._step_s[key] = word.step_s if former is None else former + WEIGHT * (word.step_s - former)

    def seconds(self, job: Job, store: JobStore) -> float | None:
        """Seconds until a job's end: with the jobs before it; ``None``: no step was measured yet."""
        own = self._of(work_of(job))
        if own is None:
            return None
        if job.status != "queued":
            return own * (1 - job.progress / 100)
        waiting = [self._of(work) for work in store.work_before(job)]
        running = [(self._of(work_of(other)), 1 - other.progress / 100) for other in store.running()]
        known = sum(seconds for seconds in waiting if seconds is not None)
        known += sum(seconds * left for seconds, left in running if seconds is not None)
        return own + known / self._num_workers

    def _of(self, work: Work) -> float | None:
        if work.kind == "tuning":
            step = self._step_s.get(("", "tune"))
            return None if step is None else step * work.train
        sampling = self._step_s.get((work.model, "sampling"))
        if sampling is None:
            return None
        inversion = self._step_s.get((work.model, "inversion"), sampling / 2)
        return inversion * work.inversion + sampling * work.sampling


def work_of(job: Job) -> Work:
    """All steps of one job."""
    more = job.params.get("extra_params") or {}
    return Work(
        kind=job.kind,
        model=job.model,
        inversion=more.get("num_inversion_steps") or 0,
        sampling=job.params.get("num_inference_steps") or 0,
        train=job.params.get("num_train_steps") or TUNING_STEPS,
    )
