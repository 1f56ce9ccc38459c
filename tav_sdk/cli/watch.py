"""``tav watch``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tav_sdk.cli.console import say, write_json
from tav_sdk.cli.server_options import (
    JobArg,
    JsonOpt,
    ServerOpt,
    TokenFileOpt,
    client_of,
    file_in,
    say_how_it_ended,
    watch_job,
)
from tav_sdk.errors import InputError


def watch(
    job: JobArg,
    out: Annotated[
        Path | None, typer.Option(help="Fetch the video when it is done: a file .mp4, or a folder.", show_default=False)
    ] = None,
    server: ServerOpt = None,
    token_file: TokenFileOpt = None,
    json_: JsonOpt = False,
) -> None:
    """Watch a job on a server until it has ended; exit code 0 if it is completed, 1 if it failed.

    It can be left with Ctrl-C and watched again: the job goes on. With --json: a line for each state.

    [bold]Examples[/]

      tav watch video_0123456789abcdef0123456789abcdef

      tav watch video_0123456789abcdef0123456789abcdef --out panda.mp4
    """
    if out is not None and job.startswith("tun_"):
        raise InputError("cannot be given for a tuning: it makes a model, no video", field="out")

    def seen(now: Any) -> None:
        write_json(dict(now.raw), indent=None)

    with client_of(server, token_file) as client:
        ended = watch_job(client, job, seen=seen if json_ else None)
        code = say_how_it_ended(ended)
        if code == 0 and out is not None:
            say(client.download(job, file_in(out, job, one=True)), mark="written")
    raise typer.Exit(code)
