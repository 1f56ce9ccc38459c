"""Results as tables: which numbers, under which head, with how many digits. Without any framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        head: what stands above it.
        key: where its value is in a row's result, as keys with points between; several for the places of ``form`` in
            turn.
        form: a format of :meth:`str.format`, or a function of the values.
        none: the text if a value is missing or null.
    """

    head: str
    key: str | tuple[str, ...]
    form: str | Callable[..., str] = "{:.3g}"
    none: str = "-"

    def cell(self, result: Mapping[str, Any]) -> str:
        """The text for a row's result."""
        keys = (self.key,) if isinstance(self.key, str) else self.key
        values = [value_at(result, key) for key in keys]
        if None in values:
            return self.none
        return self.form.format(*values) if isinstance(self.form, str) else self.form(*values)


def value_at(result: Any, key: str) -> Any:
    """What is at keys with points between, ``None`` if there is nothing."""
    for part in key.split("."):
        if not isinstance(result, Mapping) or part not in result:
            return None
        result = result[part]
    return result


def table_rows(
    results: Mapping[str, Mapping[str, Any]], columns: Sequence[Column], names: Mapping[str, str] | None = None
) -> list[list[str]]:
    """A row for each result, its name first.

    Args:
        results: by name.
        columns: all but the first.
        names: which results, in which order, and what they are called; by default all, by their names.
    """
    names = {name: name for name in results} if names is None else names
    return [[shown, *(column.cell(results[name]) for column in columns)] for name, shown in names.items()]
