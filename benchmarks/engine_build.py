"""Export in half precision and build for TensorRT for RTX at Stable Diffusion 1.4's size, on a machine without a GPU.

    python -m benchmarks.engine_build --work WORK --pixels 512 --json engine_build.json

WORK is a folder of ``benchmarks.full_size``; what is missing in it (base and run) is made. Weights are random. Tuned
tensors have no size of pixels in them, so the run is taken to have been tuned at ``--pixels``. Each command runs as a
user runs it, in a process of its own; its seconds and its greatest resident memory are taken when it ends.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import full_size, progress, table, write_json
from benchmarks.full_size import BASE, ROOT, RUN

RESIZED_RUN, HALF_BUNDLE, CACHE = "resized_run", "half_bundle", "cache"


def resize_run(work: Path, pixels: int) -> None:
    """The run, as if tuned at another size."""
    shutil.rmtree(work / RESIZED_RUN, ignore_errors=True)
    shutil.copytree(work / RUN, work / RESIZED_RUN)
    path = work / RESIZED_RUN / "run.json"
    record = json.loads(path.read_text())
    record["config"] |= {"height": pixels, "width": pixels}
    path.write_text(json.dumps(record))


def command(work: Path, *arguments: str) -> dict[str, float]:
    """Run ``tav`` with these arguments; its wall seconds and peak GB.

    Raises:
        RuntimeError: it failed; its own message is on standard error.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "TAV_CACHE": str(work / CACHE)}
    progress(f"tav {' '.join(arguments)}")
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "tav_sdk.cli", *arguments], env=environment, cwd=work)
    # The usage of this one child, which RUSAGE_CHILDREN would merge with the others'.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"tav {arguments[0]} ended with {process.returncode}")
    return {"seconds": time.perf_counter() - began, "peak_gb": usage.ru_maxrss * 1024 / 1e9}


def run(work: Path, *, size: str, pixels: int) -> dict[str, Any]:
    """Run the export and the build."""
    work.mkdir(parents=True, exist_ok=True)
    for stage, made in (("base", BASE), ("tune", RUN)):
        if not (work / made).exists():
            progress(f"making {made}")
            full_size.run_stage(stage, work, size)
    resize_run(work, pixels)
    shutil.rmtree(work / CACHE, ignore_errors=True)
    export = ("export", RESIZED_RUN, "--out", HALF_BUNDLE, "--base", str(work / BASE), "--precision", "fp16")
    stages = {
        "export": command(work, *export, "--no-parity", "--overwrite"),
        "build": command(work, "build", HALF_BUNDLE, "--engine", "tensorrt-rtx"),
    }
    plans = {}
    for path in sorted((work / CACHE).rglob("entry.json")):
        facts = json.loads(path.read_text())["facts"]
        plans[facts["name"]] = sum(file.stat().st_size for file in path.parent.iterdir()) / 1e6
    return {"benchmark": "engine_build", "size": size, "pixels": pixels, "stages": stages, "plans_mb": plans}


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path, metavar="DIR", help="folder to work in")
    parser.add_argument("--size", choices=("tiny", "full"), default="full", help="of the base (default: full)")
    parser.add_argument("--pixels", type=int, default=512, help="height and width (default: 512)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    options = parser.parse_args(arguments)
    result = run(options.work.absolute(), size=options.size, pixels=options.pixels)
    rows = [(name, f"{stage['seconds']:.1f}", f"{stage['peak_gb']:.2f}") for name, stage in result["stages"].items()]
    print(table(("command", "seconds", "peak GB"), rows))
    print(table(("plan", "MB"), [(name, f"{size:.0f}") for name, size in result["plans_mb"].items()]))
    write_json(options.json, result, options)


if __name__ == "__main__":
    main()
