"""``tav doctor``"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from tav_sdk.cli.console import cell, screen, write_json

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


ATTENTION_ON_CUDA = (1, 25)
"""The first version of onnxruntime-gpu with a CUDA kernel of the operator Attention."""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Say which engines work on this machine, and what to install for the rest.

    Prints each engine with what it can do here and why, the engine that auto takes, the GPU and its driver, versions,
    where the caches are, and whether two packages of ONNX Runtime are in each other's way. Nothing is installed or
    changed.

    [bold]Examples[/]

      tav doctor

      tav doctor --json
    """
    facts = _facts()
    if as_json:
        write_json(facts)
        return
    console = screen()
    table = Table(box=None, pad_edge=False)
    for column in ("engine", "runs", "builds", "what there is, and what to do"):
        table.add_column(column, overflow="fold", no_wrap=column == "engine")
    for engine in facts["engines"]:
        name = engine["engine"]
        words = cell(f"{engine['detail']}.")
        if engine["fix"]:
            words += cell(f" {engine['fix'].rstrip('.')}.", "dim")
        table.add_row(cell(name), _yes(engine["runs"]), _yes(engine["builds"]), words)
    console.print(table)
    console.print()
    plain = Table(show_header=False, box=None, pad_edge=False)
    plain.add_row(cell("auto takes", "bold"), cell(facts["auto"]))
    plain.add_row(cell("GPU", "bold"), cell(facts["gpu"]))
    plain.add_row(cell("machine", "bold"), cell(facts["machine"]))
    plain.add_row(cell("caches", "bold"), cell(facts["caches"]))
    versions = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    plain.add_row(cell("versions", "bold"), cell(versions))
    console.print(plain)
    for note in facts["notes"]:
        console.print(Text.assemble(("\nnote ", "bold yellow"), cell(note)), soft_wrap=True)


def _facts() -> dict[str, Any]:
    import dataclasses

    from tav_sdk.cache.limits import cache_root
    from tav_sdk.engines.select import MODULES, engine_status
    from tav_sdk.errors import TavError

    statuses = [engine_status(engine) for engine in MODULES]
    try:
        from tav_sdk.engines.trt.engine import cuda

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
        "notes": [note for note in (_note_on_onnxruntime(),) if note],
    }


def _note_on_onnxruntime() -> str:
    """What is wrong with the packages of ONNX Runtime, two of which share one folder; empty if nothing is."""
    cpu, gpu = _version("onnxruntime"), _version("onnxruntime-gpu")
    providers = _providers()
    again = "pip install --force-reinstall --no-deps"
    if not gpu:
        if cpu and not providers:
            return (
                f"onnxruntime {cpu} is listed as installed, but cannot be used: an uninstallation of onnxruntime-gpu "
                f"may have removed its files. Put them back: {again} onnxruntime"
            )
        return ""
    names = f"onnxruntime {cpu} and onnxruntime-gpu {gpu} are both installed and fill the same folder" if cpu else ""
    if "CUDAExecutionProvider" not in providers:
        why = f"{names}; its files are not those of onnxruntime-gpu" if names else f"onnxruntime-gpu {gpu} is damaged"
        return f"{why}, so there is no CUDA. Put its files back: {again} onnxruntime-gpu"
    if tuple(int(part) for part in re.findall(r"\d+", gpu)[:2]) < ATTENTION_ON_CUDA:
        return (
            f"onnxruntime-gpu {gpu} runs every attention on the CPU: its CUDA kernel came with 1.25. "
            f'Update it: {again} "onnxruntime-gpu>=1.25"'
        )
    if names:
        return (
            f"{names}; now it holds the files of onnxruntime-gpu, which works. An update of onnxruntime overwrites "
            f"them; after one: {again} onnxruntime-gpu"
        )
    return ""


def _providers() -> list[str]:
    """What the installed ONNX Runtime can run on; nothing if it cannot be imported or is half removed."""
    from tav_sdk.engines.ort_import import import_onnxruntime

    try:
        return list(import_onnxruntime().get_available_providers())
    except (ImportError, AttributeError):
        return []


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _yes(value: bool) -> Text:
    return cell("yes", "green") if value else cell("no")
