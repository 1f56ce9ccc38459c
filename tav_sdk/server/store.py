"""The server's memory: jobs, their events and idempotency keys in one SQLite file, with one writer.

What a method has returned is on disk (WAL, synchronous FULL). The store alone decides who may change a job: a worker's
claim raises the job's fence, and words of an older claim change nothing.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tav_sdk.errors import TavError
from tav_sdk.server.jobs import TUNING_STEPS, Event, Failure, Job, Kind, Requeued, Work, new_id

MAX_OVERTAKEN = 8
"""How often a job may be overtaken by later ones of the model that a worker has loaded."""
MAX_OVERTAKEN_S = 60.0
"""For how long a job may be overtaken."""
KEY_HOURS = 24
"""How long an idempotency key is known."""

_MIGRATIONS = (
    """
    create table job(
      n integer primary key autoincrement, id text not null unique, kind text not null, owner text not null,
      model text not null, source text, params text not null, status text not null, progress integer not null,
      stage text, step integer not null, total integer not null, attempts integer not null, fence integer not null,
      worker integer, overtaken integer not null, overtaken_at real, created_at real not null, started_at real,
      completed_at real, failure text, result text not null, remixed_from text, warnings text not null);
    create index job_status on job(status, n);
    create index job_owner on job(owner, kind, n);
    create index job_source on job(source);
    create table event(
      n integer primary key autoincrement, job text not null, owner text not null, k integer not null,
      type text not null, at real not null, data text not null, unique(job, k));
    create table idempotency(
      owner text not null, key text not null, body_sha256 text not null, job text not null, at real not null,
      primary key(owner, key));
    """,
)
"""What makes each version of the file of the one before."""

_FIELDS = tuple(Job.__dataclass_fields__)
_JSON = ("params", "failure", "result", "warnings")


class StorageFullError(TavError):
    """The disk is full: nothing was written."""


class QueueFullError(TavError):
    """So many jobs wait already."""


class IdempotencyConflictError(TavError):
    """The key was used with another body."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """An ``Idempotency-Key``, and SHA-256 of the body that came with it."""

    key: str
    body_sha256: str


@dataclass(frozen=True, kw_only=True)
class QueueLimits:
    """How many jobs may wait, in all and of one owner."""

    total: int
    per_owner: int


class JobStore:
    """Jobs, events and keys in a file. Threads may share it.

    Args:
        path: the file, made if it is not there; one server at a time may have it open.
        view: what clients see of a job, and how many jobs wait before it; goes into its events.
        published: called with every event after it is on disk, while the store is locked; it must be quick.
        clock: seconds since 1970.

    Raises:
        TavError: the file is of a newer version, or no database.
    """

    def __init__(
        self,
        path: Path,
        *,
        view: Callable[[Job, int | None], Mapping[str, Any]],
        published: Callable[[Event], None] = lambda event: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._view, self._published, self._clock = view, published, clock
        self._lock = threading.RLock()
        self._new: list[Event] = []
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        try:
            self._prepare(path)
        except BaseException as error:
            self._db.close()
            if isinstance(error, sqlite3.DatabaseError):
                raise TavError(
                    f"{path} is no database of a server: {error}. Move it away, or start the server with another state."
                ) from error
            raise

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        with self._lock:
            self._db.close()

    # --- jobs made and read ---------------------------------------------------------------------------------------

    def create(
        self,
        kind: Kind,
        *,
        owner: str,
        model: str,
        params: Mapping[str, Any],
        limits: QueueLimits,
        source: str | None = None,
        remixed_from: str | None = None,
        warnings: Sequence[str] = (),
        key: Key | None = None,
        job_id: str | None = None,
    ) -> Job:
        """A new job, queued.

        Args:
            kind: what it makes.
            owner: whose it is.
            model: see :class:`~tav_sdk.server.jobs.Job`, as for the next ones.
            params: plain JSON values.
            limits: how many may wait.
            source: hash of its clip.
            remixed_from: another job.
            warnings: sentences.
            key: remembered with the job; look with :meth:`replayed` first.
            job_id: by default a new one.

        Raises:
            QueueFullError: so many wait.
        """
        with self._writing():
            for where, limit, whose in (
                ("", limits.total, "the server's queue has"),
                (" and owner = :owner", limits.per_owner, "your part of the queue has"),
            ):
                (waiting,) = self._db.execute(
                    f"select count(*) from job where status = 'queued'{where}", {"owner": owner}
                ).fetchone()
                if waiting >= limit:
                    raise QueueFullError(f"{whose} {waiting} waiting jobs, and {limit} is the most; try again later")
            job_id = job_id or new_id(kind)
            now = self._clock()
            self._db.execute(
                "insert into job(id, kind, owner, model, source, params, status, progress, step, total, attempts,"
                " fence, overtaken, created_at, result, remixed_from, warnings)"
                " values(?, ?, ?, ?, ?, ?, 'queued', 0, 0, 0, 0, 0, 0, ?, '{}', ?, ?)",
                (job_id, kind, owner, model, source, _dumped(params), now, remixed_from, _dumped(list(warnings))),
            )
            if key is not None:
                self._db.execute(
                    "insert or replace into idempotency(owner, key, body_sha256, job, at) values(?, ?, ?, ?, ?)",
                    (owner, key.key, key.body_sha256, job_id, now),
                )
            return self._happened(job_id, "queued")

    def replayed(self, owner: str, key: Key) -> Job | None:
        """The job that was made with this key and body in the last day; ``None``: the key is new, or its job is gone.

        Raises:
            IdempotencyConflictError: it was made with another body.
        """
        with self._lock:
            self._db.execute("delete from idempotency where at < ?", (self._clock() - KEY_HOURS * 3600,))
            row = self._db.execute(
                "select body_sha256, job from idempotency where owner = ? and key = ?", (owner, key.key)
            ).fetchone()
            if row is None:
                return None
            if row["body_sha256"] != key.body_sha256:
                raise IdempotencyConflictError("this Idempotency-Key came with another body before; use a new key")
            return self.get(row["job"])

    def get(self, job_id: str) -> Job | None:
        """A job by its id."""
        with self._lock:
            row = self._db.execute("select * from job where id = ?", (job_id,)).fetchone()
            return None if row is None else _job(row)

    def jobs(
        self,
        kind: Kind,
        *,
        owner: str,
        limit: int,
        after: str | None = None,
        order: Literal["asc", "desc"] = "desc",
    ) -> list[Job]:
        """An owner's jobs of a kind in the order of their making; none if ``after`` is not one of them."""
        with self._lock:
            bound = ""
            if after is not None:
                bound = (
                    f" and n {'<' if order == 'desc' else '>'}"
                    " (select n from job where id = :after and owner = :owner and kind = :kind)"
                )
            rows = self._db.execute(
                f"select * from job where owner = :owner and kind = :kind{bound} order by n {order} limit :limit",
                {"owner": owner, "kind": kind, "after": after, "limit": limit},
            )
            return [_job(row) for row in rows]

    def waiting(self) -> list[Job]:
        """The jobs that wait, in their order."""
        with self._lock:
            return [_job(row) for row in self._db.execute("select * from job where status = 'queued' order by n")]

    def running(self) -> list[Job]:
        """The jobs that workers have."""
        with self._lock:
            return [_job(row) for row in self._db.execute("select * from job where status = 'in_progress' order by n")]

    def queue_position(self, job: Job) -> int | None:
        """How many jobs wait before a waiting one; ``None`` if it does not wait."""
        if job.status != "queued":
            return None
        with self._lock:
            (count,) = self._db.execute(
                "select count(*) from job where status = 'queued' and n < ?", (job.n,)
            ).fetchone()
            return int(count)

    def work_before(self, job: Job) -> list[Work]:
        """The steps of all jobs that wait before a waiting one; those that run are not among them."""
        with self._lock:
            rows = self._db.execute(
                "select kind, model,"
                " total(json_extract(params, '$.extra_params.num_inversion_steps')) as inversion,"
                " total(json_extract(params, '$.num_inference_steps')) as sampling,"
                " total(coalesce(json_extract(params, '$.num_train_steps'), ?)) as train"
                " from job where status = 'queued' and n < ? group by kind, model",
                (TUNING_STEPS, job.n),
            )
            return [
                Work(
                    kind=row["kind"],
                    model=row["model"],
                    inversion=int(row["inversion"]),
                    sampling=int(row["sampling"]),
                    train=int(row["train"]),
                )
                for row in rows
            ]

    def counts(self) -> dict[tuple[str, str], int]:
        """How many jobs there are by kind and status."""
        with self._lock:
            rows = self._db.execute("select kind, status, count(*) as count from job group by kind, status")
            return {(row["kind"], row["status"]): row["count"] for row in rows}

    def needs(self, source: str, *, since: float | None = None) -> bool:
        """Whether any job has this clip; with ``since``, one that has not ended before that, seconds since 1970."""
        with self._lock:
            row = self._db.execute(
                "select 1 from job where source = :source"
                " and (:since is null or completed_at is null or completed_at >= :since) limit 1",
                {"source": source, "since": since},
            ).fetchone()
            return row is not None

    # --- the life of a job ----------------------------------------------------------------------------------------

    def claim(
        self, worker: int, *, model: str | None = None, source: str | None = None, kinds: Sequence[Kind] = ("video",)
    ) -> Job | None:
        """Give a worker the job that is next: the first that waits, or a later one of what the worker has loaded.

        A job is overtaken at most :data:`MAX_OVERTAKEN` times, and for at most :data:`MAX_OVERTAKEN_S`.

        Args:
            worker: who asks.
            model: what it has loaded; jobs of that model are preferred.
            source: the clip it had last; among those, jobs of that clip are preferred.
            kinds: what it can do.
        """
        with self._writing():
            waiting = [job for job in self.waiting() if job.kind in kinds]
            if not waiting:
                return None
            now = self._clock()
            chosen = _next(waiting, model, source, now)
            self._db.execute(
                "update job set overtaken = overtaken + 1, overtaken_at = coalesce(overtaken_at, ?)"
                f" where status = 'queued' and n < ? and kind in ({', '.join('?' * len(kinds))})",
                (now, chosen.n, *kinds),
            )
            self._change(
                chosen.id,
                status="in_progress",
                worker=worker,
                attempts=chosen.attempts + 1,
                fence=chosen.fence + 1,
                started_at=now,
                stage=None,
                step=0,
                total=0,
            )
            return self._happened(chosen.id, "in_progress")

    def report(
        self,
        job_id: str,
        fence: int,
        *,
        progress: int,
        stage: str,
        step: int,
        total: int,
        snapshot: bool = False,
        **more: Any,
    ) -> bool:
        """Note how far a worker is; ``more`` goes into the event. ``False``: its claim is over, nothing is noted.

        With ``snapshot`` the step and its ``loss`` are added to a tuning's snapshots.
        """
        with self._writing():
            job = self._claimed(job_id, fence)
            if job is None:
                return False
            self._change(job_id, progress=max(job.progress, min(progress, 99)), stage=stage, step=step, total=total)
            if "loss" in more:  # a tuning's is seen while it runs
                result = {**job.result, "loss": more["loss"]}
                if snapshot:
                    former = [one for one in result.get("snapshots", ()) if one["step"] < step]
                    result["snapshots"] = [*former, {"step": step, "loss": more["loss"]}]
                self._change(job_id, result=result)
            self._happened(job_id, "progress", **more)
            return True

    def note(self, job_id: str, fence: int, type_: str, **more: Any) -> bool:
        """An event of a running job that changes nothing of it, such as a new preview."""
        with self._writing():
            if self._claimed(job_id, fence) is None:
                return False
            self._happened(job_id, type_, **more)
            return True

    def complete(self, job_id: str, fence: int, result: Mapping[str, Any]) -> Job | None:
        """The end of a job that went well; ``None``: the worker's claim is over."""
        with self._writing():
            if self._claimed(job_id, fence) is None:
                return None
            self._change(
                job_id, status="completed", progress=100, worker=None, completed_at=self._clock(), result=dict(result)
            )
            return self._happened(job_id, "completed")

    def fail(self, job_id: str, failure: Failure, *, fence: int | None = None) -> Job | None:
        """The end of a job that did not go well.

        Args:
            job_id: the job.
            failure: why.
            fence: of the worker that says so; ``None``: the server does.

        Returns:
            The job; ``None`` if it had ended, or the worker's claim is over.
        """
        with self._writing():
            job = self.get(job_id) if fence is None else self._claimed(job_id, fence)
            if job is None or job.ended:
                return None
            self._change(job_id, status="failed", worker=None, completed_at=self._clock(), failure=asdict(failure))
            return self._happened(job_id, "failed")

    def requeue(self, job_id: str, fence: int, reason: Requeued, *, counts: bool = True) -> Job | None:
        """Put a running job back in its old place.

        Args:
            job_id: the job.
            fence: of the claim that is over.
            reason: why; goes into the event.
            counts: whether the attempt counts; not if the server was stopped on purpose.
        """
        with self._writing():
            job = self._claimed(job_id, fence)
            if job is None:
                return None
            attempts = job.attempts if counts else job.attempts - 1
            self._change(job_id, status="queued", worker=None, attempts=attempts, fence=job.fence + 1)
            return self._happened(job_id, "queued", reason=reason)

    def recover(self) -> list[Job]:
        """Put back what ran when the last server ended without a word; call it before any worker starts."""
        with self._writing():
            return [
                job
                for found in self.running()
                if (job := self.requeue(found.id, found.fence, "server_restarted")) is not None
            ]

    def delete(self, job_id: str) -> bool:
        """Forget a job, its events and keys; ``False``: there is none."""
        with self._writing():
            self._db.execute("delete from event where job = ?", (job_id,))
            self._db.execute("delete from idempotency where job = ?", (job_id,))
            return self._db.execute("delete from job where id = ?", (job_id,)).rowcount == 1

    # --- events ---------------------------------------------------------------------------------------------------

    def events(self, job_id: str, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """A job's events after the one with ``k == after``, in their order."""
        with self._lock:
            rows = self._db.execute(
                "select * from event where job = ? and k > ? order by k limit ?", (job_id, after, limit)
            )
            return [_event(row) for row in rows]

    def events_of(self, owner: str, *, after: int, limit: int = 1000) -> list[Event]:
        """An owner's events after the one with ``n == after``, in their order."""
        with self._lock:
            rows = self._db.execute(
                "select * from event where owner = ? and n > ? order by n limit ?", (owner, after, limit)
            )
            return [_event(row) for row in rows]

    def last_event(self) -> int:
        """``n`` of the newest event; 0 if there is none."""
        with self._lock:
            (last,) = self._db.execute("select coalesce(max(n), 0) from event").fetchone()
            return int(last)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _prepare(self, path: Path) -> None:
        for pragma in ("journal_mode = wal", "synchronous = full", "busy_timeout = 5000"):
            self._db.execute(f"pragma {pragma}")
        (version,) = self._db.execute("pragma user_version").fetchone()
        if version > len(_MIGRATIONS):
            raise TavError(
                f"{path} has version {version}, this server reads up to {len(_MIGRATIONS)}; "
                "update with: pip install --upgrade tav-sdk"
            )
        for number, statements in enumerate(_MIGRATIONS[version:], version + 1):
            self._db.executescript(f"begin immediate; {statements} pragma user_version = {number}; commit;")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction; its events are published after it is on disk."""
        with self._lock:
            if self._db.in_transaction:  # within another method
                yield
                return
            self._db.execute("begin immediate")
            self._new = []
            try:
                yield
                self._db.execute("commit")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("rollback")
                if isinstance(error, sqlite3.OperationalError) and _is_full(error):
                    raise StorageFullError("the disk of the server's state is full") from error
                raise
            for event in self._new:
                self._published(event)

    def _claimed(self, job_id: str, fence: int) -> Job | None:
        job = self.get(job_id)
        return job if job is not None and job.status == "in_progress" and job.fence == fence else None

    def _change(self, job_id: str, **values: Any) -> None:
        values = {name: _dumped(value) if name in _JSON else value for name, value in values.items()}
        names = ", ".join(f"{name} = :{name}" for name in values)
        self._db.execute(f"update job set {names} where id = :id", {"id": job_id, **values})

    def _happened(self, job_id: str, what: str, **more: Any) -> Job:
        """Write an event with the job as it is now."""
        job = self.get(job_id)
        assert job is not None  # noqa: S101
        (k,) = self._db.execute("select coalesce(max(k), 0) + 1 from event where job = ?", (job_id,)).fetchone()
        type_, now = f"{job.kind}.{what}", self._clock()
        data = {**self._view(job, self.queue_position(job)), **more}
        n = self._db.execute(
            "insert into event(job, owner, k, type, at, data) values(?, ?, ?, ?, ?, ?)",
            (job_id, job.owner, k, type_, now, _dumped(data)),
        ).lastrowid
        self._new.append(Event(n=n or 0, job=job_id, owner=job.owner, k=k, type=type_, at=now, data=data))
        return job


def _is_full(error: sqlite3.OperationalError) -> bool:
    """Whether SQLite says that the disk is full. That its shared memory cannot grow, it says from Python 3.11 on."""
    return "disk is full" in str(error) or getattr(error, "sqlite_errorname", "") == "SQLITE_IOERR_SHMSIZE"


def _next(waiting: Sequence[Job], model: str | None, source: str | None, now: float) -> Job:
    """The job to take of those that wait: the loaded clip's, the loaded model's, or the first."""
    allowed = [waiting[0]]
    for before, job in itertools.pairwise(waiting):
        since = now if before.overtaken_at is None else before.overtaken_at
        if before.overtaken >= MAX_OVERTAKEN or now - since > MAX_OVERTAKEN_S:
            break
        allowed.append(job)
    same_model = [job for job in allowed if job.kind == "video" and job.model == model]
    same_clip = [job for job in same_model if job.source == source]
    return (same_clip or same_model or allowed)[0]


def _job(row: sqlite3.Row) -> Job:
    values = {name: row[name] for name in _FIELDS}
    for name in _JSON:
        values[name] = None if values[name] is None else json.loads(values[name])
    values["failure"] = None if values["failure"] is None else Failure(**values["failure"])
    values["warnings"] = tuple(values["warnings"])
    return Job(**values)


def _event(row: sqlite3.Row) -> Event:
    names = ("n", "job", "owner", "k", "type", "at")
    return Event(**{name: row[name] for name in names}, data=json.loads(row["data"]))


def _dumped(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
