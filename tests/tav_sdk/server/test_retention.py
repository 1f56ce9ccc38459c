"""What is removed, and what is kept."""

from __future__ import annotations

import asyncio
import os
import time
from types import SimpleNamespace
from typing import Any

import pytest

from tav_sdk.server.jobs import Failure
from tav_sdk.server.retention import Retention
from tav_sdk.server.state import State
from tav_sdk.server.store import JobStore, QueueLimits

NOW = time.time()
DAY = 86400.0
LIMITS = QueueLimits(total=100, per_owner=100)
A, B, C = "a" * 64, "b" * 64, "c" * 64


class Shelf:
    """A state folder with jobs that ended some days ago."""

    def __init__(self, path: Any) -> None:
        self.now = NOW
        self.state = State(path)
        self.store = JobStore(self.state.database, view=lambda job, position: {}, clock=lambda: self.now)
        self.catalog: Any = SimpleNamespace(known={})

    def job(self, *, source: str | None = None, ended: float | None = None) -> str:
        """A job with files that ended so many days ago, or that waits."""
        self.now = NOW - 100 * DAY
        job = self.store.create("video", owner="", model="m", params={"prompt": "p"}, limits=LIMITS, source=source)
        if ended is not None:
            self.now = NOW - ended * DAY
            self.store.fail(job.id, Failure(code="cancelled", message=""))
        self.now = NOW
        self.state.video(job.id).mkdir()
        (self.state.video(job.id) / "video.mp4").write_text("")
        return job.id

    def clip(self, name: str, *, hours: float = 2) -> None:
        path = self.state.clip(name)
        path.write_text("")
        os.utime(path, (NOW, NOW - hours * 3600))

    def swept(self, keep_days: float) -> set[str]:
        retention = Retention(self.state, self.store, self.catalog, keep_days=keep_days, clock=lambda: NOW)
        return {path.name for path in asyncio.run(retention.sweep())}


@pytest.fixture
def shelf(tmp_path):
    made = Shelf(tmp_path / "state")
    yield made
    made.store.close()
    made.state.close()


def test_files_of_jobs_that_ended_long_ago_go_and_records_stay(shelf):
    old, new, waiting = shelf.job(ended=8), shelf.job(ended=6), shelf.job()
    assert shelf.swept(7) == {old}
    assert [shelf.state.video(job).exists() for job in (old, new, waiting)] == [False, True, True]
    assert shelf.store.get(old) is not None


def test_without_days_nothing_of_a_job_goes(shelf):
    shelf.job(ended=99, source=A)
    shelf.clip(A)
    assert shelf.swept(0) == set()


def test_a_clip_goes_with_the_last_job_that_has_it(shelf):
    for source, ended in ((A, 8), (B, 8), (B, 1), (C, None)):
        shelf.job(source=source, ended=ended)
    for name in (A, B, C):
        shelf.clip(name)
    assert A in shelf.swept(7)
    assert [shelf.state.clip(name).exists() for name in (A, B, C)] == [False, True, True]


def test_a_models_clip_stays(shelf):
    shelf.catalog.known["m"] = SimpleNamespace(clip_sha256=A)
    shelf.job(source=A, ended=8)
    shelf.clip(A)
    shelf.swept(7)
    assert shelf.state.clip(A).exists()


def test_what_no_job_has_goes_when_it_is_old_enough(shelf):
    shelf.clip(A)
    shelf.clip(B, hours=0)
    for name in ("video_gone", "video_gone.3", ".video_gone.4-abc"):
        path = (shelf.state.videos if "." not in name else shelf.state.work) / name
        path.mkdir()
        os.utime(path, (NOW, NOW - 7200))
    (shelf.state.videos / "video_new").mkdir()
    assert shelf.swept(0) == {A, "video_gone", "video_gone.3", ".video_gone.4-abc"}


def test_what_a_killed_attempt_left_goes_with_its_job(shelf):
    job = shelf.job()
    for name in (f"{job}.1", f".{job}.1-abc", f"{job}.preview.webp", "video_other.1"):
        (shelf.state.work / name).mkdir()
    shelf.state.forget_work(job)
    assert [path.name for path in shelf.state.work.iterdir()] == ["video_other.1"]


def test_uploads_on_their_way_are_left_alone(shelf):
    incoming = shelf.state.clips / ".incoming"
    incoming.mkdir()
    (incoming / "x").write_text("")
    os.utime(incoming, (0, 0))
    assert shelf.swept(1) == set()
