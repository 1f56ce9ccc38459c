"""Measured peak memory of every stage against what ``tav plan`` predicts.

    python -m benchmarks.memory --size mid --work WORK --json memory.json

Each stage runs through the public API in a process of its own, whose greatest resident memory is taken when it ends:

``tune``    two tuning steps: from the second on, AdamW's state is there in the forward pass
``export``  the run to a bundle, parity checks included
``build``   every graph to a plan of TensorRT for RTX, where that is installed; it needs no GPU
``invert``  encode the clip and take one inversion step
``sample``  one sampling step with guidance, and decode
``edit``    both in one process

At ``--size full``, Stable Diffusion 1.4's, WORK needs 12 GB of disk, and the machine 13 GB of free memory. On the CPU
only: what is planned for a GPU is not measured here. Numbers hold for one thread (``OMP_NUM_THREADS=1``), glibc, Linux.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# The parent imports no framework: a child's greatest memory would begin at the parent's.
from benchmarks import progress, table, write_json
from benchmarks.full_size import BASE, BUNDLE, CLIP, EDIT, LATENTS, PROMPT, ROOT, RUN

PLAN_FILE = "graph.plan"
LIMIT = 0.15
"""How far a prediction may be from its measurement."""


def base(work: Path, options: argparse.Namespace) -> None:
    """Write the base model."""
    from benchmarks.models import SIZES, write_base

    write_base(SIZES[options.size], work / BASE)


def plan(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What is predicted."""
    from tav_sdk.training import plan_memory

    frames, pixels = _shape(options)
    return plan_memory(
        work / BASE,
        num_frames=frames,
        height=pixels,
        width=pixels,
        precision=options.precision,
        mixed_precision=options.mixed_precision,
        gradient_checkpointing=options.gradient_checkpointing,
        device="cpu",
    ).to_dict()


def tune(work: Path, options: argparse.Namespace) -> None:
    """Two tuning steps on a clip that is rendered here."""
    import tav_sdk.training as training
    from benchmarks.demo_clip import render_clip

    frames, pixels = _shape(options)
    render_clip(num_frames=frames, height=pixels, width=pixels).save(work / CLIP)
    config = training.TuneConfig(
        base=str(work / BASE),
        video=str(work / CLIP),
        prompt=PROMPT,
        out=str(work / RUN),
        num_frames=frames,
        height=pixels,
        width=pixels,
        num_train_steps=options.steps,
        mixed_precision=options.mixed_precision,
        gradient_checkpointing=options.gradient_checkpointing,
    )
    training.tune(config, overwrite=True, device="cpu")


def export(work: Path, options: argparse.Namespace) -> None:
    """The run to a bundle."""
    from tav_sdk.export import ExportOptions, export_bundle

    how = ExportOptions(precision=options.precision, windows=False)
    export_bundle(work / RUN, work / BUNDLE, how, overwrite=True)


def build(work: Path, options: argparse.Namespace) -> None:
    """Each graph to a plan."""
    from tav_sdk.bundle.bundle import Bundle
    from tav_sdk.bundle.layout import GRAPHS
    from tav_sdk.engines.trt.build import build_plan

    bundle = Bundle(work / BUNDLE, verify=False)
    for graph in GRAPHS:
        build_plan(bundle.graph(graph), work / PLAN_FILE, engine="tensorrt-rtx")
    (work / PLAN_FILE).unlink()


def invert(work: Path, options: argparse.Namespace) -> None:
    """Encode the clip, then one inversion step."""
    import numpy as np

    with _pipeline(work) as pipeline:
        inversion = pipeline.invert(_clip(work, pipeline), num_inversion_steps=1)
    np.savez(work / LATENTS, latents=inversion.latents, source=inversion.source_latents, fps=inversion.fps)


def sample(work: Path, options: argparse.Namespace) -> None:
    """One sampling step with guidance, then decode."""
    import numpy as np

    from tav_sdk.diffusion.inversion import Inversion

    with np.load(work / LATENTS) as arrays:
        latents, source, fps = (arrays[name] for name in ("latents", "source", "fps"))
    inversion = Inversion(latents=latents, source_latents=source, fps=float(fps), prompt="", num_inversion_steps=1)
    with _pipeline(work) as pipeline:
        pipeline.edit(EDIT, inversion, num_inference_steps=1, guidance_scale=12.5)


def edit(work: Path, options: argparse.Namespace) -> None:
    """One step of each, one after the other."""
    with _pipeline(work) as pipeline:
        inversion = pipeline.invert(_clip(work, pipeline), num_inversion_steps=1)
        pipeline.edit(EDIT, inversion, num_inference_steps=1, guidance_scale=12.5)


def _pipeline(work: Path) -> Any:
    import tav_sdk

    return tav_sdk.load(work / BUNDLE, cache=False)  # an inversion of a former run would be taken


