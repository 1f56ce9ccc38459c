"""Measuring: interleaved rounds, their spread, the machine, and tables. Without any framework."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "tensorrt-rtx",
    "numpy",
)
"""Whose versions are kept beside what was measured."""


def interleave(
    candidates: Mapping[str, Callable[[], object]], rounds: int, *, warmup: int = 1
) -> dict[str, list[float]]:
    """Wall seconds of each candidate, ``rounds`` times, one after the other in every round.

    Interleaved, so that a slow minute of the machine falls on all of them. The warm-up rounds are not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for index in range(warmup + rounds):
        for name, run in candidates.items():
            began = time.perf_counter()
            run()
            taken = time.perf_counter() - began
            progress(f"{'warm-up' if index < warmup else f'round {index - warmup + 1}/{rounds}'}: {name} {taken:.2f} s")
            if index >= warmup:
                seconds[name].append(taken)
    return seconds


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        cpu = next((value.strip() for key, value in lines.items() if key.strip() == "model name"), cpu)
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = (
        "| " + " | ".join("-" * (width - bool(place)) + ":" * bool(place) for place, width in enumerate(widths)) + " |"
    )
    return "\n".join([line(lines[0]), rule, *(line(cells) for cells in lines[1:])])


def progress(text: str) -> None:
    """A line for whoever waits; on standard error, so that a table can be piped."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def write_json(path: str | None, result: Mapping[str, Any]) -> None:
    """Write the result with the machine that it was measured on, if a path was given."""
    if path:
        Path(path).write_text(json.dumps({**result, "machine": machine()}, indent=2) + "\n", encoding="utf-8")
