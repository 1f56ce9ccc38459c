"""Jobs as the server keeps them: an edit, a generation or a tuning, from its request to its end."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["video", "tuning"]
Status = Literal["queued", "in_progress", "completed", "failed"]
Requeued = Literal["worker_died", "server_restarted", "server_stopped"]
"""Why a job that was in progress waits again."""

FailureCode = Literal[
    "cancelled",
    "worker_crashed",
    "out_of_memory",
    "engine_error",
    "non_finite_output",
    "bundle_damaged",
    "invalid_video",
    "timeout",
    "storage_full",
    "internal_error",
]
"""``error.code`` of a failed job."""

PREFIX: dict[Kind, str] = {"video": "video_", "tuning": "tun_"}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a job failed: a code for programs, a sentence for people."""

    code: FailureCode
    message: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row of the store.

    Attributes:
        id: ``video_`` or ``tun_`` and 32 hexadecimal digits.
        n: place in the order of creation; a job that is queued again keeps it.
        kind: what it makes.
        owner: name of the token that made it; empty without tokens.
        model: the model that is edited with, or that a tuning makes.
        source: SHA-256 of the clip that is read; none when generating.
        params: the request, every default filled in.
        status: where it is in its life.
        progress: percent, 0 to 100; it never falls.
        stage: what is being done; none before it began.
        step: steps of the stage that are done.
        total: steps of the stage.
        attempts: how often a worker began with it.
        fence: number of its latest claim; messages with another one are of a worker that was given up.
        worker: index of the worker that has it; none unless in progress.
        overtaken: how often a later job was taken first.
        overtaken_at: when that happened first, seconds since 1970.
        created_at: seconds since 1970, as the next ones.
        started_at: start of the latest attempt.
        completed_at: end, whichever it was.
        failure: why it failed.
        result: what the worker said of the finished job.
        remixed_from: the job that this one is a remix of.
        warnings: sentences for whoever sent it.
    """

    id: str
    n: int
    kind: Kind
    owner: str
    model: str
    source: str | None
    params: dict[str, Any]
    status: Status = "queued"
    progress: int = 0
    stage: str | None = None
    step: int = 0
    total: int = 0
    attempts: int = 0
    fence: int = 0
    worker: int | None = None
    overtaken: int = 0
    overtaken_at: float | None = None
    created_at: float
    started_at: float | None = None
    completed_at: float | None = None
    failure: Failure | None = None
    result: dict[str, Any] = field(default_factory=dict)
    remixed_from: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in ("completed", "failed")


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a job.

    Attributes:
        n: place among all events of the store.
        job: id of the job.
        owner: the job's.
        k: place among the job's events, from 1.
        type: ``video.progress`` and the like.
        at: when, seconds since 1970.
        data: the job as it was then, as clients see it.
    """

    n: int
    job: str
    owner: str
    k: int
    type: str
    at: float
    data: dict[str, Any]


def new_id(kind: Kind) -> str:
    """An id that nobody can guess."""
    return PREFIX[kind] + secrets.token_hex(16)


TUNING_STEPS = 300
"""Steps of a tuning that does not say how many: the paper's."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Steps that waiting jobs of one kind and model have before them, all together.

    Attributes:
        kind: of the jobs.
        model: likewise.
        inversion: steps of inversion.
        sampling: steps of sampling.
        train: steps of tuning.
    """

    kind: Kind
    model: str
    inversion: int
    sampling: int
    train: int
