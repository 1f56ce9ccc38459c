"""A store whose disk is full: nothing is half-written."""

from __future__ import annotations

import contextlib

import pytest

from tav_sdk.server.jobs import Failure
from tav_sdk.server.store import JobStore, QueueLimits, StorageFullError

LIMITS = QueueLimits(total=10_000, per_owner=10_000)


def fill(store: JobStore) -> None:
    """Let the file grow no more, and use up what it has."""
    store._db.execute("pragma max_page_count = 1")  # as many as there are
    with contextlib.suppress(StorageFullError):
        for _ in range(1000):
            create(store)


def free(store: JobStore) -> None:
    store._db.execute("pragma max_page_count = 1000000")


def create(store: JobStore):
    return store.create("video", owner="", model="m", params={"prompt": "p" * 3000}, limits=LIMITS)


def test_a_job_that_cannot_be_written_is_none(tmp_path):
    store = JobStore(tmp_path / "jobs.sqlite3", view=lambda job, position: {})
    first = create(store)
    fill(store)
    count = len(store.waiting())
    with pytest.raises(StorageFullError, match="the disk of the server's state is full"):
        create(store)
    with pytest.raises(StorageFullError):
        store.fail(first.id, Failure(code="cancelled", message="m" * 5000))
    assert len(store.waiting()) == count
    free(store)
    assert store.get(create(store).id) is not None
    store.close()
