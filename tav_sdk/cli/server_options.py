"""What the sub-commands that talk to a server share: its address, the token, and how jobs are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tav_sdk.cli.console import say, stages
from tav_sdk.errors import ConfigError, JobFailedError

if TYPE_CHECKING:
    from tav_sdk.client import Client, Tuning, Video
    from tav_sdk.progress import Stage

ServerOpt = Annotated[
    str | None,
    typer.Option(help="Address of tav serve.", show_default="that in TAV_SERVER, or http://127.0.0.1:8000"),
]
TokenFileOpt = Annotated[
    Path | None, typer.Option(help="File with the token and nothing else.", show_default="the token in TAV_TOKEN")
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print what the server says, as JSON.")]
JobArg = Annotated[str, typer.Argument(help="Id of a job; tav jobs lists yours.", show_default=False)]
VIDEO_SUFFIX = ".mp4"
RETRIES = 2
"""How often a request is sent again: about a second and a half, since a person waits."""


def client_of(server: str | None, token_file: Path | None) -> Client:
    """The client of the server that is meant.

    Raises:
        ConfigError: the file of the token cannot be read, or has none.
        InputError: the address or the token is none.
        MissingExtraError: the extra ``client`` is not installed.
    """
    from tav_sdk.client import Client
    from tav_sdk.reading import read_text

    token = None
    if token_file is not None:
        advice = "write the token into it, and nothing else"
        token = read_text(token_file, max_bytes=1 << 16, error=ConfigError, advice=advice).strip()
        if not token:
            raise ConfigError(f"{token_file} is empty; {advice}")
    return Client(server, token, retries=RETRIES)


def watch_job(client: Client, job_id: str, *, seen: Callable[[Any], None] | None = None) -> Video | Tuning:
    """A job when it has ended; its progress is drawn until then.

    Args:
        client: of its server.
        job_id: the job.
        seen: called with each of its states in the place of drawing.

    Raises:
        ServerError: there is no such job, or the server is away for long.
    """
    with _drawn() as draw:
        try:
            return client.wait(job_id, seen or draw)
        except JobFailedError as error:
            return error.job
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"the job goes on; see it again with: tav watch {job_id}") from None


def say_how_it_ended(job: Video | Tuning) -> int:
    """Say it; the exit code that goes with it."""
    for warning in job.warnings:
        say(warning, mark="warning:", style="yellow")
    if job.error is not None or job.status != "completed":
        reason = f": {job.error.message} ({job.error.code})" if job.error is not None else ""
        say(f"{job.id}{reason}", mark="failed", style="bold red")
        return 1
    model = job.raw.get("result_model")
    say(job.id if model is None else f"{job.id}; edit with --model {model}", mark="completed")
    return 0


def file_in(out: Path, job_id: str, *, one: bool) -> Path:
    """Where a job's video goes: ``out`` itself if that is the name of one video's file, else a file in it."""
    return out if one and out.suffix.lower() == VIDEO_SUFFIX else out / f"{job_id}{VIDEO_SUFFIX}"


@contextmanager
def _drawn() -> Iterator[Callable[[Any], None]]:
    """Yields what draws a job's states, each stage of it as a bar."""
    from tav_sdk.progress import StepProgress

    with stages() as show:
        last: StepProgress | None = None
        waits = False

        def draw(job: Any) -> None:
            nonlocal last, waits
            if job.status == "queued":
                if not waits:
                    before = {None: "", 0: "; none waits before it", 1: "; one waits before it"}
                    more = before.get(job.queue_position, f"; {job.queue_position} wait before it")
                    say(f"{job.id}{more}", mark="queued")
                waits, last = True, None
                return
            waits = False
            # The server leaves steps out where they are quick, so that a stage's last one may never be told.
            if last is not None and (job.stage != last.stage or job.status == "completed") and last.step < last.total:
                show(StepProgress(last.stage, last.total, last.total, loss=last.loss))
            if job.ended or job.stage is None or not 1 <= job.step <= job.total_steps:
                return
            step = StepProgress(cast("Stage", job.stage), job.step, job.total_steps, loss=getattr(job, "loss", None))
            if step != last:
                show(step)
            last = step

        yield draw
