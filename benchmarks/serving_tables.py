"""The documentation's tables of what a server sustains, and of what it survives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks import serve_chaos, serve_load
from benchmarks.doc_table import DocTable, Results
from benchmarks.result_table import Column

AFFINITY = {
    "affinity": "one server, clips grouped",
    "in order": "one server, as they came",
    "four servers": "four servers, a clip each",
}


def requests_of(measured: Mapping[str, Any]) -> Results:
    """The times of each kind of request."""
    found = measured["requests"]
    listened = measured["listeners"]
    health = f"`/healthz` with {listened['jobs']} jobs queued and {listened['listeners']} listeners"
    return {"status polls": found["polls"], "submissions": found["submissions"], health: listened["healthz"]}


def rows_of_load(measured: Mapping[str, Any]) -> Results:
    """What is neither a time of requests nor affinity."""
    return _rows(serve_load.rows_of({name: measured[name] for name in ("overhead", "listeners", "memory")}))


def rows_of_chaos(measured: Mapping[str, Any]) -> Results:
    """All that was counted."""
    return _rows(serve_chaos.rows_of(dict(measured)))


def _rows(rows: list[tuple[str, str]]) -> Results:
    return {name: {"measured": text} for name, text in rows}


LOAD, CHAOS = "tables/serve_load.json", "tables/serve_chaos.json"
SERVING_TABLES = {
    "serve-requests": DocTable(
        source=LOAD,
        first="request",
        columns=[
            Column("a second", "per_second", "{:.0f}"),
            *(Column(head, f"{head}_ms", "{:.1f} ms") for head in ("p50", "p95", "p99", "max")),
        ],
        results=requests_of,
    ),
    "serve-load": DocTable(
        source=LOAD, first="what", columns=[Column("measured", "measured", "{}")], results=rows_of_load
    ),
    "serve-affinity": DocTable(
        source=LOAD,
        first="40 jobs over 4 clips",
        columns=[
            Column("jobs per minute", "jobs_per_minute", "{:.1f}"),
            Column("swaps", "swaps", "{}"),
            Column("memory, MB", "memory_mb", "{:.0f}"),
        ],
        results="affinity",
        names=AFFINITY,
    ),
    "serve-chaos": DocTable(
        source=CHAOS, first="what", columns=[Column("measured", "measured", "{}")], results=rows_of_chaos
    ),
}
