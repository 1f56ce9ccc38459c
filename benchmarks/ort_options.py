"""What ONNX Runtime's options are worth for the U-Net on the CPU: speed, time to open the graph, and memory.

    python -m benchmarks.ort_options --size mid --rounds 5 --json ort_options.json

Every candidate is a session on the same exported graph. Runs are interleaved; each session is opened twice, in a
process of its own, which also tells its memory. ``optimised`` opens a graph that ONNX Runtime wrote after its
optimisations.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import interleave, progress, spread, table, write_json

ROOT = Path(__file__).resolve().parents[1]
GRAPH, OPTIMISED = "model.onnx", "optimised.onnx"
CANDIDATES = ("plain", "no arena", "no memory pattern", "one thread", "parallel", "optimised")


def session(folder: Path, candidate: str) -> Any:
    """A session with the options of a candidate."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Or the threads of the sessions that wait would take time from the one that runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = folder / GRAPH
    if candidate == "no arena":
        options.enable_cpu_mem_arena = False
    elif candidate == "no memory pattern":
        options.enable_mem_pattern = False
    elif candidate == "one thread":
        options.intra_op_num_threads = 1
    elif candidate == "parallel":
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    elif candidate == "optimised":
        path = folder / OPTIMISED
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    elif candidate == "to optimise":
        options.optimized_model_filepath = str(folder / OPTIMISED)
        name = "session.optimized_model_external_initializers_file_name"
        options.add_session_config_entry(name, "optimised.data")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def export(folder: Path, size: str) -> dict[str, Any]:
    """Write the graph, an input, and the optimised graph."""
    import numpy as np

    from benchmarks.models import NUM_TOKENS, SIZES, make_schedule, make_video_unet
    from tav_sdk.export.graphs import unet_contract
    from tav_sdk.export.to_onnx import export_graph
    from tav_sdk.training import trainable_parameters

    chosen = SIZES[size]
    model = make_video_unet(chosen).eval()
    contract = unet_contract(
        channels=4,
        num_frames=chosen.num_frames,
        height=chosen.latent_size,
        width=chosen.latent_size,
        num_tokens=NUM_TOKENS,
        text_width=chosen.text_width,
        num_timesteps=make_schedule().num_train_timesteps,
    )
    export_graph(model, contract, folder, tuned=set(trainable_parameters(model)))
    np.savez(folder / "feeds.npz", **contract.dummy_feeds(seed=1, axis_length=2))  # type: ignore[arg-type]
    session(folder, "to optimise")
    return {}


def opened(folder: Path, candidate: str) -> dict[str, float]:
    """Seconds to open, twice, and GB of peak memory after a run."""
    feeds, seconds, one = _feeds(folder), [], None
    for _ in range(2):
        began = time.perf_counter()
        one = session(folder, candidate)
        seconds.append(time.perf_counter() - began)
    assert one is not None
    one.run(None, feeds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"open": min(seconds), "peak_gb": peak}


def _feeds(folder: Path) -> dict[str, Any]:
    import numpy as np

    with np.load(folder / "feeds.npz") as arrays:
        return dict(arrays)


def _in_a_process(*arguments: str) -> Any:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "benchmarks.ort_options", *arguments]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def run(size: str, rounds: int) -> dict[str, Any]:
    """All candidates."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        progress("exporting")
        _in_a_process("--size", size, "--folder", work, "--stage", "export")
        opening = {name: _in_a_process("--folder", work, "--stage", name) for name in CANDIDATES}
        feeds, sessions = _feeds(folder), {name: session(folder, name) for name in CANDIDATES}
        calls: dict[str, Callable[[], object]] = {
            name: lambda one=one: one.run(None, feeds) for name, one in sessions.items()
        }
        seconds = interleave(calls, rounds)
    return {
        "benchmark": "ort_options",
        "size": size,
        "opening": opening,
        "seconds": seconds,
        "summary": {name: spread(values) for name, values in seconds.items()},
    }


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "mid"), default="mid", help="of the model (default: mid)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="timed passes of each (default: 5)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--stage", help=argparse.SUPPRESS)  # in the child process
    options = parser.parse_args(arguments)
    if options.stage:
        stage = options.stage
        result = export(options.folder, options.size) if stage == "export" else opened(options.folder, stage)
        print(json.dumps(result))
        return
    result = run(options.size, options.rounds)
    usual = result["summary"]["plain"]["median"]
    rows = [
        (
            name,
            f"{values['median']:.2f}",
            f"{values['median'] / usual:.2f}",
            f"{result['opening'][name]['open']:.2f}",
            f"{result['opening'][name]['peak_gb']:.2f}",
        )
        for name, values in result["summary"].items()
    ]
    print(table(("options", "median s", "times plain", "open s", "peak GB"), rows))
    write_json(options.json, result, options)


if __name__ == "__main__":
    main()
