"""How long jobs will take, from the steps that were measured."""

from __future__ import annotations

from tav_sdk.server.jobs import Job
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
        own = self._of(job, done=job.progress / 100)
        if own is None or job.status != "queued":
            return own
        before = [other for other in store.waiting() if other.n < job.n] + store.running()
        known = [seconds for other in before if (seconds := self._of(other, done=other.progress / 100)) is not None]
        return own + sum(known) / self._num_workers

    def _of(self, job: Job, *, done: float) -> float | None:
        p = job.params
        if job.kind == "tuning":
            step = self._step_s.get(("", "tune"))
            return None if step is None else step * (p.get("num_train_steps") or 300) * (1 - done)
        sampling = self._step_s.get((job.model, "sampling"))
        if sampling is None:
            return None
        inversion = self._step_s.get((job.model, "inversion"), sampling / 2)
        count = (p.get("extra_params") or {}).get("num_inversion_steps") or 0
        return (inversion * count + sampling * (p.get("num_inference_steps") or 0)) * (1 - done)
