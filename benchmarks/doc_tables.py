"""The tables of measurements in the documentation: which file's numbers, in which rows and columns.

A table of words and numbers that were noted by hand has no layout here: its file holds ``head`` and ``rows`` as
they stand.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.result_table import Column, table_rows, value_at

Results = Mapping[str, Mapping[str, Any]]
"""What was measured, by row."""


@dataclass(frozen=True, kw_only=True)
class DocTable:
    """A table of the documentation.

    Attributes:
        source: the file below ``benchmarks/results`` that has its numbers.
        first: head of the first column.
        columns: the others.
        results: the rows' results: where they are in the file, or a function that makes them of it.
        names: which rows, in which order, and what they are called; by default all, by their names.
        targets: rows below of what was aimed at, which nobody measured.
    """

    source: str
    first: str
    columns: Sequence[Column]
    results: str | Callable[[Mapping[str, Any]], Results] = "summary"
    names: Mapping[str, str] | None = None
    targets: Sequence[Sequence[str]] = ()

    def lines(self, measured: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
        """Head and rows."""
        found = value_at(measured, self.results) if isinstance(self.results, str) else self.results(measured)
        rows = table_rows(found, self.columns, self.names)
        return [self.first, *(column.head for column in self.columns)], rows + [list(row) for row in self.targets]


def short(value: float) -> str:
    """A small number with one digit, such as ``4e-7``."""
    return f"{value:.0e}".replace("e-0", "e-")


def scientific(value: float) -> str:
    """A small number with two digits; 0 is 0."""
    return f"{value:.1e}" if value else "0"


def columns(scores: str, form: str, **heads: str) -> list[Column]:
    """A column for each of some scores, under its own name or another."""
    return [Column(heads.get(score, score), score, form) for score in scores.split()]


# -- edits of the sample clips ---------------------------------------------------------------------------------------


POCKET_EDITS = DocTable(
    source="tables/pocket_edits.json",
    first="edits",
    columns=[
        *(Column(part, f"{part}.mean", "{:.2f}") for part in ("subject", "background", "style")),
        Column("all three", "all.mean", "{:.2f}"),
        Column("colour", "color.mean", "{:.2f}"),
        Column("trajectory, mean", "trajectory.mean", "{:.2f}"),
        Column("median", "trajectory.median", "{:.2f}"),
        Column("below 0.8", ("low_trajectory.count", "low_trajectory.of"), "{} of {}"),
    ],
    names={"subject": "subject", "background": "background", "color": "colour", "style": "style", "all": "all"},
    targets=[["wanted", "0.80", "0.80", "0.80", "", "", "", "0.90", ""]],
)

POCKET_WANTED = {"subject": 85, "background": 95, "style": 85}
POCKET_BASE = DocTable(
    source="tables/pocket_base.json",
    first="",
    columns=[Column("found", "found", "{:.3g} %"), Column("wanted", "wanted", "{} %")],
    results=lambda scores: {
        part: {"found": 100 * scores[part], "wanted": wanted} for part, wanted in POCKET_WANTED.items()
    },
)

DEMO = DocTable(
    source="tables/demo.json",
    first="edit",
    columns=[
        Column("kind", "kind", "{}"),
        *(Column(f"`{score}`", score, "{:.1f}") for score in ("clip_text", "clip_frame")),
        Column("`motion`", "motion", "{:.2f}"),
    ],
    results="edits",
)

ABLATION_NAMES = {
    "untuned": "untuned, spatial attention",
    "tuning": "tuning only",
    "sc-attn": "SC-Attn only",
    "ours": "ours: SC-Attn + temporal, tuned",
    "vdm": "VDM baseline: spatial + temporal",
    "first": "first-frame attention",
    "causal": "causal attention",
    "full": "full attention",
    "original": "original preset",
}


def ablation_scores(start: str, first: str) -> DocTable:
    """Scores of every row's edits from one start: mean and standard deviation.

    Of the trajectory the median: one edit that stands still would hide the others in a mean.
    """
    scores = ("subject", "background", "style", "all", "trajectory", "flicker", "clip_text", "clip_frame")
    return DocTable(
        source="tables/ablation.json",
        first=first,
        columns=[
            Column("trajectory (median)", ("trajectory.median", "trajectory.std"), "{:.2f} ± {:.2f}")
            if score == "trajectory"
            else Column(score, (f"{score}.mean", f"{score}.std"), "{:.2f} ± {:.2f}")
            for score in scores
        ],
        results=f"summary.{start}",
        names=ABLATION_NAMES,
    )


ABLATION_TIME = DocTable(
    source="tables/ablation.json",
    first="row",
    columns=[Column(what, f"{what}.ratio", "{:.2f}") for what in ("tuning step", "U-Net call")],
    results="costs",
    names=ABLATION_NAMES,
)

QUOTED = {score: f"`{score}`" for score in ("clip_text", "clip_frame", "background_psnr", "caption_psnr")}

INVERSION_VARIANTS = DocTable(
    source="tables/inversion_variants.json",
    first="variant",
    columns=[
        *columns("all trajectory", "{:.3f}"),
        *columns("flicker", "{:.2f}"),
        *columns("clip_text clip_frame background_psnr caption_psnr", "{:.1f}", **QUOTED),
    ],
    names={
        "none": "none (the default)",
        "negative-prompt": "`negative-prompt`",
        "direct": "`direct`",
        "direct, guided source": "direct, guided source",
        "inverted without a prompt": "inverted without a prompt",
        "none, guidance 2": "none, guidance 2",
    },
)

CONTROL_EDITS = DocTable(
    source="tables/control_edits.json",
    first="start, control scale",
    columns=[
        *columns("edges edges_subject", "{:.3f}", edges="edges agree", edges_subject="around the subject"),
        *columns("subject background style trajectory", "{:.3f}"),
        *columns("clip_text", "{:.1f}", **QUOTED),
    ],
)

FAST_EDITS = DocTable(
    source="tables/fast_edits.json",
    first="candidate",
    columns=[
        *columns("subject background style all trajectory", "{:.3f}"),
        *columns("flicker", "{:.2f}"),
        *columns("clip_text clip_frame", "{:.1f}", **QUOTED),
        Column("reconstruction, dB", "reconstruction", "{:.1f}"),
        Column("inversion, s", "inversion", "{:.2f}"),
        Column("sampling, s", "sampling", "{:.2f}"),
        Column("times faster", "times_faster", "{:.2f}"),
    ],
    names={"default": "default", "fast": "`--fast`", "bf16": "bf16", "bf16, fast": "bf16, fast"},
)

PRECISION_EDITS = DocTable(
    source="tables/precision_edits.json",
    first="precision",
    columns=[
        Column("error of the U-Net (largest, relative)", "unet_error", short),
        Column("PSNR to fp32: median", "psnr_median", "{:.1f} dB"),
        Column("least", "psnr_least", "{:.1f} dB"),
        *columns("subject background style trajectory", "{:.2f}"),
        *columns("clip_text", "{:.1f}"),
    ],
    names={name: f"`{name}`" for name in ("fp32", "fp16", "bf16", "int8")},
)


# -- long video ------------------------------------------------------------------------------------------------------


def first_and_last(edits: Results) -> Results:
    """Of each long edit: its seams, and the scores of its first and its last stretch."""
    found: dict[str, dict[str, Any]] = {}
    for label, entry in edits.items():
        found[label] = dict(entry["seams"])
        if stretches := entry.get("over_time"):
            found[label] |= {
                "first": stretches[0],
                "last": stretches[-1],
                "all": statistics.fmean(stretch["all"] for stretch in stretches),
            }
    return found


def long_edit(name: str, num_frames: int) -> DocTable:
    """Seams of a long clip's edits, and their scores over time."""

    def over(score: str, form: str) -> Column:
        head = "trajectory, first to last 16 frames" if score == "trajectory" else f"`{score}`, first to last"
        return Column(
            head.replace("`flicker`", "flicker"), (f"first.{score}", f"last.{score}"), f"{form} to {form}", ""
        )

    return DocTable(
        source="tables/long_video.json",
        first=f"edit, {num_frames} frames",
        columns=[
            Column("at seams", "at", "{:.2f}"),
            Column("elsewhere", "elsewhere", "{:.2f}"),
            Column("ratio", "ratio", "{:.2f}"),
            Column("`all`", "all", "{:.3g}", ""),
            over("trajectory", "{:.2f}"),
            over("clip_text", "{:.1f}"),
            over("clip_frame", "{:.1f}"),
            over("flicker", "{:.2f}"),
        ],
        results=lambda measured: first_and_last(measured[name]),
        names={
            "source": "source",
            "subject": "a red bus",
            "subject, windows alone": "a red bus, windows alone",
            "background": "on the beach",
            "background, windows alone": "on the beach, windows alone",
        },
    )


