"""A table of measurements in the documentation: which file's numbers, in which rows and columns."""

from __future__ import annotations

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
        results: the rows' results: where they are in the file, or a function that makes them from it.
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


def noted(measured: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table that was noted by hand."""
    return list(measured["head"]), [list(row) for row in measured["rows"]]
