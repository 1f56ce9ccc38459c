"""The documentation's tables of libx264's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.doc_table import DocTable, Results
from benchmarks.result_table import Column


def costs_of(measured: Mapping[str, Any]) -> Results:
    """Every candidate's costs, one row for a size and a candidate."""
    return {
        f"{size}, {name}": {
            **entry,
            "milliseconds": 1000 * entry["seconds"]["median"],
        }
        for size, found in measured["costs"].items()
        for name, entry in found.items()
    }


ENCODER_TABLES = {
    "encoder-files": DocTable(
        source="tables/encoder.json",
        first="clip and options",
        columns=[Column("encodings", "encodings", "{}"), Column("different files", "files", "{}")],
        results="files",
    ),
    "encoder-costs": DocTable(
        source="tables/encoder.json",
        first="clip and options",
        columns=[
            Column("bytes", "bytes", "{}"),
            Column("times", "times_bytes", "{:.2f}"),
            Column("PSNR, dB", "psnr", "{:.2f}"),
            Column("ms", "milliseconds", "{:.0f}"),
            Column("times", "times_seconds", "{:.2f}"),
        ],
        results=costs_of,
    ),
}
