"""The documentation's tables of killed commands and of changed files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.doc_table import DocTable, Results
from benchmarks.result_table import Column

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")


def kills_of(measured: Mapping[str, Any]) -> Results:
    """Every command, and all together below."""
    return {**measured["commands"], "all": measured["all"]}


def formats_of(measured: Mapping[str, Any]) -> Results:
    """Every format, and all together below; a format that was not tried has no counts."""
    kinds = ("before", "now", "long")
    names = [*measured["now"]["formats"], "all"]
    found = {name: {kind: _counts(measured[kind], name) for kind in kinds if kind in measured} for name in names}
    return {name: {kind: one for kind, one in counts.items() if one["tried"]} for name, counts in found.items()}


def _counts(measured: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return measured if name == "all" else measured["formats"][name]


RELIABILITY_TABLES = {
    "chaos": DocTable(
        source="tables/chaos.json",
        first="command",
        columns=[
            *(
                Column(signal, (f"signals.{signal}.survived", f"signals.{signal}.kills"), "{} of {}")
                for signal in SIGNALS
            ),
            Column("all", ("survived", "kills"), "{} of {}"),
            Column("output there", "whole", "{}"),
            Column("gone on with", "kept", "{}"),
            Column("begun anew", "absent", "{}"),
        ],
        results=kills_of,
    ),
    "fuzz": DocTable(
        source="tables/fuzz.json",
        first="format",
        columns=[
            Column("before: tried", "before.tried", "{}"),
            Column("wrong", "before.wrong", "{}"),
            Column("now: tried", "now.tried", "{}"),
            Column("wrong", "now.wrong", "{}"),
            Column("now, longer: tried", "long.tried", "{}"),
            Column("wrong", "long.wrong", "{}"),
        ],
        results=formats_of,
    ),
}
