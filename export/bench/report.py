"""What was measured on a bundle, for people."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from tav_sdk.export.bench.edit import STAGES
from tav_sdk.export.bench.measure import table

SDPA = "torch SDPA"
"""The one of the peers, see :mod:`tav_sdk.export.bench.peers`, that others are held against."""


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
