"""What the API does, without HTTP: requests become jobs, jobs are looked at, stopped and removed."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tav_sdk.errors import BundleError, InputError
from tav_sdk.server.bodies import Body
from tav_sdk.server.catalog import Catalog, Model, model_exists
from tav_sdk.server.dispatcher import Dispatcher
from tav_sdk.server.forms import Upload
from tav_sdk.server.hub import Hub
from tav_sdk.server.jobs import Job, Kind
from tav_sdk.server.memory import TuningPlanner, check_edit_memory, machine_memory
from tav_sdk.server.metrics import Metrics
from tav_sdk.server.places import BESIDE, source_beside
from tav_sdk.server.problems import ProblemError, storage_full
from tav_sdk.server.settings import ServerSettings
from tav_sdk.server.state import State
from tav_sdk.server.store import (
    IdempotencyConflictError,
    JobStore,
    Key,
    QueueFullError,
    QueueLimits,
    StorageFullError,
)
from tav_sdk.server.tuning_fields import read_tuning_fields
from tav_sdk.server.uploads import Uploads, check_length
from tav_sdk.server.video_fields import (
    VideoFields,
    check_size,
    decide_mode,
    fill_num_frames,
    read_video_fields,
    refused,
    remixed,
)
from tav_sdk.server.video_request import resolved

MAX_TOKENS = 77
RETRY_S = 5
MIN_FREE_BYTES = 64 << 20
"""With less free space on the state's disk no job is taken."""


@dataclass(frozen=True, kw_only=True)
class Created:
    """A job that a request made, or had made before."""

    job: Job
    replayed: bool


