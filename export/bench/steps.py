"""What ``tav bench`` measures: steps of the U-Net in this process, edits each in one of their own."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import UNET
from tav_sdk.engines.select import available_engines, choose_engine, obstacle, open_engine
from tav_sdk.errors import EngineError, InputError
from tav_sdk.export.bench.edit import STAGES
from tav_sdk.export.bench.measure import interleave, progress, spread, table

if TYPE_CHECKING:
    from tav_sdk.engines.base import Engine

SDPA = "torch SDPA"
"""Of the peers, see :mod:`tav_sdk.export.bench.peers`, the one that others are held against."""
BATCH = 2
"""Videos of a step: with guidance there are two."""
SEED = 0


class Candidates:
    """What is measured on a bundle.

    Args:
        bundle: the bundle.
        engines: names of engines; by default all that run its U-Net here.
        run: the run that it was exported from, for the peers in PyTorch; without it there are none.

    Raises:
        EngineError: an engine does not work here, or not with the bundle.
        InputError: the run is of other weights or another size than the bundle.
        MissingExtraError: PyTorch is needed and not installed.
    """

    def __init__(self, bundle: Bundle, engines: Sequence[str] | None, run: Path | None) -> None:
        self.bundle, self.run = bundle, run
        graph = bundle.graph(UNET)
        if engines:
            for name in engines:
                choose_engine(name, [graph])
            self.engines = list(dict.fromkeys(engines))
        else:
            self.engines = [name for name in available_engines() if obstacle(graph, name) is None]
        if not self.engines:
            raise EngineError(f"no engine that works here runs the bundle {bundle.folder}; tav doctor says why")
        self.peers: tuple[str, ...] = ()
        self.device = "cpu"
        if run is not None:
            self._open_run(run)

    def _open_run(self, run: Path) -> None:
        from tav_sdk.training.run_folder import load_run

        self.loaded = load_run(run)
        if self.loaded.record["delta_sha256"] != self.bundle.manifest.provenance.get("delta_sha256"):
            raise InputError(f"the bundle {self.bundle.folder} was not exported from the run {run}; give that one")
        from tav_sdk.export.bench.peers import PEERS
        from tav_sdk.training.tuning import find_device

        self.peers = PEERS
        self.device = str(find_device(None))

    @property
    def names(self) -> list[str]:
        """All of them, peers first."""
        return [*self.peers, *self.engines]

    def precision_of(self, name: str) -> str:
        """What one of them computes in: engines in the bundle's precision, peers on the CPU always in float32."""
        precision = self.bundle.manifest.precision
        return "fp32" if name in self.peers and (self.device == "cpu" or precision == "int8") else precision

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What was measured, for whoever reads the numbers."""
        manifest = self.bundle.manifest
        return {
            "name": self.bundle.folder.resolve().name,
            "base": manifest.provenance["base"]["name"],
            "precision": manifest.precision,
            "num_frames": manifest.num_frames,
            "height": manifest.height,
            "width": manifest.width,
            "device": self.device,
        }

    @contextlib.contextmanager
    def unets(self) -> Iterator[dict[str, Engine]]:
        """The U-Net on every candidate, open."""
        with contextlib.ExitStack() as stack:
            opened: dict[str, Engine] = {}
            for peer in self.peers:
                from tav_sdk.export.bench.peers import peer_engines

                progress(f"opening {peer}")
                engines = peer_engines(
                    peer, self.loaded, self.bundle, device=self.device, precision=self.precision_of(peer)
                )
                opened[peer] = stack.enter_context(engines[UNET])
            for name in self.engines:
                progress(f"opening {name}")
                opened[name] = stack.enter_context(open_engine(self.bundle.graph(UNET), engine=name))
            yield opened


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
    step: dict[str, Any] = {
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
    return step


def time_edits(candidates: Candidates, video: Path, *, steps: int, rounds: int) -> dict[str, Any]:
    """Measure whole edits by every candidate, each in a fresh process, in turn.

    Returns:
        ``steps``, ``prompt``, and by candidate a list of what every round took: ``first_step``, ``stages`` and
        ``peak_bytes``.
    """
    manifest = candidates.bundle.manifest
    tuned = manifest.provenance["tuning"]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in candidates.names}
    for index in range(rounds):
        for name in candidates.names:
            task = {
                "bundle": str(candidates.bundle.folder),
                "candidate": name,
                "run": str(candidates.run) if name in candidates.peers else None,
                "device": candidates.device,
                "precision": candidates.precision_of(name),
                "video": str(video),
                "prompt": manifest.prompt,
                "steps": steps,
                "start": int(tuned["start"]),
                "stride": int(tuned["stride"]),
                "began": time.time(),
            }
            done = subprocess.run(
                [sys.executable, "-m", "tav_sdk.export.bench.worker", json.dumps(task)],
                check=False,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise EngineError(f"an edit by {name} failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            total = sum(found[name][-1]["stages"].values())
            progress(f"edit {index + 1}/{rounds}: {name} {total:.1f} s")
    return {"steps": steps, "prompt": manifest.prompt, "candidates": found}


def report_steps(result: Mapping[str, Any]) -> Iterator[str]:
    """What was measured of steps, for people: a line, a table, and the machine's floor if it is known."""
    bundle, step, machine = result["bundle"], result["step"], result["machine"]
    yield (
        f"{bundle['name']}: {bundle['base']}, {bundle['num_frames']} frames of {bundle['height']}x{bundle['width']}, "
        f"{bundle['precision']}; {machine['cpu']}, {machine['cores']} cores\n"
    )
    candidates = step["candidates"]
    yard = SDPA if SDPA in candidates else min(candidates, key=lambda name: candidates[name]["median"])
    rows = []
    for name, entry in candidates.items():
        least = (step["floors"] or {}).get(entry["precision"])
        rows.append(
            (
                name,
                f"{entry['median']:.3f}",
                f"{entry['min']:.3f}",
                f"{entry['max']:.3f}",
                f"{candidates[yard]['median'] / entry['median']:.2f}",
                "-" if least is None else f"{100 * least / entry['median']:.0f} %",
                f"{entry['difference']:.1e}",
            )
        )
    yield table(("U-Net step", "median s", "min", "max", f"times {yard}'s speed", "of the floor", "difference"), rows)
    if step["floors"] is not None:
        used = sorted({entry["precision"] for entry in candidates.values()} & step["floors"].keys())
        peaks = ", ".join(f"{step['peaks'][name] / 1e9:.0f} GFLOP/s in {name}" for name in used)
        floors = ", ".join(f"{step['floors'][name]:.3f} s in {name}" for name in used)
        yield (
            f"\nA step of {step['batch']} videos is {step['flops'] / 1e9:.0f} GFLOP and moves "
            f"{step['bytes'] / 1e9:.2f} GB; this machine does {peaks} and copies {step['bandwidth'] / 1e9:.0f} GB/s: "
            f"the floor is {floors}."
        )


