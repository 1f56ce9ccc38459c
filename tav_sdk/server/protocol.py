"""What the server and its workers say to each other: a line of JSON each, over two pipes."""

from __future__ import annotations

import json
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from tav_sdk.server.jobs import FailureCode, Kind


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Run(_Message):
    """Do a job.

    Attributes:
        job: its id.
        fence: of this claim; comes back with every word about the job.
        kind: what to make.
        params: the job's.
        bundle: folder of the bundle to edit with; for a tuning one of the same base to export onto, if there is one.
        source: file of the clip, if there is one.
        out: folder to write; must not be there.
    """

    type: Literal["run"] = "run"
    job: str
    fence: int
    kind: Kind
    params: dict[str, Any]
    bundle: str | None
    source: str | None
    out: str


class Cancel(_Message):
    """Stop a job after its current U-Net evaluation."""

    type: Literal["cancel"] = "cancel"
    job: str
    fence: int


class Ready(_Message):
    """The worker has started, or has ended a job and waits for another."""

    type: Literal["ready"] = "ready"
    device: str = "cpu"
    engine: str = ""


class Progressed(_Message):
    """How far a job is.

    Attributes:
        progress: percent of all U-Net evaluations.
        stage: what it does.
        step: steps of the stage that are done.
        total: steps of the stage.
        step_s: seconds that the last step took; none where it did not run.
        loss: of a tuning step.
        snapshot: whether the tuned weights of this step are kept.
        cached: in the first word of an inversion that came from the cache.
    """

    type: Literal["progressed"] = "progressed"
    job: str
    fence: int
    progress: int
    stage: str
    step: int
    total: int
    step_s: float | None = None
    loss: float | None = None
    snapshot: bool = False
    cached: bool = False


class Previewed(_Message):
    """A new preview picture is in the job's folder."""

    type: Literal["previewed"] = "previewed"
    job: str
    fence: int


class Swapped(_Message):
    """Another model was loaded."""

    type: Literal["swapped"] = "swapped"
    model: str
    seconds: float


class Completed(_Message):
    """A job is done, and its folder is on disk."""

    type: Literal["completed"] = "completed"
    job: str
    fence: int
    result: dict[str, Any]


class Failed(_Message):
    """A job cannot be done.

    Attributes:
        code: for programs.
        message: for people; no paths.
        detail: for the log.
        ends: whether the worker ends now, since it cannot be trusted with another job.
    """

    type: Literal["failed"] = "failed"
    job: str
    fence: int
    code: FailureCode
    message: str
    detail: str = ""
    ends: bool = False


Command = Run | Cancel
Word = Ready | Progressed | Previewed | Swapped | Completed | Failed

_COMMANDS: TypeAdapter[Command] = TypeAdapter(Command)
_WORDS: TypeAdapter[Word] = TypeAdapter(Word)


def command_of(line: bytes) -> Command:
    """What the server said."""
    return _COMMANDS.validate_python(json.loads(line))


def word_of(line: bytes) -> Word:
    """What a worker said."""
    return _WORDS.validate_python(json.loads(line))


def line_of(message: Command | Word) -> bytes:
    """A message as it goes through a pipe."""
    return message.model_dump_json().encode() + b"\n"


def send(pipe: BinaryIO, message: Command | Word) -> None:
    """Write a message."""
    pipe.write(line_of(message))
    pipe.flush()
