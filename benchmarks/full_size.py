"""The whole way at Stable Diffusion 1.4's size, with random weights: seconds and peak memory of each stage.

    python -m benchmarks.full_size --work WORK --json full_size.json

Each stage runs through the public API in a process of its own, so its peak memory is its own:

``base``    write a base model of full size (5 GB on disk; once, kept in WORK)
``tune``    one tuning step on 8 frames of 256x256 pixels
``export``  the run to a bundle
``invert``  encode the clip and take one inversion step
``sample``  one sampling step with guidance (a batch of two), and decode

WORK needs 12 GB; ``--clean`` removes what was written when all is done. A stage that takes more than ``--limit-gb`` of
memory fails the benchmark.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import progress, table, write_json

ROOT = Path(__file__).resolve().parents[1]
BASE, CLIP, RUN, BUNDLE, LATENTS, RESULT = "base", "clip.mp4", "run", "bundle", "inversion.npz", "result.png"
PROMPT, EDIT = "a red square crosses a meadow", "a blue ball crosses a beach"
Details = dict[str, float]


def base(work: Path, size: str) -> Details:
    """Write the base model and the clip."""
    from benchmarks.demo_clip import render_clip
    from benchmarks.models import SIZES, write_base

    chosen = SIZES[size]
    write_base(chosen, work / BASE)
    render_clip(num_frames=chosen.num_frames, height=chosen.pixels, width=chosen.pixels).save(work / CLIP)
    return {}


def tune(work: Path, size: str) -> Details:
    """One tuning step."""
    import tav_sdk.training as training
    from benchmarks.models import SIZES

    config = training.TuneConfig(
        base=str(work / BASE),
        video=str(work / CLIP),
        prompt=PROMPT,
        out=str(work / RUN),
        num_frames=SIZES[size].num_frames,
        height=SIZES[size].pixels,
        width=SIZES[size].pixels,
        num_train_steps=1,
    )
    run = training.tune(config, overwrite=True)
    return {"step": float(run.record["seconds"])}


def export(work: Path, size: str) -> Details:
    """The run to a bundle, parity check included."""
    from tav_sdk.export import ExportOptions, export_bundle
    from tav_sdk.progress import StepProgress

    details, last = {}, time.perf_counter()

    def callback(progress: StepProgress) -> None:
        nonlocal last
        now = time.perf_counter()
        assert progress.item is not None
        details[progress.item.name], last = now - last, now

    export_bundle(work / RUN, work / BUNDLE, ExportOptions(windows=False), overwrite=True, callback=callback)
    return details


def invert(work: Path, size: str) -> Details:
    """Encode the clip, then one inversion step."""
    import numpy as np

    import tav_sdk

    details, callback = _stopwatch()
    pipeline = tav_sdk.load(work / BUNDLE)
    details["load"] = callback.lap()
    want = pipeline.manifest
    clip = tav_sdk.read_video(work / CLIP, num_frames=want.num_frames, size=(want.height, want.width))
    inversion = pipeline.invert(clip, num_inversion_steps=1, callback=callback)
    np.savez(work / LATENTS, latents=inversion.latents, source=inversion.source_latents, fps=inversion.fps)
    return details


def sample(work: Path, size: str) -> Details:
    """One sampling step with guidance, then decode."""
    import numpy as np

    import tav_sdk
    from tav_sdk.pipeline.pipeline import Inversion

    details, callback = _stopwatch()
    pipeline = tav_sdk.load(work / BUNDLE)
    details["load"] = callback.lap()
    with np.load(work / LATENTS) as arrays:
        inversion = Inversion(
            latents=arrays["latents"],
            source_latents=arrays["source"],
            fps=float(arrays["fps"]),
            prompt="",
            num_inversion_steps=1,
        )
    video = pipeline.edit(EDIT, inversion, num_inference_steps=1, guidance_scale=12.5, callback=callback)
    video.save(work / RESULT)
    return details


STAGES: dict[str, Callable[[Path, str], Details]] = {
    "base": base,
    "tune": tune,
    "export": export,
    "invert": invert,
    "sample": sample,
}


class _Stopwatch:
    """A pipeline callback that adds up the seconds of each stage; the first U-Net step includes loading its graph."""

    def __init__(self, details: Details) -> None:
        self.details, self.last = details, time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last call."""
        before, self.last = self.last, time.perf_counter()
        return self.last - before

    def __call__(self, progress: Any) -> None:
        self.details[progress.stage] = self.details.get(progress.stage, 0.0) + self.lap()