def _clip(work: Path, pipeline: Any) -> Any:
    import tav_sdk

    want = pipeline.manifest
    return tav_sdk.read_video(work / CLIP, num_frames=want.num_frames, size=(want.height, want.width))


STAGES: dict[str, Callable[[Path, argparse.Namespace], Any]] = {
    "tune": tune,
    "export": export,
    "build": build,
    "invert": invert,
    "sample": sample,
    "edit": edit,
}
RUNNABLE = {"base": base, "plan": plan, **STAGES}


def _shape(options: argparse.Namespace) -> tuple[int, int]:
    """Frames, and pixels along a side."""
    from benchmarks.models import SIZES

    size = SIZES[options.size]
    return options.frames or size.num_frames, options.pixels or size.pixels


def run_stage(stage: str, arguments: list[str]) -> tuple[int, Any]:
    """One stage in a process of its own: its peak of resident memory in bytes, and what it returned.

    Raises:
        RuntimeError: the stage failed; its own message is on standard error.
    """
    command = [sys.executable, "-m", "benchmarks.memory", *arguments, "--stage", stage]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "POLYGRAPHY_USE_TENSORRT_RTX": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    assert process.stdout is not None
    with process.stdout:
        output = process.stdout.read()
    # The usage of this one child, which RUSAGE_CHILDREN would merge with the others'.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"the stage {stage} ended with {process.returncode}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), json.loads(output.strip().splitlines()[-1])


def _arguments(options: argparse.Namespace) -> list[str]:
    """What a child needs of the parent's options."""
    given = ["--work", str(options.work.resolve()), "--size", options.size, "--precision", options.precision]
    given += ["--steps", str(options.steps)]
    for name in ("frames", "pixels", "mixed_precision"):
        if getattr(options, name) is not None:
            given += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    return given + ["--gradient-checkpointing"] * options.gradient_checkpointing


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Predict, then measure every stage; a base that is there is used again."""
    options.work.mkdir(parents=True, exist_ok=True)
    arguments, mark = _arguments(options), options.work / BASE / "size"
    if not (mark.is_file() and mark.read_text() == options.size):
        run_stage("base", arguments)
        mark.write_text(options.size)
    planning, planned = run_stage("plan", arguments)
    predicted = {stage["stage"]: stage for stage in planned["stages"]}
    stages: dict[str, dict[str, Any]] = {}
    for stage in options.stages or STAGES:
        if stage not in predicted or (stage == "build" and importlib.util.find_spec("tensorrt_rtx") is None):
            progress(f"{stage}: left out, it does not run here")
            continue
        measured, _ = run_stage(stage, arguments)
        ratio = predicted[stage]["peak"] / measured
        stages[stage] = {"predicted": predicted[stage], "measured": measured, "ratio": ratio}
        progress(f"{stage}: predicted {predicted[stage]['peak'] / 1e9:.2f} GB, measured {measured / 1e9:.2f} GB")
    return {
        "benchmark": "memory",
        "size": options.size,
        "precision": options.precision,
        "mixed_precision": planned["mixed_precision"],
        "gradient_checkpointing": options.gradient_checkpointing,
        "num_frames": planned["num_frames"],
        "height": planned["height"],
        "width": planned["width"],
        "planning_peak": planning,
        "stages": stages,
    }


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 if a prediction was too far off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path, metavar="DIR", help="folder to work in")
    parser.add_argument("--size", choices=("tiny", "mid", "full"), default="mid", help="of the models (default: mid)")
    parser.add_argument("--frames", type=int, metavar="N", help="of the clip (default: the size's)")
    parser.add_argument("--pixels", type=int, metavar="N", help="height and width (default: the size's)")
    parser.add_argument("--steps", type=int, default=2, metavar="N", help="tuning steps (default: 2)")
    parser.add_argument("--precision", default="fp32", help="of the bundle (default: fp32)")
    parser.add_argument("--mixed-precision", help="of tuning (default: no)")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="in tuning")
    parser.add_argument("--stages", nargs="+", choices=tuple(STAGES), help="only these (default: all)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    parser.add_argument("--stage", choices=tuple(RUNNABLE), help=argparse.SUPPRESS)  # in the child process
    options = parser.parse_args(arguments)
    if options.stage:
        print(json.dumps(RUNNABLE[options.stage](options.work, options)))
        return 0
    result = run(options)
    rows = [
        (name, f"{stage['predicted']['peak'] / 1e9:.2f}", f"{stage['measured'] / 1e9:.2f}", f"{stage['ratio']:.2f}")
        for name, stage in result["stages"].items()
    ]
    print(table(("stage", "predicted GB", "measured GB", "ratio"), rows))
    write_json(options.json, result, options)
    far = [name for name, stage in result["stages"].items() if abs(stage["ratio"] - 1) > LIMIT]
    if far:
        progress(f"expected predictions within {LIMIT:.0%} of what is measured; further off: {', '.join(far)}")
    return int(bool(far))


if __name__ == "__main__":
    sys.exit(main())