class Service:
    """All that the API can do, for an owner that was checked.

    Args:
        settings: of the server.
        state: its folder.
        store: its jobs.
        catalog: its models.
        uploads: its clips.
        dispatcher: gives jobs to workers.
        hub: tells listeners.
        metrics: what is measured.
        can_tune: whether the extras for tunings are installed.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        state: State,
        store: JobStore,
        catalog: Catalog,
        uploads: Uploads,
        dispatcher: Dispatcher,
        hub: Hub,
        metrics: Metrics,
        can_tune: bool,
    ) -> None:
        self.settings, self.state, self.store, self.catalog = settings, state, store, catalog
        self.uploads, self.dispatcher, self.hub, self.metrics = uploads, dispatcher, hub, metrics
        self.can_tune = can_tune and settings.tunings
        self._memory, self._planner = machine_memory(), TuningPlanner()
        self._key_locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._key_users: Counter[tuple[str, str]] = Counter()
        self._held: Counter[str] = Counter()  # clips of requests that are still being judged
        self.stopping = self.closing = False

    # --- making jobs ----------------------------------------------------------------------------------------------

    async def create_video(
        self, body: Body, *, owner: str, key: str | None, operation: Literal["create", "edit"]
    ) -> Created:
        """A job for ``POST /v1/videos`` or ``/v1/videos/edits``.

        Raises:
            ProblemError: the request is refused; its file is gone then.
        """
        return await self._making(self._video, body, operation, owner=owner, key=key)

    async def remix(self, body: Body, *, owner: str, key: str | None, video_id: str) -> Created:
        """A job with another one's source and settings, and a new prompt.

        Raises:
            ProblemError: the request is refused.
        """
        return await self._making(self._remix, body, video_id, owner=owner, key=key)

    async def create_tuning(self, body: Body, *, owner: str, key: str | None) -> Created:
        """A job that tunes on a clip.

        Raises:
            ProblemError: the request is refused; its file is gone then.
        """
        return await self._making(self._tuning, body, "tunings", owner=owner, key=key)

    async def _making(self, make: Any, body: Body, what: str, *, owner: str, key: str | None) -> Created:
        try:
            self.check_can_take()
            whole = None
            if key is not None:
                whole = Key(key=key, body_sha256=hashlib.sha256(f"{what}\n{body.sha256}".encode()).hexdigest())
            async with self._one_with(owner, key):
                if whole is not None and (job := self._replayed(owner, whole)) is not None:
                    body.discard()
                    return Created(job=job, replayed=True)
                job = await make(body, what, owner, whole)
        except BaseException:
            body.discard()
            raise
        asyncio.get_running_loop().call_soon(self.dispatcher.wake)  # the answer says queued
        return Created(job=job, replayed=False)

    @asynccontextmanager
    async def _one_with(self, owner: str, key: str | None) -> AsyncIterator[None]:
        """One request with a key at a time: two of them make one job."""
        if key is None:
            yield
            return
        self._key_users[owner, key] += 1
        try:
            async with self._key_locks.setdefault((owner, key), asyncio.Lock()):
                yield
        finally:
            self._key_users[owner, key] -= 1
            if not self._key_users[owner, key]:
                del self._key_users[owner, key], self._key_locks[owner, key]

    @asynccontextmanager
    async def _holding(self, clip: Upload | None) -> AsyncIterator[None]:
        """Keep a clip that was sent; it goes again if no job is made of it, and not before."""
        if clip is None:
            yield
            return
        self._held[clip.sha256] += 1
        try:
            await self.uploads.keep(clip)
            yield
        finally:
            self._held[clip.sha256] -= 1
            if not self._held[clip.sha256]:
                del self._held[clip.sha256]
            self._forget_clip(clip.sha256)

    def check_can_take(self) -> None:
        """Check that jobs are taken at all.

        Raises:
            ProblemError: 503 ``shutting_down``, 507 ``storage_full``.
        """
        if self.stopping:
            raise ProblemError(
                503, "shutting_down", "the server is being stopped; try again later", headers={"Retry-After": "10"}
            )
        status = os.statvfs(self.state.folder) if hasattr(os, "statvfs") else None
        if status is not None and status.f_bavail * status.f_frsize < MIN_FREE_BYTES:
            raise storage_full()

    def check_can_tune(self) -> None:
        """Check that clips can be tuned here.

        Raises:
            ProblemError: 501 ``tuning_unavailable``.
        """
        if not self.can_tune:
            how = "it is switched off" if not self.settings.tunings else "the extras training and export are missing"
            raise ProblemError(501, "tuning_unavailable", f"this server cannot tune: {how}; tune elsewhere")

    def _replayed(self, owner: str, key: Key) -> Job | None:
        try:
            return self.store.replayed(owner, key)
        except IdempotencyConflictError as error:
            raise ProblemError(422, "idempotency_conflict", str(error), param="Idempotency-Key") from error

    async def _video(self, body: Body, operation: Literal["create", "edit"], owner: str, key: Key | None) -> Job:
        fields = read_video_fields(body, operation, max_frames=self.settings.max_frames)
        named = None if fields.source_video is None else self.finished_source(fields.source_video, owner)
        model = await self.catalog.choose(fields.model or (named.model if named is not None else None))
        facts = None
        if fields.clip is not None:
            facts = await self.uploads.probe(fields.clip.path, param=fields.clip_field)
        sent = fields.clip is not None or named is not None
        params = decide_mode(fields.params, sent=sent, has_clip=model.clip is not None, clip_field=fields.clip_field)
        rate = model.manifest.clip.fps
        if facts is not None:
            rate = facts.fps / (params["extra_params"].get("stride") or model.manifest.clip.stride)
        params = self._resolved(fill_num_frames(params, fps=rate, max_frames=self.settings.max_frames), model)
        params["source_fps"] = rate
        source = self._source(params, fields, named, model)
        if facts is not None and params["mode"] == "edit":
            frames = self._frames(params)
            check_length(facts, param=fields.clip_field, **frames)
        async with self._holding(fields.clip):
            return self._create("video", owner, model.id, params, key=key, source=source)

    def _source(self, params: Mapping[str, Any], fields: VideoFields, named: Job | None, model: Model) -> str | None:
        if params["mode"] == "generate":
            return None
        if fields.clip is not None:
            return fields.clip.sha256
        if named is not None:
            return self.source_of_video(named)
        if model.clip is None:  # decide_mode has refused this
            return None
        if model.clip_sha256 is not None:
            return model.clip_sha256
        try:
            return source_beside(model.clip)
        except OSError as error:
            raise ProblemError(400, "source_required", "the model's clip is gone; send one") from error

    async def _remix(self, body: Body, video_id: str, owner: str, key: Key | None) -> Job:
        first = self.video(video_id, owner)
        fields = read_video_fields(body, "remix", max_frames=self.settings.max_frames)
        model = await self.catalog.get(first.model)
        params = remixed(first.params, fields.params)
        params = decide_mode(params, sent=False, has_clip=first.source is not None, clip_field="input_reference")
        rate = params.get("fps") or model.manifest.clip.fps
        params = self._resolved(fill_num_frames(params, fps=rate, max_frames=self.settings.max_frames), model)
        params["source_fps"] = first.params.get("source_fps") or model.manifest.clip.fps
        source = first.source if params["mode"] == "edit" else None
        if source is not None and not source.startswith(BESIDE) and not self.state.clip(source).is_file():
            raise ProblemError(404, "video_expired", "the first video's clip is no longer there; send it again")
        return self._create("video", owner, model.id, params, key=key, source=source, remixed_from=first.id)

    async def _tuning(self, body: Body, _: str, owner: str, key: Key | None) -> Job:
        self.check_can_tune()
        fields = read_tuning_fields(body, bases=self.settings.bases)
        facts = await self.uploads.probe(fields.clip.path, param="video")
        wanted = fields.params
        frames = {
            "num_frames": wanted.get("num_frames") or 8,
            "start": wanted.get("start") or 0,
            "stride": wanted.get("stride") or 1,
        }
        check_length(facts, param="video", **frames)
        model_id = await self.catalog.new_model_id(fields.model)
        self._check_nobody_makes(model_id)
        await self._planner.check(wanted)
        async with self._holding(fields.clip):
            self._check_nobody_makes(model_id)  # planning takes its time
            return self._create("tuning", owner, model_id, {**wanted, **frames}, key=key, source=fields.clip.sha256)

    def _check_nobody_makes(self, model_id: str) -> None:
        active = (*self.store.waiting(), *self.store.running())
        if model_id in self.catalog.known or any(job.kind == "tuning" and job.model == model_id for job in active):
            raise model_exists(model_id)

    def _resolved(self, params: Mapping[str, Any], model: Model) -> dict[str, Any]:
        manifest = model.manifest
        check_size(params, width=manifest.width, height=manifest.height)
        check_edit_memory(manifest, memory=self._memory)
        try:
            return resolved(params, manifest, model.schedule)
        except InputError as error:
            raise refused(error) from error
        except BundleError as error:
            raise ProblemError(400, "invalid_value", f"the model cannot do this: {error}") from error

    @staticmethod
    def _frames(params: Mapping[str, Any]) -> dict[str, int]:
        more = params["extra_params"]
        return {"num_frames": params["num_frames"], "start": more["start"], "stride": more["stride"]}

    def _create(self, kind: Kind, owner: str, model: str, params: Mapping[str, Any], **more: Any) -> Job:
        limits = QueueLimits(total=self.settings.max_queue, per_owner=self.settings.max_queue_per_token)
        try:
            return self.store.create(
                kind, owner=owner, model=model, params=params, limits=limits, warnings=warnings_of(params), **more
            )
        except QueueFullError as error:
            self._forget_clip(more.get("source"))  # a refused request leaves no file
            raise ProblemError(
                429, "queue_full", str(error), headers={"Retry-After": str(self._until_a_place())}
            ) from error
        except StorageFullError as error:
            self._forget_clip(more.get("source"))
            raise storage_full() from error

    def _until_a_place(self) -> int:
        """Seconds until a waiting job has probably begun, 1 to 60."""
        return max(1, min(60, RETRY_S))

    # --- looking at jobs ------------------------------------------------------------------------------------------

    def video(self, video_id: str, owner: str) -> Job:
        """One's own video job.

        Raises:
            ProblemError: 404 ``video_not_found``.
        """
        return self._own("video", video_id, owner)

    def tuning(self, tuning_id: str, owner: str) -> Job:
        """One's own tuning.

        Raises:
            ProblemError: 404 ``tuning_not_found``.
        """
        return self._own("tuning", tuning_id, owner)

    def _own(self, kind: Kind, job_id: str, owner: str) -> Job:
        job = self.store.get(job_id)
        if job is None or job.owner != owner or job.kind != kind:
            raise ProblemError(404, f"{kind}_not_found", f"there is no {kind} of this id; GET /v1/{kind}s lists yours")
        return job

    def finished_source(self, video_id: str, owner: str) -> Job:
        """A video that is to be edited again.

        Raises:
            ProblemError: 404 ``video_not_found``, 400 ``source_not_ready``.
        """
        job = self.video(video_id, owner)
        if job.status != "completed":
            raise ProblemError(400, "source_not_ready", f"the video is {job.status}, not completed", param="video")
        return job

    def source_of_video(self, job: Job) -> str:
        """A finished video as a clip: it is linked among the clips, under the hash of its id.

        Raises:
            ProblemError: 404 ``video_expired``.
        """
        name = hashlib.sha256(job.id.encode()).hexdigest()
        clip = self.state.clip(name)
        if not clip.exists():
            try:
                os.link(self.state.video(job.id) / "video.mp4", clip)
            except OSError as error:
                raise ProblemError(404, "video_expired", "the video's files are no longer there") from error
        return name

    def file_of(self, job: Job, variant: str) -> Path:
        """A finished job's file.

        Raises:
            ProblemError: 404 ``video_not_ready`` or ``video_expired``, 422 ``video_failed``.
        """
        if job.status == "failed":
            said = job.failure.message if job.failure is not None else ""
            raise ProblemError(422, "video_failed", f"the video failed: {said}")
        if job.status != "completed":
            raise ProblemError(404, "video_not_ready", f"the video is {job.status}; wait until it is completed")
        path = self.state.video(job.id) / variant
        if not path.is_file():
            raise ProblemError(404, "video_expired", "the video's files are no longer there")
        return path

    # --- stopping and removing ------------------------------------------------------------------------------------

    def cancel(self, job: Job) -> Job:
        """Stop a job; its record stays.

        Raises:
            ProblemError: 400 ``not_cancellable``: it is completed.
        """
        if job.status == "completed":
            raise ProblemError(400, "not_cancellable", f"the {job.kind} is completed; delete it instead")
        return self.dispatcher.cancel(job.id) or job

    def delete(self, job: Job) -> None:
        """Stop a job and remove it and its files."""
        self.store.delete(job.id)
        self.dispatcher.drop(job.id)
        self.state.forget_video(job.id)
        self._forget_clip(job.source)
        if job.kind == "video":
            self._forget_clip(hashlib.sha256(job.id.encode()).hexdigest())
        self.hub.ring_job(job.id)

    def _forget_clip(self, source: str | None) -> None:
        """Remove a clip that no job and no model has any more."""
        if source is None or source.startswith(BESIDE) or self._held[source] or self.store.needs(source):
            return
        if any(model.clip_sha256 == source for model in self.catalog.known.values()):
            return
        self.state.forget_clip(source)

    def end_streams(self) -> None:
        """The server ends: whoever listens is let go, after the events that there are."""
        self.closing = True
        self.hub.ring_all()


def warnings_of(params: Mapping[str, Any]) -> list[str]:
    """Sentences on what will not be as it was asked for."""
    words = len(params["prompt"].split())
    if words > MAX_TOKENS - 2:
        return [f"the prompt has about {words} words; what is beyond {MAX_TOKENS} tokens is cut"]
    return []
