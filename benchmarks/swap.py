"""Another clip on the same base: its export, its swap into a running pipeline, and the memory that it takes.

    python -m benchmarks.swap --work WORK --size full --json swap.json

WORK is a folder of ``benchmarks.full_size``; what is missing in it (base, run, bundle) is made. A second run is made
by changing the first one's tuned weights. Then, each in a process of its own:

``export``  ``tav export RUN --bundle BUNDLE``: the whole command, imports included
``load``    a cold process to the first result of the U-Net
``swap``    the other clip's weights into that pipeline and back, each with a U-Net call; is the first result again
            there, bit by bit?
``share``   resident memory of a first pipeline, and what a second one on the same base adds
``inputs``  a U-Net call with the tuned weights as inputs against one of a graph that holds them as constants
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

from benchmarks import full_size, interleave, progress, spread, table, write_json
from benchmarks.full_size import BUNDLE, ROOT, RUN

OTHER_RUN, OTHER_BUNDLE, CONSTANT = "other_run", "other_bundle", "constant.onnx"
ENGINE = "onnxruntime-cpu"


def make_other_run(work: Path) -> None:
    """A second finished run: the first one's tuned weights, each a little longer."""
    from safetensors.numpy import load_file, save_file

    from tav_sdk.files import sha256_of

    folder = work / OTHER_RUN
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tuned = folder / "tuned.safetensors"
    save_file({name: tensor * 1.5 for name, tensor in load_file(work / RUN / tuned.name).items()}, tuned)
    record = json.loads((work / RUN / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"tuned_sha256": sha256_of(tuned)}))


def export(work: Path, rounds: int) -> dict[str, Any]:
    """The command, in a process of its own each time."""
    command = [sys.executable, "-m", "tav_sdk.cli", "export", str(work / OTHER_RUN), "--bundle", str(work / BUNDLE)]

    def once() -> None:
        subprocess.run([*command, "--out", str(work / OTHER_BUNDLE), "--overwrite"], check=True, capture_output=True)

    seconds = interleave({"second export": once}, rounds, warmup=0)["second export"]
    tuned = work / OTHER_BUNDLE / "unet" / "tuned.onnx_data"
    shared = [path for path in (work / OTHER_BUNDLE).rglob("*") if path.is_file() and path.stat().st_nlink > 1]
    return {
        "seconds": spread(seconds),
        "written_mb": tuned.stat().st_size / 1e6,
        "shared_mb": sum(path.stat().st_size for path in shared) / 1e6,
    }


def load(work: Path, rounds: int) -> dict[str, Any]:
    """From nothing to the U-Net's first result."""
    began = time.perf_counter()
    import tav_sdk

    pipeline = tav_sdk.load(work / BUNDLE, engine=ENGINE, verify=False)
    feeds = _feeds(pipeline)
    pipeline.unet(*feeds)
    first = time.perf_counter() - began
    again = time.perf_counter()
    pipeline.unet(*feeds)
    return {"to_first_result": first, "unet_call": time.perf_counter() - again}


def swap(work: Path, rounds: int) -> dict[str, Any]:
    """There and back."""
    import numpy as np

    import tav_sdk

    with tav_sdk.load(work / BUNDLE, engine=ENGINE, verify=False) as pipeline:
        feeds, seconds, calls = _feeds(pipeline), [], []
        first = pipeline.unet(*feeds)
        result = other = first
        for index in range(2 * rounds):
            began = time.perf_counter()
            pipeline.swap(work / (BUNDLE if index % 2 else OTHER_BUNDLE), verify=False)
            seconds.append(time.perf_counter() - began)
            began = time.perf_counter()
            result = pipeline.unet(*feeds)
            calls.append(time.perf_counter() - began)
            if index % 2 == 0:
                other = result
        return {
            "seconds": spread(seconds),
            "unet_call_after": spread(calls),
            "bit_identical": bool(np.array_equal(result, first)),
            "other_differs_by": float(np.abs(other - first).max()),
        }


def share(work: Path, rounds: int) -> dict[str, Any]:
    """Resident memory, in GB, after U-Net calls of each pipeline."""
    import tav_sdk

    before = _resident_gb()
    with tav_sdk.load(work / BUNDLE, engine=ENGINE, verify=False) as one:
        for _ in range(2):  # from its second call on, a session keeps one more block of memory
            one.unet(*_feeds(one))
        first = _resident_gb()
        with tav_sdk.load(work / OTHER_BUNDLE, engine=ENGINE, verify=False) as two:
            two.unet(*_feeds(two))
            second = _resident_gb()
    return {"process_gb": before, "first_gb": first - before, "second_gb": second - first}


