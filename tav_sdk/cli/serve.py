"""``tav serve``: edits and tunings over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tav_sdk.cli.console import say
from tav_sdk.cli.edit_options import EngineOpt
from tav_sdk.cli.serve_hints import Address, hints
from tav_sdk.errors import EngineError, InputError, MissingExtraError

ACCESS, JOBS, LIMITS, WAITS = "Access", "Jobs", "Limits", "Waiting, in seconds"
_log = logging.getLogger("tav_sdk.server")


def serve(
    bundles: Annotated[
        Path | None, typer.Argument(help="Folder of bundles; a clip beside each as NAME.mp4.", show_default=False)
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Tune and export a sample clip (a minute, once), and serve that.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    state: Annotated[Path, typer.Option(help="Folder of jobs, clips and videos.")] = Path("tav-state"),
    engine: EngineOpt = "auto",
    workers: Annotated[
        int, typer.Option(help="Worker processes: one for each GPU; CPU workers share the cores out.")
    ] = 1,
    max_bases: Annotated[int, typer.Option(help="Base models that a worker keeps open.")] = 1,
    log_format: Annotated[str, typer.Option(help="text, or json: a line an event.")] = "text",
    tokens: Annotated[
        Path | None,
        typer.Option(
            help="File of tokens, a line NAME:SHA256_OF_TOKEN each.", show_default=False, rich_help_panel=ACCESS
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without tokens.", rich_help_panel=ACCESS)
    ] = False,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Origin of another page that may call, such as https://example.org; repeatable.",
            show_default=False,
            rich_help_panel=ACCESS,
        ),
    ] = None,
    default_model: Annotated[
        str | None,
        typer.Option(help="Model of requests that name none.", show_default="the only one", rich_help_panel=JOBS),
    ] = None,
    no_tunings: Annotated[bool, typer.Option("--no-tunings", help="Take no tunings.", rich_help_panel=JOBS)] = False,
    base: Annotated[
        list[str] | None,
        typer.Option(help="Base that tunings may start from; repeatable.", show_default="pocket", rich_help_panel=JOBS),
    ] = None,
    max_attempts: Annotated[
        int, typer.Option(help="Times that a job is begun if its worker dies.", rich_help_panel=JOBS)
    ] = 3,
    keep_days: Annotated[
        float, typer.Option(help="Days that videos and clips are kept; 0: for ever.", rich_help_panel=JOBS)
    ] = 0,
    max_upload_mb: Annotated[int, typer.Option(help="Largest upload, in MB.", rich_help_panel=LIMITS)] = 200,
    max_frames: Annotated[int, typer.Option(help="Longest video, in frames.", rich_help_panel=LIMITS)] = 512,
    max_queue: Annotated[int, typer.Option(help="Most jobs that wait.", rich_help_panel=LIMITS)] = 64,
    max_queue_per_token: Annotated[int, typer.Option(help="Most of one token.", rich_help_panel=LIMITS)] = 32,
    max_connections: Annotated[int, typer.Option(help="Most connections at once.", rich_help_panel=LIMITS)] = 1000,
    rate: Annotated[
        float | None,
        typer.Option(help="POSTs per minute of one token.", show_default="any", rich_help_panel=LIMITS),
    ] = None,
    job_timeout: Annotated[float, typer.Option(help="Longest job.", rich_help_panel=WAITS)] = 3600,
    sync_timeout: Annotated[float, typer.Option(help="Longest wait of videos/sync.", rich_help_panel=WAITS)] = 600,
    cancel_grace: Annotated[
        float, typer.Option(help="Until a worker that does not stop is killed.", rich_help_panel=WAITS)
    ] = 30,
    drain: Annotated[
        float, typer.Option(help="What running jobs have when the server is stopped.", rich_help_panel=WAITS)
    ] = 30,
    head_timeout: Annotated[
        float, typer.Option(help="Until the head of a request must have come.", rich_help_panel=WAITS)
    ] = 10,
    body_timeout: Annotated[float, typer.Option(help="Longest pause within a body.", rich_help_panel=WAITS)] = 30,
    keep_alive: Annotated[float, typer.Option(help="Until an idle connection is closed.", rich_help_panel=WAITS)] = 10,
) -> None:
    """Serve edits, generations and tunings over HTTP, in the shape of OpenAI's Videos API.

    Jobs are on disk before they are answered, and outlive the server. Without --tokens it listens to this machine
    alone. docs/SERVING.md says more.

    [bold]Examples[/]

      tav serve --demo

      tav serve bundles/

      tav serve bundles/ --host 0.0.0.0 --tokens tokens.txt --workers 2 --state /var/lib/tav
    """
    try:
        from tav_sdk.server.serve import Server
    except ImportError as error:
        raise MissingExtraError("tav serve", "server", (error.name or "fastapi").partition(".")[0]) from error
    from tav_sdk.engines import engine_status
    from tav_sdk.server.settings import ServerSettings

    if demo == (bundles is not None):
        raise InputError("name a folder of bundles, or try it with --demo; got " + ("both" if demo else "neither"))
    settings = ServerSettings(
        bundles=state / "demo" / "bundles" if bundles is None else bundles,
        state=state,
        host=host,
        port=port,
        tokens=tokens,
        insecure=insecure,
        allow_origins=tuple(allow_origin or ()),
        engine=engine,
        workers=workers,
        max_bases=max_bases,
        default_model=default_model,
        tunings=not no_tunings,
        bases=tuple(base or ("pocket",)),
        max_upload_bytes=_bytes(max_upload_mb),
        max_frames=max_frames,
        max_queue=max_queue,
        max_queue_per_token=max_queue_per_token,
        max_connections=max_connections,
        rate=rate,
        max_attempts=max_attempts,
        cancel_grace_s=cancel_grace,
        job_timeout_s=job_timeout,
        sync_timeout_s=sync_timeout,
        drain_s=drain,
        keep_days=keep_days,
        head_timeout_s=head_timeout,
        body_timeout_s=body_timeout,
        keep_alive_s=keep_alive,
        log_format=log_format,
    )
    if engine != "auto" and not (status := engine_status(engine)).runs:
        raise EngineError(f"the engine {engine} does not run here: {status.detail}; tav doctor says which do")
    if bundles is None:
        from tav_sdk.cli.serve_demo import demo_bundles

        bundles = demo_bundles(state)
    if not bundles.is_dir():
        raise InputError(f"{bundles} is no folder; expected a folder of bundles, as tav export writes them")
    folder = bundles

    def started(url: str, models: Sequence[Mapping[str, Any]], takes_tunings: bool) -> None:
        address = Address(
            url=url, has_tokens=tokens is not None, default_model=default_model, takes_tunings=takes_tunings
        )
        lines = [f"serving {folder} at {url}; stop with Ctrl-C", *hints(address, models, bundles=folder)]
        for line in lines:
            if log_format == "json":
                _log.info("%s", line)
            else:
                say(line)

    Server(settings, started=started).run()


def _bytes(megabytes: int) -> int:
    if not 1 <= megabytes <= 10_000:
        raise InputError(f"must be a whole number from 1 to 10000, got {megabytes}", field="max_upload_mb")
    return megabytes << 20
