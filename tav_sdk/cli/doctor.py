"""``tav doctor``"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

PACKAGES = (
    "tav-sdk",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "polygraphy",
    "cuda-python",
    "av",
    "torch",
    "diffusers",
    "transformers",
    "onnx",
)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Say which engines work on this machine, and what to install for the rest.

    Prints each engine with what it can do here and why, the engine that auto takes, the GPU and its driver, versions,
    and where the caches are. Nothing is installed or changed.

    [bold]Examples[/]

      tav doctor

      tav doctor --json
    """
    facts = _facts()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    console = Console(highlight=False, emoji=False)
    table = Table(box=None, pad_edge=False)
    for column in ("engine", "runs", "builds", "what there is, and what to do"):
        table.add_column(column, overflow="fold", no_wrap=column == "engine")
    for engine in facts["engines"]:
        name = engine["engine"]
        words = (
            escape(engine["detail"]) + "." + (f" [dim]{escape(engine['fix'].rstrip('.'))}.[/]" if engine["fix"] else "")
        )
        table.add_row(name, _yes(engine["runs"]), _yes(engine["builds"]), words)
    console.print(table)
    console.print()
    plain = Table(show_header=False, box=None, pad_edge=False)
    plain.add_row("[bold]auto takes[/]", facts["auto"])
    plain.add_row("[bold]GPU[/]", escape(facts["gpu"]))
    plain.add_row("[bold]machine[/]", escape(facts["machine"]))
    plain.add_row("[bold]caches[/]", escape(facts["caches"]))
    plain.add_row("[bold]versions[/]", ", ".join(f"{name} {value}" for name, value in facts["versions"].items()))
    console.print(plain)


def _facts() -> dict[str, Any]:
    import dataclasses

    from tav_sdk.cache.limits import cache_root
    from tav_sdk.engines.select import MODULES, engine_status
    from tav_sdk.errors import TavError

    statuses = [engine_status(engine) for engine in MODULES]
    try:
        from tav_sdk.engines.trt import cuda

        gpu = str(cuda.device())
    except TavError as error:
        known = any(str(error).rstrip(".") in status.detail for status in statuses)
        gpu = "none that works" + ("" if known else f": {error}")
    return {
        "engines": [dataclasses.asdict(status) for status in statuses],
        "auto": next((status.engine for status in statuses if status.runs), "none works here"),
        "gpu": gpu,
        "machine": f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} CPU cores",
        "caches": str(cache_root()),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _yes(value: bool) -> str:
    return "[green]yes[/]" if value else "no"
