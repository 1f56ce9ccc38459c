"""``tav verify``"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from tav_sdk.cli.console import cell, say, screen, write, write_json
from tav_sdk.cli.edit_options import EngineOpt
from tav_sdk.words import printable

if TYPE_CHECKING:
    from tav_sdk.pipeline.verify import GraphCheck


def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder written by tav export.")],
    engine: EngineOpt = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Check a bundle on this machine: every file's hash, and every graph against its float32 model's output.

    The exit code is 1 if a graph fails, and 2 if the bundle or the engine cannot be used. In the JSON a graph's
    "relative" is null where there was nothing to compare with.

    [bold]Examples[/]

      tav verify bundles/skiing

      tav verify bundles/skiing --engine onnxruntime-cpu --json
    """
    from tav_sdk.bundle.bundle import Bundle
    from tav_sdk.pipeline.verify import verify as run

    opened = Bundle(bundle)  # compares every file with its hash
    checks = run(opened, engine)
    passed = all(check.passed for check in checks)
    if as_json:
        record = {
            "bundle": str(bundle),
            "files": len(opened.manifest.files),
            "passed": passed,
            "graphs": [{key: _plain(value) for key, value in dataclasses.asdict(check).items()} for check in checks],
        }
        write_json(record)
    else:
        count = len(opened.manifest.files)
        write(f"{printable(bundle)}: {count} files are as the manifest says; graphs on {checks[0].engine}:")
        screen(width=140).print(_table(checks))
        if unknown := [check.graph for check in checks if check.passed and check.relative is None]:
            say(
                "only checked to be finite. This bundle has no output of the "
                "float32 model to compare with, since its clip was exported onto another bundle's graphs. Verify that "
                "other bundle, or this one with an --engine on a GPU, which is compared with onnxruntime-cpu",
                mark=f"{printable(', '.join(unknown))}:",
                style="yellow",
            )
    if not passed:
        failed = [f"{check.graph} ({check.precision})" for check in checks if not check.passed]
        say(
            f"{', '.join(failed)}; try another --engine, or export the bundle again with a wider --precision",
            mark="failed:",
            style="bold red",
        )
        raise typer.Exit(1)


def _table(checks: list[GraphCheck]) -> Table:
    table = Table(box=None, pad_edge=False)
    for head in ("graph", "precision", "against"):
        table.add_column(head)
    for head in ("max abs", "relative", "tolerance", "PSNR dB", "NaN or inf"):
        table.add_column(head, justify="right")
    table.add_column("result")
    for check in checks:
        numbers = (_shown(check.max_abs), _shown(check.relative), _shown(check.tolerance), _shown(check.psnr, ".1f"))
        verdict = cell("pass", "green") if check.passed else cell("FAIL", "bold red")
        if check.passed and check.relative is None:
            verdict = cell("finite", "yellow")
        names = map(cell, (check.graph, check.precision, check.against))
        table.add_row(*names, *numbers, str(check.non_finite), verdict)
    return table


def _shown(value: float | None, form: str = ".1e") -> str:
    return "-" if value is None else format(value, form)


def _plain(value: Any) -> Any:
    """JSON has neither NaN nor infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
