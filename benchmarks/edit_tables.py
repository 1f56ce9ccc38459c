"""The documentation's tables of edits of the sample clips."""

from __future__ import annotations

from benchmarks.doc_table import DocTable, columns, short
from benchmarks.result_table import Column

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

    For the trajectory it is the median: one edit that stands still would hide the others in a mean.
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


EDIT_TABLES: dict[str, DocTable] = {
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
}
"""By the name that stands at the table's place in the documentation."""
