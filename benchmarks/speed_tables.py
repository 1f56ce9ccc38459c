"""The documentation's tables of seconds and memory."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.doc_table import DocTable, Results, scientific
from benchmarks.result_table import Column


def steps_of(measured: Mapping[str, Any]) -> Results:
    """A step of the U-Net by every candidate of ``tav bench``, beside torch SDPA and the floor of its precision."""
    step = measured["step"]
    sdpa = step["candidates"]["torch SDPA"]["median"]
    return {
        name: {
            **entry,
            "speed": sdpa / entry["median"],
            "floor": 100 * step["floors"][entry["precision"]] / entry["median"],
        }
        for name, entry in step["candidates"].items()
    }


def unet_step(source: str, names: Mapping[str, str]) -> DocTable:
    """A step of the U-Net on every engine."""
    return DocTable(
        source=source,
        first="U-Net step",
        columns=[
            Column("median s", "median", "{:.3f}"),
            Column("min", "min", "{:.3f}"),
            Column("max", "max", "{:.3f}"),
            Column("times SDPA's speed", "speed", "{:.2f}"),
            Column("of the floor", "floor", "{:.0f} %"),
            Column("difference", "difference", scientific),
        ],
        results=steps_of,
        names=names,
    )


def edits_timed(measured: Mapping[str, Any]) -> Results:
    """Medians of whole edits by every candidate of ``tav bench``, and the greatest peak."""
    found = {}
    for name, runs in measured["edit"]["candidates"].items():
        stages = runs[0]["stages"]
        found[name] = {
            "total": statistics.median(sum(run["stages"].values()) for run in runs),
            **{stage: statistics.median(run["stages"][stage] for run in runs) for stage in stages},
            "first_step": statistics.median(run["first_step"] for run in runs),
            "peak_gb": max(run["peak_bytes"] for run in runs) / 1e9,
        }
    return found


def whole_edit(source: str, steps: int) -> DocTable:
    """A whole edit on every engine, by stages."""
    return DocTable(
        source=source,
        first=f"edit, {steps} + {steps} steps",
        columns=[
            Column("total s", "total", "{:.1f}"),
            *(
                Column(head, head.replace("VAE", "vae"), "{:.2f}")
                for head in ("VAE encode", "inversion", "sampling", "VAE decode")
            ),
            Column("first step", "first_step", "{:.1f}"),
            Column("peak GB", "peak_gb", "{:.2f}"),
        ],
        results=edits_timed,
        names=ENGINES,
    )


ENGINES = {
    "torch, explicit products": "torch, explicit products",
    "torch SDPA": "torch SDPA",
    "torch.compile": "torch.compile",
    "openvino-cpu": "`openvino-cpu`",
    "onnxruntime-cpu": "`onnxruntime-cpu`",
}
MIXED = {
    "torch SDPA": "torch SDPA, float32",
    "torch.compile": "torch.compile, float32",
    "openvino-cpu": "`openvino-cpu`, bfloat16",
}
SPREAD = [Column("min", "min", "{:.2f}"), Column("max", "max", "{:.2f}")]

TUNE_STEP = DocTable(
    source="tables/tune_step.json",
    first="loop",
    columns=[
        Column("median s/step", "median", "{:.2f}"),
        *SPREAD,
        Column("times the SDK's", "ratio", "{:.2f}"),
    ],
    results=lambda found: {
        loop: {**times, "ratio": found["ratio"].get(loop, 1.0)} for loop, times in found["summary"].items()
    },
)

OPSET = DocTable(
    source="tables/opset.json",
    first="forward pass",
    columns=[Column("median s", "median", "{:.2f}"), *SPREAD, Column("times opset 23", "times", "{:.2f}")],
)

FULL_SIZE = DocTable(
    source="tables/full_size.json",
    first="stage",
    columns=[
        Column("seconds", "seconds", "{:.1f}"),
        Column("peak GB", "peak_gb", "{:.2f}"),
        Column("of which", "details", lambda details: ", ".join(f"{name} {s:.1f}" for name, s in details.items())),
    ],
    results="stages",
)


SPEED_TABLES: dict[str, DocTable] = {
    "step-mid-fp32": unet_step("mid-fp32.json", ENGINES),
    "step-mid-bf16": unet_step("mid-bf16.json", MIXED),
    "edit-mid": whole_edit("mid-edit.json", 10),
    "edit-pocket": whole_edit("pocket-fp32.json", 25),
    "tune-step": TUNE_STEP,
    "full-size": FULL_SIZE,
    "opset": OPSET,
}
"""By the name that stands at the table's place in the documentation."""
