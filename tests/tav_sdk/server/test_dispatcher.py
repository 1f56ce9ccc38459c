"""Who gets which job, and what becomes of it when its worker is slow, lost or told to stop; workers are played."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tav_sdk.server.dispatcher import Dispatcher
from tav_sdk.server.jobs import Kind
from tav_sdk.server.protocol import Cancel, Completed, Failed, Progressed, Ready, Run
from tav_sdk.server.settings import ServerSettings
from tav_sdk.server.store import JobStore, QueueLimits, StorageFullError

LIMITS = QueueLimits(total=100, per_owner=100)


class Played:
    """A worker whose words the test says."""

    pid = 1

    def __init__(self, index: int, heard: Any, ended: Any) -> None:
        self.index, self._heard, self._ended = index, heard, ended
        self.told, self.killed = [], False

    def send(self, command):
        self.told.append(command)

    def kill(self):
        self.killed = True

    def say(self, word):
        self._heard(self, word)

    def end(self, status):
        self._ended(self, status)

    @property
    def run(self) -> Run:
        runs = [command for command in self.told if isinstance(command, Run)]
        return runs[-1]

    def progress(self, percent):
        run = self.run
        self.say(Progressed(job=run.job, fence=run.fence, progress=percent, stage="sampling", step=1, total=2))

    def complete(self):
        run = self.run
        self.say(Completed(job=run.job, fence=run.fence, result={"frames": 8}))
        self.say(Ready())

    def fail(self, code, *, ready=True):
        run = self.run
        self.say(Failed(job=run.job, fence=run.fence, code=code, message=f"it was {code}"))
        if ready:
            self.say(Ready())


class Folders:
    """Places that keep a list of what was kept."""

    def __init__(self):
        self.kept, self.forgotten, self.missing = [], [], set()
        self.error: OSError | None = None

    def bundle_of(self, job):
        return None if job.model in self.missing else Path("bundles") / job.model

    def clip_of(self, job):
        return None if job.source is None else Path("clips") / job.source

    def work_of(self, job):
        return Path("work") / f"{job.id}.{job.fence}"

    def keep(self, job, work):
        if self.error is not None:
            raise self.error
        self.kept.append((job.id, work.name))

    def forget_work(self, job_id):
        self.forgotten.append(job_id)


class Counts:
    def __init__(self):
        self.seen = []

    def __getattr__(self, name):
        return lambda *values: self.seen.append(name)


class House:
    """A dispatcher with played workers."""

    def __init__(self, path, **settings):
        self.hired: list[Played] = []
        self.folders = Folders()
        self.counts: Any = Counts()
        self.store = JobStore(path, view=lambda job, position: {"status": job.status})
        self.settings = ServerSettings(bundles=Path("bundles"), state=Path("state"), **settings)
        self.dispatcher = Dispatcher(self.store, self.settings, self.folders, self._hire, self.counts)

    def _hire(self, index: int, *, heard: Any, ended: Any) -> Any:
        self.hired.append(Played(index, heard, ended))
        return self.hired[-1]

    def job(self, model="a", source=None, kind: Kind = "video"):
        made = self.store.create(kind, owner="", model=model, source=source, params={"prompt": "p"}, limits=LIMITS)
        self.dispatcher.wake()
        return made.id

    def of(self, job_id):
        job = self.store.get(job_id)
        assert job is not None
        return job

    def events(self, job_id):
        return [(event.type.split(".")[1], event.data.get("reason")) for event in self.store.events(job_id)]


@pytest.fixture
def played(tmp_path) -> Callable:
    """``async with played(...) as house``: a dispatcher that was started."""

    @asynccontextmanager
    async def play(start=True, **settings):
        house = House(tmp_path / "jobs.sqlite3", **settings)
        if start:
            house.dispatcher.start()
        try:
            yield house
        finally:
            house.store.close()

    return play


def play(scene):
    """A test that runs in an event loop."""

    def test(played):
        asyncio.run(scene(played))

    test.__name__, test.__doc__ = scene.__name__, scene.__doc__
    return test


@play
async def test_jobs_go_one_after_the_other_to_a_worker(played):
    async with played() as house:
        (worker,) = house.hired
        first, second = house.job(), house.job()
        assert worker.told == []
        worker.say(Ready())
        assert (worker.run.job, worker.run.bundle) == (first, "bundles/a")
        worker.progress(40)
        assert (house.of(first).progress, house.of(second).status) == (40, "queued")
        worker.complete()
        assert house.of(first).result == {"frames": 8}
        assert house.folders.kept == [(first, f"{first}.1")]
        assert worker.run.job == second
        worker.complete()
        assert house.dispatcher.slots[0].state == "idle"
        third = house.job()
        assert worker.run.job == third


@play
async def test_two_workers_have_two_jobs(played):
    async with played(workers=2) as house:
        for worker in house.hired:
            worker.say(Ready())
        jobs = [house.job(), house.job(), house.job()]
        assert [worker.run.job for worker in house.hired] == jobs[:2]
        house.hired[1].complete()
        assert house.hired[1].run.job == jobs[2]


@play
async def test_a_lost_workers_job_goes_to_the_next_one(played):
    async with played() as house:
        house.hired[0].say(Ready())
        job, later = house.job(), house.job()
        house.hired[0].progress(60)
        house.hired[0].end(-9)
        assert (house.of(job).status, house.of(job).progress, house.of(job).attempts) == ("queued", 60, 1)
        assert house.events(job)[-1] == ("queued", "worker_died")
        await asyncio.sleep(0.01)
        house.hired[1].say(Ready())
        assert (house.hired[1].run.job, house.hired[1].run.fence) == (job, house.of(job).fence)
        house.hired[0].complete()  # a dead worker's words
        assert house.of(job).status == "in_progress"
        house.hired[1].complete()
        assert (house.of(job).status, house.of(job).attempts) == ("completed", 2)
        assert house.hired[1].run.job == later


@play
async def test_a_job_that_ends_every_worker_fails(played):
    async with played(max_attempts=3) as house:
        job, later = house.job(), house.job()
        for number in range(3):
            house.hired[number].say(Ready())
            house.hired[number].end(-11)
            await asyncio.sleep(0.01)
        failure = house.of(job).failure
        assert (failure.code, failure.message) == (
            "worker_crashed",
            "its worker ended 3 times; the server's log says how",
        )
        assert job in house.folders.forgotten
        house.hired[3].say(Ready())
        assert house.hired[3].run.job == later


@play
async def test_a_waiting_job_is_cancelled_at_once(played):
    async with played() as house:
        job = house.job()
        assert house.dispatcher.cancel(job).failure.code == "cancelled"
        assert house.dispatcher.cancel(job).failure.code == "cancelled"
        house.hired[0].say(Ready())
        assert house.hired[0].told == []
        assert house.dispatcher.cancel("video_none") is None


@play
async def test_a_running_job_is_told_to_stop_and_the_next_one_runs(played):
    async with played() as house:
        (worker,) = house.hired
        worker.say(Ready())
        job, later = house.job(), house.job()
        assert house.dispatcher.cancel(job).status == "in_progress"
        assert house.dispatcher.cancel(job).status == "in_progress"
        assert [command for command in worker.told if isinstance(command, Cancel)] == [Cancel(job=job, fence=1)]
        worker.fail("cancelled")
        assert house.of(job).failure.code == "cancelled"
        assert worker.run.job == later
        assert not worker.killed


@play
async def test_a_worker_that_does_not_stop_is_killed_and_its_job_is_cancelled(played):
    async with played(cancel_grace_s=0.01) as house:
        house.hired[0].say(Ready())
        job = house.job()
        house.dispatcher.cancel(job)
        await asyncio.sleep(0.05)
        assert house.hired[0].killed
        house.hired[0].end(-9)
        assert (house.of(job).status, house.of(job).failure.code) == ("failed", "cancelled")


@play
async def test_a_deleted_job_does_not_come_back(played):
    async with played() as house:
        (worker,) = house.hired
        worker.say(Ready())
        job = house.job()
        house.store.delete(job)
        house.dispatcher.drop(job)
        worker.progress(90)
        worker.complete()
        assert house.store.get(job) is None
        assert house.folders.kept == []


@play
async def test_a_job_that_takes_too_long_is_stopped(played):
    async with played(job_timeout_s=0.01) as house:
        (worker,) = house.hired
        worker.say(Ready())
        job = house.job()
        await asyncio.sleep(0.05)
        assert isinstance(worker.told[-1], Cancel)
        worker.fail("cancelled")
        failure = house.of(job).failure
        assert (failure.code, failure.message) == ("timeout", "it took longer than 0.01 s")


@play
async def test_failures_have_the_workers_words(played):
    async with played() as house:
        (worker,) = house.hired
        worker.say(Ready())
        job, later = house.job(), house.job()
        worker.fail("non_finite_output")
        assert house.of(job).failure.message == "it was non_finite_output"
        assert worker.run.job == later
        house.folders.error = OSError(28, "No space left on device")
        worker.complete()
        assert house.of(later).failure.code == "storage_full"


@play
async def test_a_model_that_is_gone_fails_its_jobs_alone(played):
    async with played() as house:
        house.folders.missing.add("gone")
        job, later = house.job(model="gone"), house.job()
        house.hired[0].say(Ready())
        assert house.of(job).failure.code == "bundle_damaged"
        assert house.hired[0].run.job == later


@play
async def test_a_stop_lets_jobs_end_and_puts_the_others_back(played):
    async with played(workers=2) as house:
        for worker in house.hired:
            worker.say(Ready())
        quick, slow, waiting = house.job(), house.job(), house.job()
        stopping = asyncio.create_task(house.dispatcher.stop(0.1))
        await asyncio.sleep(0.02)
        house.hired[0].complete()
        assert house.of(quick).status == "completed"
        assert len([command for command in house.hired[0].told if isinstance(command, Run)]) == 1
        await asyncio.sleep(0.2)
        assert isinstance(house.hired[1].told[-1], Cancel)
        house.hired[1].fail("cancelled", ready=False)
        await stopping
        assert (house.of(slow).status, house.of(slow).attempts) == ("queued", 0)
        assert house.events(slow)[-1] == ("queued", "server_stopped")
        assert house.of(waiting).status == "queued"
        assert all(worker.killed for worker in house.hired)
        assert not house.dispatcher.ready


@play
async def test_a_server_that_was_killed_goes_on_with_its_jobs(played):
    async with played() as house:
        house.hired[0].say(Ready())
        jobs = [house.job(), house.job()]
    async with played() as house:
        assert house.events(jobs[0])[-1] == ("queued", "server_restarted")
        house.hired[0].say(Ready())
        assert house.hired[0].run.job == jobs[0]
        house.hired[0].complete()
        assert house.hired[0].run.job == jobs[1]


@play
async def test_a_worker_that_never_starts_is_started_more_and_more_slowly(played):
    async with played() as house:
        house.hired[0].end(1)
        await asyncio.sleep(0.05)
        assert len(house.hired) == 1
        await asyncio.sleep(0.3)
        assert len(house.hired) == 2
        assert not house.dispatcher.ready


@play
async def test_a_worker_prefers_the_model_it_has(played):
    async with played() as house:
        (worker,) = house.hired
        order = [house.job("a"), house.job("b"), house.job("a")]
        worker.say(Ready())
        assert worker.run.job == order[0]
        worker.complete()
        assert worker.run.job == order[2]


@play
async def test_tunings_run_unless_they_are_switched_off(played):
    async with played(tunings=False) as house:
        house.job(kind="tuning")
        video = house.job()
        house.hired[0].say(Ready())
        assert house.hired[0].run.job == video


@pytest.fixture
def quick_retries(monkeypatch):
    monkeypatch.setattr("tav_sdk.server.dispatcher.FULL_DISK_S", 0.03)


@pytest.mark.usefixtures("quick_retries")
@play
async def test_what_happens_while_the_disk_is_full_is_written_later(played):
    async with played() as house:
        first, second = house.job(), house.job()
        (worker,) = house.hired
        worker.say(Ready(engine="e"))
        full, real = True, {name: getattr(house.store, name) for name in ("report", "complete", "claim")}

        def refusing(name):
            def refused(*given, **more):
                if full:
                    raise StorageFullError("full")
                return real[name](*given, **more)

            return refused

        for name in real:
            setattr(house.store, name, refusing(name))
        worker.progress(50)
        worker.complete()
        await asyncio.sleep(0.05)
        assert (house.of(first).status, house.of(second).status) == ("in_progress", "queued")
        full = False
        await asyncio.sleep(0.1)
        assert (house.of(first).status, house.of(second).status) == ("completed", "in_progress")
