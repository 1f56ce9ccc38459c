"""Benchmarks, run by hand: ``python -m benchmarks.NAME --help``."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tav_sdk.export.bench.measure import interleave as interleave
from tav_sdk.export.bench.measure import machine as machine
from tav_sdk.export.bench.measure import progress as progress
from tav_sdk.export.bench.measure import spread as spread
from tav_sdk.export.bench.measure import table as table
from tav_sdk.export.bench.measure import write_json as _write_json


def write_json(path: str | None, result: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Write a result with the command that made it and the machine that it was measured on, if a path was given.

    Args:
        path: the file.
        result: plain values, the ``benchmark``'s name among them.
        options: the command line's; paths are left out of the command.
    """
    words = ["python", "-m", f"benchmarks.{result['benchmark']}"]
    for name, value in vars(options).items():
        if value is None or value is False or isinstance(value, Path) or name == "json":
            continue
        given = [] if value is True else value if isinstance(value, (list, tuple)) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, given)]
    _write_json(path, {"benchmark": result["benchmark"], "command": " ".join(words), **result})
