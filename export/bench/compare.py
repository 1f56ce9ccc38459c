"""A measurement of a bundle against a former one."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from tav_sdk.errors import InputError
from tav_sdk.export.bench.candidates import Candidates


def check_comparable(former: Mapping[str, Any], candidates: Candidates) -> None:
    """Check that a measurement of today can be compared with a former one.

    Raises:
        InputError: the former was of another bundle, or the two have fewer than two candidates in common.
    """
    for key in ("base", "precision", "num_frames", "height", "width", "device"):
        if former["bundle"].get(key) != candidates.facts[key]:
            raise InputError(
                f"the former measurement was made on another bundle: its {key} is {former['bundle'].get(key)}, "
                f"this one's {candidates.facts[key]}"
            )
    common = [name for name in candidates.names if name in former["step"]["candidates"]]
    if len(common) < 2:
        raise InputError(
            "ratios are compared, so two candidates have to be in both measurements; in common are "
            f"{', '.join(common) or 'none'}"
        )


def changes(result: Mapping[str, Any], former: Mapping[str, Any]) -> dict[str, float]:
    """How many times slower each candidate has become than the others have, by the median of their changes.

    So files from machines of different speed, or from busy hours, can be compared. Of two, one that has become faster
    looks like one that has become slower.
    """
    now, then = (
        {name: entry["median"] for name, entry in one["step"]["candidates"].items()} for one in (result, former)
    )
    change = {name: now[name] / then[name] for name in now if name in then}
    return {
        name: own / statistics.median(other for another, other in change.items() if another != name)
        for name, own in change.items()
    }
