"""The documentation's tables of long videos."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.doc_table import DocTable, Results
from benchmarks.result_table import Column


def first_and_last(edits: Results) -> Results:
    """The seams of each long edit, and the scores of its first and its last stretch."""
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


LONG_VIDEO_TABLES: dict[str, DocTable] = {
    "long-to-and-fro": long_edit("to-and-fro", 128),
    "long-slow": long_edit("slow", 64),
    "long-cost": LONG_COST,
}
"""By the name that stands at the table's place in the documentation."""
