"""``tav jobs``"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from tav_sdk.cli.console import cell, say, screen, write_json
from tav_sdk.cli.server_options import JsonOpt, ServerOpt, TokenFileOpt, client_of
from tav_sdk.errors import InputError

if TYPE_CHECKING:
    from tav_sdk.client import Tuning, Video

KINDS = ("video", "tuning")
_STYLES = {"completed": "green", "failed": "red", "in_progress": "cyan"}
_LONGEST_PROMPT = 60


def jobs(
    kind: Annotated[str | None, typer.Option(help="video or tuning.", show_default="both")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 20,
    server: ServerOpt = None,
    token_file: TokenFileOpt = None,
    json_: JsonOpt = False,
) -> None:
    """List your jobs on a server, the newest first.

    [bold]Examples[/]

      tav jobs

      tav jobs --kind tuning --server https://videos.example.org

      tav jobs --json
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"must be video or tuning, got {kind}", field="kind")
    with client_of(server, token_file) as client:
        found: list[Video | Tuning] = []
        if kind != "tuning":
            found += client.list("video", limit=limit)
        if kind != "video":
            found += client.list("tuning", limit=limit)
    found.sort(key=lambda job: job.created_at or 0, reverse=True)
    found = found[:limit]
    if json_:
        write_json([dict(job.raw) for job in found])
        return
    if not found:
        say("there are no jobs yet; send one with tav submit")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("job", "status", "model", "prompt", "made"):
        table.add_column(name, overflow="fold", no_wrap=name in ("job", "status"))
    for job in found:
        prompt = job.prompt if len(job.prompt) <= _LONGEST_PROMPT else f"{job.prompt[:_LONGEST_PROMPT]}..."
        status = cell(_status(job), _STYLES.get(job.status, ""))
        table.add_row(cell(job.id), status, cell(job.model), cell(prompt), cell(_ago(job.created_at)))
    screen(soft_wrap=False).print(table)


def _status(job: Video | Tuning) -> str:
    if job.status == "failed" and job.error is not None:
        return job.error.code
    if job.status == "in_progress":
        return f"{job.stage or 'begun'}, {job.progress}%"
    if job.status == "queued" and job.queue_position is not None:
        return f"queued, {job.queue_position} before"
    return job.status


def _ago(then: int | None) -> str:
    if then is None:
        return "-"
    seconds = time.time() - then
    for name, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {name}{'s' * (number > 1)} ago"
    return "just now"
