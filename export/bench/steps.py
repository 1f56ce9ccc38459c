"""Steps of a bundle's U-Net, measured in this process, and the least that they could take on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tav_sdk.bundle.layout import UNET
from tav_sdk.export.bench.candidates import Candidates
from tav_sdk.export.bench.measure import interleave, progress, spread

BATCH = 2
"""Videos of a step: with guidance there are two."""
SEED = 0


def time_steps(candidates: Candidates, *, rounds: int) -> dict[str, Any]:
    """Measure the U-Net's step with guidance, all candidates in turn.

    Returns:
        The graph's work, the machine's speed and ``floors``, the least seconds by precision, without the extra
        ``export`` null; and by candidate seconds, their spread, precision, and the relative difference from the first
        one's result.
    """
    bundle, graph = candidates.bundle, candidates.bundle.graph(UNET)
    rng = np.random.default_rng(SEED)
    feeds = {}
    for spec in graph.inputs:
        shape = tuple(BATCH if isinstance(axis, str) else axis for axis in spec.shape)
        feeds[spec.name] = rng.standard_normal(shape).astype(spec.dtype) if spec.dtype != "int64" else np.int64(500)
    feeds = {name: np.asarray(array) for name, array in feeds.items()}
    weights, speed = bundle.weights(), _speed(candidates.device)
    with candidates.unets() as opened:

        def call(name: str) -> np.ndarray:
            given = weights if name in candidates.engines else None
            return opened[name].run(feeds, given)["out_sample"]

        results = {name: call(name) for name in opened}
        seconds = interleave({name: lambda name=name: call(name) for name in opened}, rounds)
    reference = results[candidates.names[0]]
    scale = float(np.abs(reference).max())
    return {
        "batch": BATCH,
        **_floor(graph.path, speed, candidates.device),
        "candidates": {
            name: {
                "seconds": seconds[name],
                **spread(seconds[name]),
                "precision": candidates.precision_of(name),
                "difference": float(np.abs(result - reference).max()) / scale,
            }
            for name, result in results.items()
        },
    }


def _speed(device: str) -> tuple[dict[str, float], float] | None:
    """The machine's matrix products and copies, where ONNX and PyTorch are installed."""
    try:
        from tav_sdk.export.bench.peaks import bandwidth, matmul_peak
    except ImportError:
        return None
    progress("measuring the machine")
    return matmul_peak(device), bandwidth(device)


def _floor(path: Path, before: tuple[dict[str, float], float] | None, device: str) -> dict[str, Any]:
    """The graph's work, and the machine's speed, the best of before and after the measurement."""
    after = _speed(device)
    if before is None or after is None:
        progress("without the extra export the floor is not known")
        return {"flops": None, "bytes": None, "peaks": None, "bandwidth": None, "floors": None}
    from tav_sdk.export.bench.work import count_work

    work, copied = count_work(path, {"batch": BATCH}), max(before[1], after[1])
    peaks = {name: max(peak, after[0][name]) for name, peak in before[0].items()}
    return {
        "flops": work.flops,
        "bytes": work.bytes,
        "peaks": peaks,
        "bandwidth": copied,
        "floors": {name: max(work.flops / peak, work.bytes / copied) for name, peak in peaks.items()},
    }
