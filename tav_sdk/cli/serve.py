"""``tav serve``: edits and tunings over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tav_sdk.cli.console import say


def serve(
    bundles: Annotated[
        Path | None, typer.Argument(help="Folder of bundles; a clip beside each as NAME.mp4.", show_default=False)
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Tune and export a sample clip first, and serve that.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    state: Annotated[Path, typer.Option(help="Folder of jobs, clips and videos.")] = Path("tav-state"),
    tokens: Annotated[
        Path | None, typer.Option(help="File of tokens, NAME:SHA256_OF_TOKEN a line.", show_default=False)
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Listen beyond this machine without tokens.")] = False,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Origin of another page that may call; repeatable.", show_default=False)
    ] = None,
    engine: Annotated[str, typer.Option(help="What runs the bundles, as in tav edit.")] = "auto",
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes, one for each device.")] = 1,
    max_bases: Annotated[int, typer.Option(min=1, max=16, help="Bases that a worker keeps open.")] = 1,
    default_model: Annotated[
        str | None, typer.Option(help="Model of requests that name none.", show_default=False)
    ] = None,
    no_tunings: Annotated[bool, typer.Option("--no-tunings", help="Take no tunings.")] = False,
    base: Annotated[
        list[str] | None, typer.Option(help="Base that tunings may start from; repeatable.", show_default="pocket")
    ] = None,
    max_upload_mb: Annotated[int, typer.Option(min=1, max=10_000, help="Largest upload, in MB.")] = 200,
    max_frames: Annotated[int, typer.Option(min=1, max=100_000, help="Longest video, in frames.")] = 512,
    max_queue: Annotated[int, typer.Option(min=1, max=100_000, help="Most jobs that wait.")] = 64,
    max_queue_per_token: Annotated[int, typer.Option(min=1, max=100_000, help="Most of one token.")] = 32,
    max_connections: Annotated[int, typer.Option(min=1, max=100_000, help="Most connections.")] = 1000,
    rate: Annotated[
        float | None, typer.Option(min=0.01, max=1e6, help="POSTs per minute of one token.", show_default="any")
    ] = None,
    max_attempts: Annotated[int, typer.Option(min=1, max=100, help="Times that a job is begun.")] = 3,
    cancel_grace: Annotated[float, typer.Option(min=0, max=3600, help="Seconds until a worker is killed.")] = 30,
    job_timeout: Annotated[float, typer.Option(min=1, max=1e6, help="Longest job, in seconds.")] = 3600,
    sync_timeout: Annotated[float, typer.Option(min=1, max=1e6, help="Longest wait of videos/sync.")] = 600,
    drain: Annotated[float, typer.Option(min=0, max=1e5, help="Seconds for running jobs at the end.")] = 30,
    keep_days: Annotated[float, typer.Option(min=0, max=1e5, help="Days that files are kept; 0: for ever.")] = 0,
    log_format: Annotated[str, typer.Option(help="text or json.")] = "text",
) -> None:
    """Serve edits, generations and tunings over HTTP, in the shape of OpenAI's Videos API.

    Example: tav serve bundles/

    Example: tav serve bundles/ --host 0.0.0.0 --tokens tokens.txt --workers 2 --state /var/lib/tav
    """
    from tav_sdk.errors import InputError, MissingExtraError

    try:
        from tav_sdk.server.serve import Server
    except ImportError as error:
        raise MissingExtraError("tav serve", "server", error.name or "fastapi") from error
    from tav_sdk.server.settings import ServerSettings

    if log_format not in ("text", "json"):
        raise InputError(f"--log-format must be text or json, got {log_format}")
    if demo:
        from tav_sdk.cli.serve_demo import demo_bundles

        bundles = demo_bundles(state)
    if bundles is None:
        raise InputError("name a folder of bundles, or try it with --demo")
    if not bundles.is_dir():
        raise InputError(f"{bundles} is no folder; expected a folder of bundles, as tav export writes them")
    settings = ServerSettings(
        bundles=bundles,
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
        max_upload_bytes=max_upload_mb << 20,
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
        log_format=log_format,
    )

    def started(url: str) -> None:
        say(f"serving {bundles} at {url}; stop with Ctrl-C")
        say(f'try it: curl -F prompt="a panda is skiing" {url}/v1/videos')

    Server(settings, started=started).run()