def inputs(work: Path, rounds: int) -> dict[str, Any]:
    """Tuned weights as inputs against constants."""
    import dataclasses

    import onnx

    import tav_sdk
    from tav_sdk.bundle.bundle import Bundle
    from tav_sdk.bundle.layout import UNET
    from tav_sdk.engines import open_engine

    graph = Bundle(work / BUNDLE, verify=False).graph(UNET)
    model = onnx.load(graph.path, load_external_data=False)
    kept = [value for value in model.graph.input if value.name in {spec.name for spec in graph.inputs}]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    path = graph.path.with_name(CONSTANT)  # beside its weights
    try:
        onnx.save(model, path)
        constant = dataclasses.replace(graph, path=path, tuned=(), key=None)
        with (
            tav_sdk.load(work / BUNDLE, engine=ENGINE, verify=False) as pipeline,
            open_engine(constant, engine=ENGINE) as one,
        ):
            feeds = dict(zip((spec.name for spec in graph.inputs), _feeds(pipeline), strict=True))
            calls: dict[str, Callable[[], object]] = {
                "inputs": lambda: pipeline.unet(**feeds),
                "constants": lambda: one.run(feeds),
            }
            seconds = interleave(calls, rounds)
    finally:
        path.unlink(missing_ok=True)
    summary = {name: spread(values) for name, values in seconds.items()}
    return {**summary, "ratio": summary["inputs"]["median"] / summary["constants"]["median"]}


STAGES: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "export": export,
    "load": load,
    "swap": swap,
    "share": share,
    "inputs": inputs,
}


def _feeds(pipeline: Any) -> tuple[Any, Any, Any]:
    """What the U-Net takes, for one clip."""
    import numpy as np

    rng = np.random.default_rng(0)
    latents = rng.standard_normal(pipeline.manifest.latents_shape).astype(np.float32)
    spec = pipeline.manifest.graphs["unet"].inputs[2]
    return latents, np.asarray(500), rng.standard_normal((1, *spec.shape[1:])).astype(np.float32)


def _resident_gb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def run(work: Path, *, size: str, rounds: int) -> dict[str, Any]:
    """All stages, each in a process of its own."""
    work.mkdir(parents=True, exist_ok=True)
    for stage, made in (("base", full_size.BASE), ("tune", RUN), ("export", BUNDLE)):
        if not (work / made).exists():
            progress(f"making {made}")
            full_size.run_stage(stage, work, size)
    make_other_run(work)
    result: dict[str, Any] = {"benchmark": "swap", "size": size}
    for stage in STAGES:
        command = [sys.executable, "-m", "benchmarks.swap", "--work", str(work), "--rounds", str(rounds)]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        done = subprocess.run(
            [*command, "--stage", stage],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
        )
        result[stage] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def rows_of(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The result for people."""
    return [
        ("second export, whole command", f"{result['export']['seconds']['median']:.2f} s"),
        ("written, shared", f"{result['export']['written_mb']:.1f} MB, {result['export']['shared_mb']:.0f} MB"),
        ("cold process to the U-Net's first result", f"{result['load']['to_first_result']:.2f} s"),
        ("one U-Net call", f"{result['load']['unet_call']:.2f} s"),
        ("swap", f"{result['swap']['seconds']['median']:.3f} s"),
        ("U-Net call after a swap", f"{result['swap']['unet_call_after']['median']:.2f} s"),
        ("A to B to A bit-identical", "yes" if result["swap"]["bit_identical"] else "NO"),
        ("memory of the first pipeline", f"{result['share']['first_gb']:.2f} GB"),
        ("memory that a second one adds", f"{result['share']['second_gb']:.2f} GB"),
        ("U-Net call, tuned weights as inputs / constants", f"{result['inputs']['ratio']:.3f}"),
    ]


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path, metavar="DIR", help="folder to work in")
    parser.add_argument("--size", choices=("tiny", "mid", "full"), default="full", help="of the base (default: full)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of each measurement (default: 3)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    parser.add_argument("--stage", choices=tuple(STAGES), help=argparse.SUPPRESS)  # in the child process
    options = parser.parse_args(arguments)
    if options.stage:
        print(json.dumps(STAGES[options.stage](options.work, options.rounds)))
        return 0
    result = run(options.work, size=options.size, rounds=options.rounds)
    print(table(("what", "measured"), rows_of(result)))
    write_json(options.json, result, options)
    return 0 if result["swap"]["bit_identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
