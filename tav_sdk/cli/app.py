"""All sub-commands under one roof; each lives in a file of its own and imports what it needs when it runs."""

from __future__ import annotations

import typer

from tav_sdk.cli import cache
from tav_sdk.cli.bench import bench
from tav_sdk.cli.build import build
from tav_sdk.cli.compare import compare
from tav_sdk.cli.console import guarded
from tav_sdk.cli.demo import demo
from tav_sdk.cli.doctor import doctor
from tav_sdk.cli.download import download
from tav_sdk.cli.edit import edit
from tav_sdk.cli.evaluate import evaluate
from tav_sdk.cli.export import export
from tav_sdk.cli.export_controlnet import export_controlnet
from tav_sdk.cli.generate import generate
from tav_sdk.cli.import_original import import_original
from tav_sdk.cli.info import info
from tav_sdk.cli.jobs import jobs
from tav_sdk.cli.plan import plan
from tav_sdk.cli.serve import serve
from tav_sdk.cli.submit import submit
from tav_sdk.cli.tiny_base import make_tiny_base
from tav_sdk.cli.tune import tune
from tav_sdk.cli.usage import Commands
from tav_sdk.cli.verify import verify
from tav_sdk.cli.watch import watch
from tav_sdk.version import __version__

app = typer.Typer(
    name="tav",
    cls=Commands,
    help="Edit videos by text with one-shot-tuned diffusion models: tune on one clip, export once, edit on an engine.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"tav-sdk {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    pass


app.command(no_args_is_help=True)(guarded(plan))
app.command(no_args_is_help=True)(guarded(tune))
app.command(no_args_is_help=True)(guarded(compare))
app.command("import-original", no_args_is_help=True)(guarded(import_original))
app.command(no_args_is_help=True)(guarded(export))
app.command("export-controlnet", no_args_is_help=True)(guarded(export_controlnet))
app.command(no_args_is_help=True)(guarded(edit))
app.command(no_args_is_help=True)(guarded(generate))
app.command(no_args_is_help=True)(guarded(evaluate))
app.command(no_args_is_help=True)(guarded(info))
app.command(no_args_is_help=True)(guarded(verify))
app.command(no_args_is_help=True)(guarded(build))
app.command(no_args_is_help=True)(guarded(bench))
app.command(no_args_is_help=True)(guarded(serve))
app.command(no_args_is_help=True)(guarded(submit))
app.command()(guarded(jobs))
app.command(no_args_is_help=True)(guarded(watch))
app.command(no_args_is_help=True)(guarded(download))
app.command()(guarded(doctor))
app.command()(guarded(demo))
app.command("make-tiny-base", no_args_is_help=True)(guarded(make_tiny_base))
app.add_typer(cache.app, name="cache")
