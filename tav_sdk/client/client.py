"""The client of a server: what can be asked of it, one method each."""

from __future__ import annotations

import builtins
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from tav_sdk.client.event_stream import ALL, events
from tav_sdk.client.follow import follow
from tav_sdk.client.objects import Event, Model, Tuning, Video, id_of, path_of, read_job
from tav_sdk.client.settings import clip_of, fields_of, tuning_fields_of
from tav_sdk.errors import CancelledError, InputError, JobFailedError, ServerError
from tav_sdk.files import new_file
from tav_sdk.words import brief

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tav_sdk.client.settings import TuningSettings, VideoSettings

DEFAULT_SERVER = "http://127.0.0.1:8000"
SERVER, TOKEN = "TAV_SERVER", "TAV_TOKEN"
"""Environment variables: the server's address and the token, where none is given."""
SUFFIXES = {"video": ".mp4", "thumbnail": ".webp", "spritesheet": ".webp", "sheet": ".png"}
"""The files of a finished video, and how their names end."""
PAGE = 100

Variant = Literal["video", "thumbnail", "spritesheet", "sheet"]
JobT = TypeVar("JobT", Video, Tuning)
Callback = Callable[[Any], "bool | None"]
"""Called with the job as it is now; returning ``False`` cancels it, anything else lets it go on."""


