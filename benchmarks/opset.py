"""Opset 18 against opset 23 for the U-Net in ONNX Runtime on the CPU, with PyTorch beside them.

    python -m benchmarks.opset --size mid --rounds 5 --json opset.json

Opset 23 keeps ``Attention``, ``GroupNormalization`` and ``Gelu`` as single operators; opset 18 unrolls them. Both
graphs are written by the SDK's own export and run by its own engine; ``torch`` is the same model with
``scaled_dot_product_attention``. The outputs are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks import interleave, progress, spread, table, write_json
from benchmarks.models import NUM_TOKENS, SIZES, Size, make_schedule, make_video_unet
from tav_sdk.engines import open_engine
from tav_sdk.export.graphs import unet_contract
from tav_sdk.export.parity import relative_difference
from tav_sdk.export.to_onnx import export_graph

OPSETS = (18, 23)


def run(size: Size, *, rounds: int, batch: int = 2) -> dict[str, Any]:
    """Measure ``rounds`` forward passes of every candidate on a batch of ``batch`` videos.

    Raises:
        RuntimeError: a graph does not compute what the model does.
    """
    model = make_video_unet(size).eval()
    contract = unet_contract(
        channels=4,
        num_frames=size.num_frames,
        height=size.latent_size,
        width=size.latent_size,
        num_tokens=NUM_TOKENS,
        text_width=size.text_width,
        num_timesteps=make_schedule().num_train_timesteps,
    )
    feeds = contract.dummy_feeds(seed=1, axis_length=batch)

    @torch.no_grad()
    def forward() -> np.ndarray:
        return model(*(torch.from_numpy(array) for array in feeds.values())).numpy()

    reference, result = forward(), {}
    candidates: dict[str, Any] = {"torch": forward}
    details: dict[str, dict[str, float]] = {}
    engines = []
    with tempfile.TemporaryDirectory() as work:
        try:
            for opset in OPSETS:
                name, folder = f"opset {opset}", Path(work, str(opset))
                folder.mkdir()
                progress(f"exporting with {name}")
                began = time.perf_counter()
                path = export_graph(model, contract, folder, opset=opset).path
                exported = time.perf_counter() - began
                engine = open_engine(contract.graph(path), engine="onnxruntime-cpu")
                engines.append(engine)
                result = engine.run(feeds)[contract.outputs[0].name]
                difference = relative_difference(result, reference)
                if not difference <= contract.tolerance:
                    raise RuntimeError(f"{name} differs from the model by {difference:.2e}")
                details[name] = {"export_seconds": exported, "relative_difference": difference}
                candidates[name] = lambda engine=engine: engine.run(feeds)
            seconds = interleave(candidates, rounds)
        finally:
            for engine in engines:
                engine.close()
    summary = {name: spread(values) for name, values in seconds.items()}
    fastest = summary["opset 23"]["median"]
    summary = {name: {**times, "times": times["median"] / fastest} for name, times in summary.items()}
    return {
        "benchmark": "opset",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "batch": batch,
        "num_frames": size.num_frames,
        "latent_size": size.latent_size,
        "graphs": details,
        "seconds": seconds,
        "summary": summary,
        "ratio": summary["opset 18"]["median"] / summary["opset 23"]["median"],
    }


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "mid"), default="mid", help="of the model (default: mid)")
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="timed passes of each candidate (default: 5)"
    )
    parser.add_argument("--batch", type=int, default=2, metavar="B", help="videos in a batch (default: 2, as guidance)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    options = parser.parse_args(arguments)
    result = run(SIZES[options.size], rounds=options.rounds, batch=options.batch)
    rows = [
        (name, *(f"{values[key]:.2f}" for key in ("median", "min", "max", "times")))
        for name, values in result["summary"].items()
    ]
    print(table(("forward pass", "median s", "min", "max", "times opset 23"), rows))
    write_json(options.json, result, options)


if __name__ == "__main__":
    main()
