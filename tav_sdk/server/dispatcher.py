"""Who does what: gives waiting jobs to idle workers, hears of their work, and puts back what a lost worker had."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from tav_sdk.server.jobs import Failure, Job, Kind
from tav_sdk.server.protocol import (
    Cancel,
    Command,
    Completed,
    Failed,
    Previewed,
    Progressed,
    Ready,
    Run,
    Swapped,
    Word,
)
from tav_sdk.server.settings import ServerSettings
from tav_sdk.server.store import JobStore, StorageFullError
from tav_sdk.words import logger

_log = logger(__name__)

FIRST_RESTART_S = 0.1
LONGEST_RESTART_S = 30.0
PROGRESS_S = 0.1
"""Shortest time between two progress events of a job."""
FULL_DISK_S = 5.0
"""How long until the store is written again after the disk was full."""
STOP_S = 5.0
"""How long a worker has to keep what it has when the server stops."""


class WorkerHandle(Protocol):
    """One worker, wherever it runs."""

    index: int

    @property
    def pid(self) -> int: ...

    def send(self, command: Command) -> None: ...

    def kill(self) -> None: ...


class Hire(Protocol):
    """Starts a worker."""

    def __call__(
        self,
        index: int,
        *,
        heard: Callable[[Any, Word], None],
        ended: Callable[[Any, int], None],
    ) -> WorkerHandle: ...


class Places(Protocol):
    """Where the files of jobs lie."""

    def bundle_of(self, job: Job) -> Path | None:
        """The bundle that a job runs on; ``None``: it is gone, or a tuning has none to export onto."""
        ...

    def clip_of(self, job: Job) -> Path | None:
        """The clip that a job reads; ``None``: it reads none, or it is gone."""
        ...

    def work_of(self, job: Job) -> Path:
        """The folder that this attempt of a job writes."""
        ...

    def keep(self, job: Job, work: Path) -> None:
        """Put a finished folder where it is kept."""
        ...

    def forget_work(self, job_id: str) -> None:
        """Remove what attempts of a job left."""
        ...


class Heard(Protocol):
    """What is measured."""

    def requeued(self, reason: str) -> None: ...

    def stepped(self, job: Job, word: Progressed) -> None: ...

    def swapped(self, seconds: float) -> None: ...

    def began(self, job: Job) -> None: ...

    def ended(self, job: Job) -> None: ...

    def restarted(self, worker: int) -> None: ...

    def peaked(self, worker: int, device: str, megabytes: int) -> None: ...


@dataclass
class Slot:
    """A worker's place.

    Attributes:
        index: which.
        worker: the process that has it now.
        state: ``starting``, ``idle``, ``busy`` or ``stopped``.
        job: what it does.
        model: what it has loaded.
        source: the clip it had last.
        failures: how often in a row it ended before it was ready.
    """

    index: int
    worker: WorkerHandle | None = None
    state: Literal["starting", "idle", "busy", "stopped"] = "starting"
    job: Job | None = None
    model: str | None = None
    source: str | None = None
    engine: str = ""
    device: str = ""
    failures: int = 0
    ends: Failure | None = None  # why its job was told to stop
    put_back: bool = False
    told: float = 0.0
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


class Dispatcher:
    """Gives jobs to workers. Everything happens in one event loop.

    Args:
        store: the jobs.
        settings: of the server.
        places: where files lie.
        hire: starts a worker.
        measured: hears what metrics need.
    """

    def __init__(self, store: JobStore, settings: ServerSettings, places: Places, hire: Hire, measured: Heard) -> None:
        self._store, self._settings, self._places, self._measured = store, settings, places, measured
        self._hire = hire
        self._kinds: tuple[Kind, ...] = ("video", "tuning") if settings.tunings else ("video",)
        self.slots = [Slot(index) for index in range(settings.workers)]
        self._stopping = False

    @property
    def ready(self) -> bool:
        """Whether a worker can take a job, now or after its present one."""
        return not self._stopping and any(slot.state in ("idle", "busy") for slot in self.slots)

    def start(self) -> None:
        """Put back what ran when the last server ended, and start the workers."""
        for job in self._store.recover():
            self._measured.requeued("server_restarted")
            self._give_up_if_tried_often(job)
        for slot in self.slots:
            self._start(slot)

    def wake(self) -> None:
        """A job waits: give it to a worker that is idle."""
        for slot in self.slots:
            if slot.state == "idle" and not self._stopping:
                self._give(slot)

    def cancel(self, job_id: str) -> Job | None:
        """Stop a job; its record stays. ``None``: there is no such job."""
        job = self._store.get(job_id)
        if job is None or job.ended:
            return job
        failure = Failure(code="cancelled", message="the job was cancelled")
        if job.status == "queued":
            self._places.forget_work(job_id)
            failed = self._store.fail(job_id, failure)
            if failed is not None:
                self._measured.ended(failed)
            return self._store.get(job_id)
        self._stop(job_id, failure)
        return self._store.get(job_id)

    def drop(self, job_id: str) -> None:
        """Stop a job whose record is gone."""
        self._stop(job_id, Failure(code="cancelled", message="the job was deleted"))
        self._places.forget_work(job_id)

    async def stop(self, drain_s: float) -> None:
        """Give out no more jobs, let running ones end, put back the others, and end the workers."""
        self._stopping = True
        await self._until_idle(drain_s)
        for slot in self.slots:
            if slot.job is not None and slot.worker is not None and slot.ends is None:
                slot.put_back = True
                slot.worker.send(Cancel(job=slot.job.id, fence=slot.job.fence))
        await self._until_idle(STOP_S)
        for slot in self.slots:
            if slot.job is not None:
                with contextlib.suppress(StorageFullError):  # the next start puts it back
                    self._store.requeue(slot.job.id, slot.job.fence, "server_stopped", counts=False)
                slot.job = None
            slot.state = "stopped"
            if slot.worker is not None:
                slot.worker.kill()

    async def _until_idle(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while any(slot.job is not None for slot in self.slots) and time.monotonic() < end:
            await asyncio.sleep(0.02)

    # --- a worker's life ------------------------------------------------------------------------------------------

    def _start(self, slot: Slot) -> None:
        if self._stopping:
            return
        slot.state, slot.model, slot.source = "starting", None, None
        slot.worker = self._hire(slot.index, heard=self._heard, ended=self._ended)

    def _ended(self, worker: WorkerHandle, status: int) -> None:
        slot = self.slots[worker.index]
        if slot.worker is not worker:
            return
        slot.worker = None
        self._clear_timers(slot)
        job, slot.job = slot.job, None
        if job is not None:
            told = {"job_id": job.id, "worker": slot.index}
            _log.warning("worker %d ended with status %d during job %s", slot.index, status, job.id, extra=told)
            if slot.ends is not None:
                self._fail(job, slot.ends)
            elif slot.put_back:
                self._put_back(job)
            else:
                self._until_written(self._lost, job)
        slot.ends, slot.put_back = None, False
        if self._stopping:
            slot.state = "stopped"
            return
        if slot.state == "starting":
            slot.failures += 1
            _log.error("worker %d ended with status %d before it was ready", slot.index, status)
        slot.state = "starting"
        self._measured.restarted(slot.index)
        pause = 0.0 if not slot.failures else min(FIRST_RESTART_S * 2**slot.failures, LONGEST_RESTART_S)
        asyncio.get_running_loop().call_later(pause, self._start, slot)

    def _lost(self, job: Job) -> None:
        waiting = self._store.requeue(job.id, job.fence, "worker_died")
        if waiting is not None:
            self._measured.requeued("worker_died")
            self._give_up_if_tried_often(waiting)
            self.wake()

    def _put_back(self, job: Job) -> None:
        self._until_written(self._store.requeue, job.id, job.fence, "server_stopped", counts=False)

    def _until_written(self, write: Callable[..., object], *given: Any, **more: Any) -> None:
        """Change the store; as long as the disk is full, again and again."""
        try:
            write(*given, **more)
        except StorageFullError:
            _log.error("the disk is full; what happened to a job is written in %g s", FULL_DISK_S)
            again = functools.partial(self._until_written, write, *given, **more)
            asyncio.get_running_loop().call_later(FULL_DISK_S, again)

    def _give_up_if_tried_often(self, job: Job) -> None:
        if job.attempts >= self._settings.max_attempts:
            message = f"its worker ended {job.attempts} times; the server's log says how"
            failed = self._store.fail(job.id, Failure(code="worker_crashed", message=message))
            self._places.forget_work(job.id)
            if failed is not None:
                self._measured.ended(failed)

    # --- a job's life ---------------------------------------------------------------------------------------------

    def _give(self, slot: Slot) -> None:
        while slot.worker is not None and not self._stopping:
            try:
                job = self._store.claim(slot.index, model=slot.model, source=slot.source, kinds=self._kinds)
            except StorageFullError:
                job = None
                asyncio.get_running_loop().call_later(FULL_DISK_S, self.wake)
            if job is None:
                slot.state = "idle"
                return
            bundle, clip = self._places.bundle_of(job), self._places.clip_of(job)
            if job.kind == "video" and bundle is None:
                self._fail(job, Failure(code="bundle_damaged", message="the model is no longer there"))
                continue
            if job.source is not None and clip is None:
                self._fail(job, Failure(code="invalid_video", message="the clip is no longer there"))
                continue
            slot.state, slot.job, slot.ends, slot.put_back, slot.told = "busy", job, None, False, 0.0
            slot.model, slot.source = (job.model, job.source) if job.kind == "video" else (None, None)
            self._measured.began(job)
            run = Run(
                job=job.id,
                fence=job.fence,
                kind=job.kind,
                params=job.params,
                bundle=None if bundle is None else str(bundle),
                source=None if clip is None else str(clip),
                out=str(self._places.work_of(job)),
            )
            slot.worker.send(run)
            loop = asyncio.get_running_loop()
            slot.timers.append(loop.call_later(self._settings.job_timeout_s, self._time_out, slot, job.id, job.fence))
            return

    def _heard(self, worker: WorkerHandle, word: Word) -> None:
        slot = self.slots[worker.index]
        if slot.worker is not worker:
            return
        if isinstance(word, Ready):
            slot.failures, slot.engine, slot.device = 0, word.engine, word.device
            self._give(slot)
        elif isinstance(word, Swapped):
            self._measured.swapped(word.seconds)
        elif slot.job is not None and (word.job, word.fence) == (slot.job.id, slot.job.fence):
            self._heard_of(slot, slot.job, word)

    def _heard_of(self, slot: Slot, job: Job, word: Progressed | Previewed | Completed | Failed) -> None:
        if isinstance(word, Progressed):
            self._measured.stepped(job, word)
            now = time.monotonic()
            if now - slot.told >= PROGRESS_S or word.snapshot:
                slot.told = now
                more = {} if word.loss is None else {"loss": word.loss}
                with contextlib.suppress(StorageFullError):
                    self._store.report(
                        job.id,
                        job.fence,
                        progress=word.progress,
                        stage=word.stage,
                        step=word.step,
                        total=word.total,
                        snapshot=word.snapshot,
                        **more,
                    )
            return
        if isinstance(word, Previewed):
            with contextlib.suppress(StorageFullError):
                self._store.note(job.id, job.fence, "preview")
            return
        self._clear_timers(slot)
        slot.job, slot.state = None, "starting"
        if isinstance(word, Completed):
            if peak := word.result.get("peak_memory_mb"):
                self._measured.peaked(slot.index, slot.device or "cpu", peak)
            self._complete(job, word)
        elif slot.put_back:
            self._put_back(job)
        elif word.code == "cancelled":
            self._fail(job, slot.ends or Failure(code="cancelled", message=word.message))
        else:
            _log.error("job %s failed: %s: %s", job.id, word.code, word.detail, extra={"job_id": job.id})
            self._fail(job, Failure(code=word.code, message=word.message))

    def _complete(self, job: Job, word: Completed) -> None:
        work = self._places.work_of(job)
        current = self._store.get(job.id)
        if current is None or current.fence != job.fence:  # deleted meanwhile
            shutil.rmtree(work, ignore_errors=True)
            return
        try:
            self._places.keep(job, work)
        except OSError:
            _log.exception("job %s: its files cannot be kept", job.id, extra={"job_id": job.id})
            self._fail(job, Failure(code="storage_full", message="the server's disk is full; try again later"))
            return
        self._until_written(self._completed, job, word)

    def _completed(self, job: Job, word: Completed) -> None:
        done = self._store.complete(job.id, job.fence, word.result)
        if done is not None:
            self._measured.ended(done)

    def _fail(self, job: Job, failure: Failure) -> None:
        self._places.forget_work(job.id)
        self._until_written(self._failed, job, failure)

    def _failed(self, job: Job, failure: Failure) -> None:
        failed = self._store.fail(job.id, failure, fence=job.fence)
        if failed is not None:
            self._measured.ended(failed)

    def _stop(self, job_id: str, failure: Failure) -> None:
        for slot in self.slots:
            if slot.job is not None and slot.job.id == job_id and slot.worker is not None and slot.ends is None:
                slot.ends = failure
                slot.worker.send(Cancel(job=job_id, fence=slot.job.fence))
                loop = asyncio.get_running_loop()
                slot.timers.append(loop.call_later(self._settings.cancel_grace_s, slot.worker.kill))

    def _time_out(self, slot: Slot, job_id: str, fence: int) -> None:
        if slot.job is not None and (slot.job.id, slot.job.fence) == (job_id, fence):
            seconds = self._settings.job_timeout_s
            self._stop(job_id, Failure(code="timeout", message=f"it took longer than {seconds:g} s"))

    def _clear_timers(self, slot: Slot) -> None:
        while slot.timers:
            slot.timers.pop().cancel()