class Client:
    """A server's clients share nothing but the address; threads may share a client.

    Every request is sent again, up to ``retries`` times, after a broken connection and when the server is full or
    restarts (429, 502, 503, 504; ``Retry-After`` is obeyed). Each ``POST`` has an ``Idempotency-Key``, so that a
    request that is sent again makes no second job.

    Args:
        base_url: the server's address, by default that in ``TAV_SERVER``, or ``http://127.0.0.1:8000``.
        token: by default that in ``TAV_TOKEN``; a server without tokens needs none.
        timeout: longest wait for an answer, in seconds; not for a job.
        retries: how often a request is sent again.
        transport: what sends requests, an ``httpx2.BaseTransport``; by default the network.

    Raises:
        InputError: the address or the token is none.
        MissingExtraError: the extra ``client`` is not installed.

    All methods raise:
        ServerError: the server refused; ``status``, ``code``, ``param`` and ``message`` say why.
        ServerUnreachableError: it did not answer.
        InputError: an argument cannot be sent.
    """

    def __init__(
        self,
        base_url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 4,
        transport: Any = None,
    ) -> None:
        if not timeout > 0:
            raise InputError(f"must be above 0, in seconds, got {brief(timeout)}", field="timeout")
        if retries < 0:
            raise InputError(f"must be at least 0, got {brief(retries)}", field="retries")
        from tav_sdk.client.connection import Connection  # it is what needs the extra

        self._connection = Connection(
            base_url or os.environ.get(SERVER) or DEFAULT_SERVER,
            token or os.environ.get(TOKEN) or None,
            timeout=timeout,
            retries=retries,
            transport=transport,
        )

    @property
    def base_url(self) -> str:
        """The server's address."""
        return self._connection.url

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; jobs go on."""
        self._connection.close()

    # --- jobs are made --------------------------------------------------------------------------------------------

    def create(
        self,
        prompt: str,
        video: str | Path | Video | None = None,
        model: str | None = None,
        **settings: Unpack[VideoSettings],
    ) -> Video:
        """Queue an edit or a generation.

        Args:
            prompt: what the new video shows.
            video: the clip to edit: a file, or a finished video on the server; by default the model's own clip.
            model: id of the model; may be left out where the server has one or a default.
            settings: see :class:`~.settings.VideoSettings`.

        Raises:
            VideoNotFoundError, VideoError: the file is not there, or is none.
        """
        clip = None if video is None else clip_of(video)
        fields = fields_of(settings, prompt=prompt, model=model)
        if isinstance(clip, Path):
            return Video.read(self._connection.ask("POST", "/v1/videos", fields=fields, file=("input_reference", clip)))
        if clip is None:
            return Video.read(self._connection.ask("POST", "/v1/videos", fields=fields))
        return Video.read(self._connection.ask("POST", "/v1/videos/edits", fields={**fields, "video": {"id": clip}}))

    def remix(self, video: str | Video, prompt: str, **settings: Unpack[VideoSettings]) -> Video:
        """Queue a video with the source and the settings of another one, and a new prompt.

        Args:
            video: the other one.
            prompt: what the new video shows.
            settings: those that are to differ.
        """
        fields = fields_of(settings, prompt=prompt)
        return Video.read(self._connection.ask("POST", f"{path_of(id_of(video))}/remix", fields=fields))

    def tune(
        self, video: str | Path, prompt: str, model: str | None = None, **settings: Unpack[TuningSettings]
    ) -> Tuning:
        """Queue a tuning on a clip, which makes a model.

        Args:
            video: the clip's file.
            prompt: its caption.
            model: the model's id; the server makes one up if there is none.
            settings: see :class:`~.settings.TuningSettings`.

        Raises:
            VideoNotFoundError, VideoError: the file is not there, or is none.
        """
        clip = clip_of(Path(video))
        assert isinstance(clip, Path)  # noqa: S101
        fields = tuning_fields_of(settings, prompt=prompt, model=model)
        return Tuning.read(self._connection.ask("POST", "/v1/tunings", fields=fields, file=("video", clip)))

    # --- jobs are followed ----------------------------------------------------------------------------------------

    @overload
    def wait(self, job: JobT, callback: Callback | None = ..., *, timeout: float | None = ...) -> JobT: ...
    @overload
    def wait(self, job: str, callback: Callback | None = ..., *, timeout: float | None = ...) -> Video | Tuning: ...
    def wait(
        self, job: str | Video | Tuning, callback: Callback | None = None, *, timeout: float | None = None
    ) -> Video | Tuning:
        """Wait until a job has ended; the server may be restarted meanwhile.

        Args:
            job: the job.
            callback: see :data:`Callback`.
            timeout: longest wait, in seconds; by default none.

        Returns:
            The job, completed.

        Raises:
            JobFailedError: it failed, or was cancelled.
            CancelledError: the callback returned ``False``; the job is cancelled.
            ServerError: also ``code="wait_timeout"``: the time is over; the job goes on.
        """
        with contextlib.closing(follow(self._connection, id_of(job), timeout=timeout)) as states:
            for now in states:
                if now.ended:
                    if callback is not None:
                        callback(now)
                    return _completed(now)
                if callback is not None and callback(now) is False:
                    self._cancel_if_it_runs(now)
                    raise CancelledError(f"{now.id} was cancelled at {now.progress} percent")
        raise ServerError(f"{job} was not seen to its end; ask for it again")

    def events(self, job: str | Video | Tuning | None = None, *, after: int | None = None) -> Iterator[Event]:
        """What happens to a job, from its first event until it has ended; a broken stream goes on where it broke.

        Args:
            job: the job; ``None``: all of yours, from now on and without end.
            after: ``id`` of the last event that is known; the next one is the first then.
        """
        path = ALL if job is None else f"{path_of(id_of(job))}/events"
        with contextlib.closing(events(self._connection, path, after=after)) as found:
            yield from (event for event in found if event is not None)

    def get(self, job: str | Video | Tuning) -> Video | Tuning:
        """A job as it is now; its kind is in its id."""
        return read_job(self._connection.ask("GET", path_of(id_of(job))))

    @overload
    def list(self, kind: Literal["video"] = ..., *, limit: int | None = ...) -> builtins.list[Video]: ...
    @overload
    def list(self, kind: Literal["tuning"], *, limit: int | None = ...) -> builtins.list[Tuning]: ...
    def list(self, kind: str = "video", *, limit: int | None = 20) -> builtins.list[Any]:
        """Your jobs of a kind, the newest first.

        Args:
            kind: ``video`` or ``tuning``.
            limit: how many at most; ``None``: all.
        """
        if kind not in ("video", "tuning"):
            raise InputError(f"must be video or tuning, got {brief(kind)}", field="kind")
        if limit is not None and limit < 1:
            raise InputError(f"must be at least 1, got {brief(limit)}", field="limit")
        found: builtins.list[Video | Tuning] = []
        query: dict[str, Any] = {}
        while True:
            query["limit"] = PAGE if limit is None else min(PAGE, limit - len(found))
            page = self._connection.ask("GET", f"/v1/{kind}s", query=query)
            jobs = [read_job(one) for one in page.get("data") or ()]
            found += jobs
            if not jobs or not page.get("has_more") or len(found) == limit:
                return found
            query["after"] = jobs[-1].id

    # --- jobs end -------------------------------------------------------------------------------------------------

    def cancel(self, job: str | Video | Tuning) -> Video | Tuning:
        """Stop a job; its record stays.

        Raises:
            ServerError: also ``code="not_cancellable"``: it is completed.
        """
        return read_job(self._connection.ask("POST", f"{path_of(id_of(job))}/cancel"))

    def delete(self, job: str | Video | Tuning) -> None:
        """Stop a job, and remove its record and its files; it may be gone already."""
        try:
            self._connection.ask("DELETE", path_of(id_of(job)))
        except ServerError as error:
            if error.code not in ("video_not_found", "tuning_not_found"):
                raise

    def download(self, job: str | Video, path: str | Path, variant: Variant = "video") -> Path:
        """Fetch a file of a finished video; one that is there is replaced when the new one is whole.

        Args:
            job: the video.
            path: the file to write, or a folder for ``ID.mp4``; folders that are missing are made.
            variant: ``video`` (mp4), ``thumbnail`` (the middle frame, WebP), ``spritesheet`` (all frames, WebP) or
                ``sheet`` (source and edit side by side, PNG).

        Returns:
            The file.

        Raises:
            ServerError: also ``code="video_not_ready"`` and ``"video_failed"``.
            OutputError: the file cannot be written.
        """
        job_id = id_of(job)
        if variant not in SUFFIXES:
            raise InputError(f"must be one of {', '.join(SUFFIXES)}, got {brief(variant)}", field="variant")
        if not job_id.startswith("video_"):
            raise InputError(f"must be a video's, got {job_id}; a tuning makes a model, edit with that", field="job")
        is_folder = os.path.isdir(path) or str(path).endswith(("/", os.sep))
        out = Path(path) / f"{job_id}{SUFFIXES[variant]}" if is_folder else Path(path)
        with new_file(out) as temporary:

            def once() -> None:
                where = f"{path_of(job_id)}/content"
                with (
                    self._connection.stream(where, query={"variant": variant}) as response,
                    temporary.open("wb") as file,
                ):
                    for part in response.iter_bytes():
                        file.write(part)

            self._connection.tried(once)
        return out

    # --- models ---------------------------------------------------------------------------------------------------

    def models(self) -> builtins.list[Model]:
        """The models that can be edited with."""
        return [Model.read(one) for one in self._connection.ask("GET", "/v1/models").get("data") or ()]

    def delete_model(self, model: str | Model) -> None:
        """Remove a model that a tuning of yours made."""
        name = model if isinstance(model, str) else model.id
        if "/" in name or name in ("", ".", ".."):
            raise InputError(f"must be a model's id, got {brief(name)}", field="model")
        from urllib.parse import quote

        self._connection.ask("DELETE", f"/v1/models/{quote(name, safe='')}")

    def _cancel_if_it_runs(self, job: Video | Tuning) -> None:
        try:
            self.cancel(job)
        except ServerError as error:
            if error.code != "not_cancellable":  # it has ended in between
                raise


def _completed(job: Video | Tuning) -> Video | Tuning:
    """A job that has ended.

    Raises:
        JobFailedError: it failed.
    """
    if job.status == "completed":
        return job
    error = job.error
    message = "the server does not say why" if error is None else error.message
    raise JobFailedError(f"{job.id} failed: {message}", code=None if error is None else error.code, job=job)
