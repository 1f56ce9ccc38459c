"""What a server answers, as frozen objects; what is not a field here is in ``raw``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from tav_sdk.errors import InputError, ServerError
from tav_sdk.words import brief

Status = Literal["queued", "in_progress", "completed", "failed"]
ReadT = TypeVar("ReadT", bound="_Read")

_ID = re.compile(r"(?P<kind>video|tun)_[0-9a-f]{32}")
_RAW: Any = field(default_factory=dict, repr=False, compare=False)
_KINDS = {"video": "videos", "tun": "tunings"}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a job failed.

    Attributes:
        code: for programs, such as ``out_of_memory`` or ``cancelled``.
        message: for people.
    """

    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class _Read:
    """An object of an answer.

    Attributes:
        id: the server's name of it.
        raw: all that the server sent, fields of newer servers included.
    """

    id: str
    raw: Mapping[str, Any] = _RAW

    @classmethod
    def read(cls: type[ReadT], values: Any) -> ReadT:
        """The object of a JSON value.

        Raises:
            ServerError: it is no such object.
        """
        known: dict[str, Any] = {"raw": values}
        for one in fields(cls) if isinstance(values, dict) else ():
            value = values.get(one.name)
            if one.name != "raw" and value is not None:
                known[one.name] = tuple(value) if isinstance(value, list) else value
        error = known.get("error")
        if isinstance(error, dict):
            known["error"] = Failure(code=str(error.get("code")), message=str(error.get("message")))
        try:
            made = cls(**known)
        except TypeError as problem:  # a field that must be there is not
            raise _strange(cls, values) from problem
        if not isinstance(made.id, str):
            raise _strange(cls, values)
        return made


@dataclass(frozen=True, kw_only=True)
class _Job(_Read):
    """What videos and tunings have in common.

    Attributes:
        status: ``queued``, ``in_progress``, ``completed`` or ``failed``.
        progress: percent, 0 to 100; it never falls.
        created_at, started_at, completed_at, expires_at: seconds since 1970.
        model: id of the model.
        prompt: what the video shows, or a tuning's caption.
        error: why it failed, if it did.
        queue_position: how many jobs wait before it, while it is queued.
        stage: what is being done, such as ``sampling``.
        step, total_steps: where it is within the stage.
        eta_s: seconds that it will take, if the server can say.
        attempts: how often it was begun.
        user: as it was given.
        warnings: what the server remarked.
    """

    status: Status
    progress: int = 0
    created_at: int | None = None
    started_at: int | None = None
    completed_at: int | None = None
    expires_at: int | None = None
    model: str = ""
    prompt: str = ""
    error: Failure | None = None
    queue_position: int | None = None
    stage: str | None = None
    step: int = 0
    total_steps: int = 0
    eta_s: float | None = None
    attempts: int = 0
    user: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether it is completed or has failed."""
        return self.status in ("completed", "failed")


@dataclass(frozen=True, kw_only=True)
class Video(_Job):
    """An edit or a generation.

    Attributes:
        mode: ``edit`` or ``generate``.
        size: ``WIDTHxHEIGHT``, in pixels; ``width`` and ``height`` are the same as numbers.
        seconds: its length, as text.
        num_frames, fps: its length in frames, and frames per second.
        num_inference_steps, guidance_scale, seed, negative_prompt, extra_params: the settings, defaults filled in.
        remixed_from_video_id: the video whose settings it took.
        inference_time_s, stage_durations, peak_memory_mb: what it took, once it is completed; seconds and MB.
    """

    mode: Literal["edit", "generate"] | None = None
    size: str = ""
    width: int | None = None
    height: int | None = None
    seconds: str | None = None
    num_frames: int | None = None
    fps: float | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    negative_prompt: str | None = None
    extra_params: Mapping[str, Any] = field(default_factory=dict, hash=False)
    remixed_from_video_id: str | None = None
    inference_time_s: float | None = None
    stage_durations: Mapping[str, float] | None = field(default=None, hash=False)
    peak_memory_mb: float | None = None


@dataclass(frozen=True, kw_only=True)
class Tuning(_Job):
    """A tuning on a clip.

    Attributes:
        base: the base model's name.
        num_train_steps: steps of the tuning.
        loss: of the last step.
        snapshots: ``{"step", "loss"}`` each.
        result_model: id of the model that it made, once it is completed.
    """

    base: str = ""
    num_train_steps: int | None = None
    loss: float | None = None
    snapshots: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    result_model: str | None = None


@dataclass(frozen=True, kw_only=True)
class Model(_Read):
    """A tuned clip that can be edited with.

    Attributes:
        created: seconds since 1970.
        base: the base model's name.
        prompt: the clip's caption.
        size: ``WIDTHxHEIGHT``, in pixels.
        num_frames, fps: of the clip that it was tuned on.
        num_inference_steps, guidance_scale: what requests that give none get.
        precision: of its graphs.
        source: whether the server has the clip, so that an edit needs none sent.
        deletable: whether a tuning on the server made it.
    """

    created: int | None = None
    base: str = ""
    prompt: str = ""
    size: str = ""
    num_frames: int | None = None
    fps: float | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    precision: str = ""
    source: bool = False
    deletable: bool = False


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a job.

    Attributes:
        id: rises within a job; in the stream of all jobs it has numbers of its own.
        type: such as ``video.progress`` or ``tuning.completed``.
        job: the job as it was then.
        reason: why a job was queued again: ``worker_died``, ``server_restarted`` or ``server_stopped``.
    """

    id: int
    type: str
    job: Video | Tuning
    reason: str | None = None


def read_job(values: Any) -> Video | Tuning:
    """A video or a tuning of a JSON value.

    Raises:
        ServerError: it is neither.
    """
    kind = values.get("object") if isinstance(values, dict) else None
    if kind not in ("video", "tuning"):
        raise _strange(Video, values)
    return Video.read(values) if kind == "video" else Tuning.read(values)


def id_of(job: str | Video | Tuning) -> str:
    """A job's id.

    Raises:
        InputError: a text is none.
    """
    text = job if isinstance(job, str) else job.id
    if not _ID.fullmatch(text):
        raise InputError(
            f"must be a job's id, video_ or tun_ and 32 digits from 0 to f, got {brief(text)}; tav jobs lists yours",
            field="job",
        )
    return text


def is_id(text: str) -> bool:
    """Whether a text is a job's id."""
    return _ID.fullmatch(text) is not None


def path_of(job_id: str) -> str:
    """Where a job is on the server."""
    found = _ID.fullmatch(job_id)
    return f"/v1/{_KINDS[found['kind'] if found else 'video']}/{job_id}"


def _strange(kind: type[Any], values: Any) -> ServerError:
    name = kind.__name__.lower()
    return ServerError(
        f"expected a {name} from the server, got {brief(values)}; check that tav serve is at this address"
    )
