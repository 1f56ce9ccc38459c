"""``tav download``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tav_sdk.cli.console import say
from tav_sdk.cli.server_options import JobArg, ServerOpt, TokenFileOpt, client_of
from tav_sdk.files import check_new_file


def download(
    job: JobArg,
    out: Annotated[
        Path | None, typer.Option(help="The file to write, or a folder that is there.", show_default="JOB.mp4, here")
    ] = None,
    variant: Annotated[
        str,
        typer.Option(
            help="video; thumbnail, the middle frame; spritesheet, all frames; sheet, source and edit side by side."
        ),
    ] = "video",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    server: ServerOpt = None,
    token_file: TokenFileOpt = None,
) -> None:
    """Fetch a finished video from a server.

    [bold]Examples[/]

      tav download video_0123456789abcdef0123456789abcdef --out panda.mp4

      tav download video_0123456789abcdef0123456789abcdef --variant sheet --out sheet.png
    """
    from tav_sdk.client.client import SUFFIXES

    where = Path() if out is None else out
    if where.is_dir():
        where /= f"{Path(job).name}{SUFFIXES.get(variant, '')}"
    with client_of(server, token_file) as client:
        check_new_file(where, overwrite=overwrite)
        say(client.download(job, where, variant), mark="written")  # type: ignore[arg-type]
