"""The store of jobs: what it keeps, in what order it gives it away, and whom it believes."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from tav_sdk.errors import TavError
from tav_sdk.server.jobs import Failure
from tav_sdk.server.store import (
    MAX_OVERTAKEN,
    MAX_OVERTAKEN_S,
    IdempotencyConflictError,
    JobStore,
    Key,
    QueueFullError,
    QueueLimits,
)

MANY = QueueLimits(total=1000, per_owner=1000)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def view(job, position):
    return {"id": job.id, "status": job.status, "progress": job.progress, "queue_position": position}


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def opened(tmp_path, clock):
    """``opened()``: the store of this test, opened anew, and what it publishes in ``store.seen``."""
    stores = []

    def open_() -> JobStore:
        seen = []
        store = JobStore(tmp_path / "jobs.sqlite3", view=view, published=seen.append, clock=clock)
        store.seen = seen  # type: ignore[attr-defined]
        stores.append(store)
        return store

    yield open_
    for store in stores:
        store.close()


@pytest.fixture
def store(opened):
    return opened()


def create(store, model="skiing", owner="", source=None, limits=MANY, **more):
    return store.create("video", owner=owner, model=model, source=source, params={"prompt": "a"}, limits=limits, **more)


def test_a_job_is_kept_with_all_it_has(opened):
    store = opened()
    made = store.create(
        "tuning",
        owner="ada",
        model="skiing",
        source="5" * 64,
        params={"prompt": "ein Bär 🐻", "n": [1, 2.5, None]},
        limits=MANY,
        remixed_from="video_1",
        warnings=("cut",),
    )
    assert made.id.startswith("tun_")
    assert len(made.id) == 36
    assert (made.status, made.progress, made.attempts) == ("queued", 0, 0)
    store.close()
    assert opened().get(made.id) == made


def test_jobs_are_listed_by_owner_kind_and_order(store):
    ids = [create(store, owner=owner).id for owner in ("ada", "ada", "bob", "ada")]
    listed = lambda **how: [job.id for job in store.jobs("video", owner="ada", **{"limit": 10, **how})]  # noqa: E731
    assert listed() == [ids[3], ids[1], ids[0]]
    assert listed(order="asc") == [ids[0], ids[1], ids[3]]
    assert listed(after=ids[3]) == [ids[1], ids[0]]
    assert listed(after=ids[0], order="asc", limit=1) == [ids[1]]
    assert listed(after=ids[2]) == []
    assert listed(after="video_unknown") == []
    assert store.jobs("tuning", owner="ada", limit=10) == []


def test_the_queue_is_bounded_in_all_and_for_each_owner(store):
    limits = QueueLimits(total=3, per_owner=2)
    create(store, owner="ada", limits=limits)
    create(store, owner="ada", limits=limits)
    with pytest.raises(QueueFullError, match="your part of the queue has 2 waiting jobs, and 2 is the most"):
        create(store, owner="ada", limits=limits)
    create(store, owner="bob", limits=limits)
    with pytest.raises(QueueFullError, match="the server's queue has 3 waiting jobs, and 3 is the most"):
        create(store, owner="eve", limits=limits)
    assert store.claim(0)
    create(store, owner="eve", limits=limits)


def test_a_jobs_life_from_claim_to_end(store, clock):
    job = create(store)
    assert store.queue_position(job) == 0
    claimed = store.claim(1)
    assert (claimed.id, claimed.status, claimed.worker, claimed.attempts, claimed.started_at) == (
        *(job.id, "in_progress", 1, 1, 1000.0),
    )
    assert store.queue_position(claimed) is None
    assert store.claim(2) is None
    assert store.report(job.id, claimed.fence, progress=40, stage="sampling", step=2, total=5)
    assert store.report(job.id, claimed.fence, progress=30, stage="sampling", step=3, total=5)
    assert store.get(job.id).progress == 40  # it never falls
    assert store.report(job.id, claimed.fence, progress=100, stage="decode", step=5, total=5)
    assert store.get(job.id).progress == 99
    clock.now += 5
    done = store.complete(job.id, claimed.fence, {"frames": 8})
    assert (done.status, done.progress, done.completed_at, done.result) == ("completed", 100, 1005.0, {"frames": 8})
    assert store.fail(job.id, Failure(code="cancelled", message="m")) is None


def test_words_of_an_older_claim_change_nothing(store):
    job = create(store)
    first = store.claim(0)
    store.report(job.id, first.fence, progress=50, stage="sampling", step=1, total=2)
    store.requeue(job.id, first.fence, "worker_died")
    second = store.claim(1)
    before, events = store.get(job.id), store.events(job.id)
    assert (second.attempts, second.progress) == (2, 50)
    assert second.fence > first.fence
    assert not store.report(job.id, first.fence, progress=90, stage="sampling", step=2, total=2)
    assert not store.note(job.id, first.fence, "preview")
    assert store.complete(job.id, first.fence, {}) is None
    assert store.fail(job.id, Failure(code="engine_error", message="m"), fence=first.fence) is None
    assert store.requeue(job.id, first.fence, "worker_died") is None
    assert (store.get(job.id), store.events(job.id)) == (before, events)


def test_a_job_that_is_put_back_has_its_old_place(store):
    first, second = create(store), create(store)
    claimed = store.claim(0)
    store.requeue(first.id, claimed.fence, "server_stopped", counts=False)
    assert [job.id for job in store.waiting()] == [first.id, second.id]
    assert store.get(first.id).attempts == 0
    assert store.claim(0).attempts == 1


def test_what_ran_when_the_server_was_killed_waits_again(opened):
    store = opened()
    ids = [create(store).id for _ in range(3)]
    store.claim(0)
    store.close()
    again = opened()
    assert [job.id for job in again.recover()] == ids[:1]
    assert [job.id for job in again.waiting()] == ids
    assert again.seen[-1].data["reason"] == "server_restarted"
    assert again.get(ids[0]).attempts == 1


def test_a_worker_prefers_what_it_has_loaded(store):
    for model, source in (("a", "1"), ("b", "1"), ("a", "2"), ("b", "2"), ("a", "1")):
        create(store, model=model, source=source)
    order = []
    while job := store.claim(0, model=order[-1][0] if order else None, source=order[-1][1] if order else None):
        order.append((job.model, job.source))
    assert order == [("a", "1"), ("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")]


def test_no_job_is_overtaken_for_ever(store, clock):
    patient = create(store, model="b")
    for _ in range(20):
        create(store, model="a")
    for taken in range(MAX_OVERTAKEN):
        assert store.claim(0, model="a").model == "a", taken
    assert store.claim(0, model="a").id == patient.id
    late = create(store, model="c")
    for _ in range(20):
        create(store, model="d")
    while store.waiting()[0].model == "a":
        store.claim(0, model="a")
    assert store.claim(0, model="d").model == "d"
    clock.now += MAX_OVERTAKEN_S + 1
    assert store.claim(0, model="d").id == late.id


def test_a_worker_gets_only_what_it_can_do(store):
    tuning = store.create("tuning", owner="", model="new", params={}, limits=MANY)
    video = create(store)
    assert store.claim(0, kinds=("video",)).id == video.id
    assert store.get(tuning.id).overtaken == 0
    assert store.claim(0, kinds=("video", "tuning")).id == tuning.id


def test_claims_in_many_threads_give_each_job_once(store):
    ids = {create(store).id for _ in range(40)}
    taken = []

    def take(worker):
        while job := store.claim(worker):
            taken.append(job.id)

    threads = [threading.Thread(target=take, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 40
    assert set(taken) == ids


def test_events_have_rising_ids_and_are_published_when_they_are_on_disk(store, tmp_path):
    other = sqlite3.connect(tmp_path / "jobs.sqlite3")
    found = []
    store._published = lambda event: found.append(
        other.execute("select type from event where n = ?", (event.n,)).fetchone()
    )
    job = create(store)
    claimed = store.claim(0)
    store.report(job.id, claimed.fence, progress=10, stage="sampling", step=1, total=10, eta_s=3)
    store.note(job.id, claimed.fence, "preview")
    store.complete(job.id, claimed.fence, {})
    names = ["video.queued", "video.in_progress", "video.progress", "video.preview", "video.completed"]
    assert found == [(name,) for name in names]
    events = store.events(job.id)
    assert [(event.k, event.type) for event in events] == list(enumerate(names, 1))
    assert events[2].data == {"id": job.id, "status": "in_progress", "progress": 10, "queue_position": None, "eta_s": 3}
    assert [event.k for event in store.events(job.id, after=3)] == [4, 5]
    assert [event.n for event in store.events_of("", after=events[1].n)] == [event.n for event in events[2:]]
    assert store.last_event() == events[-1].n
    other.close()


def test_a_deleted_job_leaves_nothing_and_does_not_come_back(store):
    key = Key(key="k", body_sha256="1")
    job = create(store, key=key)
    claimed = store.claim(0)
    assert store.delete(job.id)
    assert not store.delete(job.id)
    assert store.get(job.id) is None
    assert store.events(job.id) == []
    assert store.replayed("", key) is None
    assert store.complete(job.id, claimed.fence, {}) is None


def test_a_key_gives_the_first_job_again(opened, clock):
    store = opened()
    key = Key(key="k", body_sha256="1")
    assert store.replayed("ada", key) is None
    job = create(store, owner="ada", key=key)
    store.close()
    store = opened()
    assert store.replayed("ada", key) == job
    assert store.replayed("bob", key) is None
    with pytest.raises(IdempotencyConflictError, match="came with another body before; use a new key"):
        store.replayed("ada", Key(key="k", body_sha256="2"))
    clock.now += 24 * 3600 + 1
    assert store.replayed("ada", key) is None


def test_a_file_of_a_newer_version_is_refused(tmp_path):
    path = tmp_path / "jobs.sqlite3"
    with sqlite3.connect(path) as db:
        db.execute("pragma user_version = 99")
    with pytest.raises(TavError, match=r"has version 99, this server reads up to 1; update with: pip install"):
        JobStore(path, view=view)
    (tmp_path / "other").write_text("no database, but a text that is long enough to be looked at" * 50)
    with pytest.raises(TavError, match=r"is no database of a server: .*; Move it|is no database of a server"):
        JobStore(tmp_path / "other", view=view)


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither modes nor SIGKILL")
def test_what_was_answered_survives_a_kill(tmp_path, opened):
    program = f"""
import sys
from pathlib import Path
from tav_sdk.server.store import JobStore, QueueLimits
store = JobStore(Path({str(tmp_path / "jobs.sqlite3")!r}), view=lambda job, position: {{}})
while True:
    job = store.create("video", owner="", model="m", params={{}}, limits=QueueLimits(total=10**6, per_owner=10**6))
    print(job.id, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = [process.stdout.readline().strip() for _ in range(30)]
    process.send_signal(signal.SIGKILL)
    told += process.stdout.read().split()
    process.wait()
    kept = {job.id for job in opened().waiting()}
    assert {job_id for job_id in told if len(job_id) == 38} <= kept
    assert len(kept) >= 30