def _stopwatch() -> tuple[Details, _Stopwatch]:
    details: Details = {}
    return details, _Stopwatch(details)


def run_stage(stage: str, work: Path, size: str) -> dict[str, Any]:
    """One stage in a process of its own.

    Returns:
        ``seconds`` of wall time and ``peak_gb`` of resident memory of the whole process, and the stage's details.

    Raises:
        RuntimeError: the stage failed; its own message is on standard error.
    """
    command = [sys.executable, "-m", "benchmarks.full_size", "--work", str(work), "--size", size, "--stage", stage]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}
    )
    assert process.stdout is not None
    with process.stdout:
        output = process.stdout.read()
    # The usage of this one child, which RUSAGE_CHILDREN would merge with the others'.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"the stage {stage} ended with {process.returncode}")
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "seconds": time.perf_counter() - began,
        "peak_gb": peak_bytes / 1e9,
        "details": json.loads(output.strip().splitlines()[-1]),
    }


def _written_size(work: Path) -> str | None:
    mark = work / BASE / "size"
    return mark.read_text() if mark.is_file() and (work / CLIP).is_file() else None


def run(work: Path, *, size: str = "full", keep_base: bool = True) -> dict[str, Any]:
    """All stages in their order; a base that is there is used again."""
    work.mkdir(parents=True, exist_ok=True)
    stages: dict[str, dict[str, Any]] = {}
    for stage in STAGES:
        if stage == "base" and keep_base and _written_size(work) == size:
            progress("using the base that is there")
            continue
        stages[stage] = run_stage(stage, work, size)
        progress(f"{stage}: {stages[stage]['seconds']:.1f} s, {stages[stage]['peak_gb']:.2f} GB")
        if stage == "base":
            (work / BASE / "size").write_text(size)
    return {
        "benchmark": "full_size",
        "size": size,
        "stages": stages,
        "peak_gb": max(s["peak_gb"] for s in stages.values()),
    }


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path, metavar="DIR", help="folder to work in")
    parser.add_argument("--size", choices=("tiny", "full"), default="full", help="of the base (default: full)")
    parser.add_argument("--limit-gb", type=float, default=20.0, metavar="GB", help="memory allowed (default: 20)")
    parser.add_argument("--clean", action="store_true", help="remove the base, the run and the bundle afterwards")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    parser.add_argument("--stage", choices=tuple(STAGES), help=argparse.SUPPRESS)  # in the child process
    options = parser.parse_args(arguments)
    if options.stage:
        print(json.dumps(STAGES[options.stage](options.work, options.size)))
        return 0
    result = run(options.work, size=options.size)
    rows = [
        (
            name,
            f"{stage['seconds']:.1f}",
            f"{stage['peak_gb']:.2f}",
            ", ".join(f"{key} {seconds:.1f}" for key, seconds in stage["details"].items()),
        )
        for name, stage in result["stages"].items()
    ]
    print(table(("stage", "seconds", "peak GB", "of which"), rows))
    write_json(options.json, result, options)
    if options.clean:
        for name in (BASE, RUN, BUNDLE):
            shutil.rmtree(options.work / name, ignore_errors=True)
        for name in (CLIP, LATENTS, RESULT):
            (options.work / name).unlink(missing_ok=True)
    if result["peak_gb"] > options.limit_gb:
        progress(f"expected at most {options.limit_gb:g} GB of memory, got {result['peak_gb']:.2f}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