LONG_COST = DocTable(
    source="tables/long_video.json",
    first="frames",
    columns=[
        Column("seconds a frame", "seconds_per_frame", "{:.3f}"),
        Column("first frames after, s", "first", "{:.2f}"),
        Column("peak MB", "peak_mb", "{:.0f}"),
    ],
    results="cost",
    names={
        name: name.replace(" ", ", ")
        for name in ("8", "32", "128", "512", "32 streamed", "128 streamed", "512 streamed")
    },
)


# -- speed -----------------------------------------------------------------------------------------------------------


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


TABLES: dict[str, DocTable] = {
    "demo": DEMO,
    "pocket-base": POCKET_BASE,
    "pocket-edits": POCKET_EDITS,
    "ablation-inverted": ablation_scores("inverted", "inverted"),
    "ablation-noise": ablation_scores("noise", "noise"),
    "ablation-time": ABLATION_TIME,
    "inversion-variants": INVERSION_VARIANTS,
    "control-edits": CONTROL_EDITS,
    "fast-edits": FAST_EDITS,
    "precision-edits": PRECISION_EDITS,
    "long-to-and-fro": long_edit("to-and-fro", 128),
    "long-slow": long_edit("slow", 64),
    "long-cost": LONG_COST,
    "step-mid-fp32": unet_step("mid-fp32.json", ENGINES),
    "step-mid-bf16": unet_step("mid-bf16.json", MIXED),
    "edit-mid": whole_edit("mid-edit.json", 10),
    "edit-pocket": whole_edit("pocket-fp32.json", 25),
    "tune-step": TUNE_STEP,
    "full-size": FULL_SIZE,
    "opset": OPSET,
}
"""By the name that stands at the table's place in the documentation."""


def noted(measured: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table that was noted by hand."""
    return list(measured["head"]), [list(row) for row in measured["rows"]]
