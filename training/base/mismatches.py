"""Long lists in messages: what does not fit, one thing per line. Without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 10
"""Lines of a list; what comes after them is counted."""


def listed(problems: Sequence[str]) -> str:
    """The first ten of a list, one per line, indented, and how many more there are; begins and ends with a newline."""
    lines = list(problems[:SHOWN])
    if len(problems) > SHOWN:
        lines.append(f"and {len(problems) - SHOWN} more")
    return "".join(f"\n  {line}" for line in lines) + "\n"