def check_comparable(former: Mapping[str, Any], candidates: Candidates) -> None:
    """Check that a measurement of today can be compared with a former one.

    Raises:
        InputError: that was of another bundle, or has not two candidates in common with it.
    """
    for key in ("base", "precision", "num_frames", "height", "width", "device"):
        if former["bundle"].get(key) != candidates.facts[key]:
            raise InputError(
                f"--against was measured on another bundle: its {key} is {former['bundle'].get(key)}, this one's "
                f"{candidates.facts[key]}"
            )
    common = [name for name in candidates.names if name in former["step"]["candidates"]]
    if len(common) < 2:
        raise InputError(
            "--against compares ratios, so two candidates have to be in both measurements; in common are "
            f"{', '.join(common) or 'none'}"
        )


def changes(result: Mapping[str, Any], former: Mapping[str, Any]) -> dict[str, float]:
    """How many times slower each candidate has become than the others have, by the median of their changes.

    So files from machines of different speed, or from busy hours, can be compared. Of two, one that has become faster
    looks like one that has become slower.
    """
    now, then = (
        {name: entry["median"] for name, entry in one["step"]["candidates"].items()} for one in (result, former)
    )
    change = {name: now[name] / then[name] for name in now if name in then}
    return {
        name: own / statistics.median(other for another, other in change.items() if another != name)
        for name, own in change.items()
    }


def report_edits(edit: Mapping[str, Any]) -> str:
    """A table of whole edits: medians over the rounds, of peak memory the greatest."""
    rows = []
    for name, rounds in edit["candidates"].items():
        stages = {stage: statistics.median(one["stages"][stage] for one in rounds) for stage in STAGES}
        total = statistics.median(sum(one["stages"].values()) for one in rounds)
        rows.append(
            (
                name,
                f"{total:.1f}",
                *(f"{stages[stage]:.2f}" for stage in STAGES),
                f"{statistics.median(one['first_step'] for one in rounds):.1f}",
                f"{max(one['peak_bytes'] for one in rounds) / 1e9:.2f}",
            )
        )
    head = (f"edit, {edit['steps']} + {edit['steps']} steps", "total s", *STAGES, "first step", "peak GB")
    return table(head, rows)


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
