"""A picture of what ``tav bench`` measured.

    python -m benchmarks.plot_speed benchmarks/results/*.json --out docs/images/speed.png

A panel for each file's step of the U-Net: medians, with the least and the greatest time as whiskers, and the machine's
floor as a line; and one for whole edits and their stages, where they were measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tav_sdk.export.bench.edit import STAGES
from tav_sdk.export.bench.peers import SDPA
from tav_sdk.files import new_file
from tav_sdk.output_paths import check_new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"peer": "#9aa5b1", "engine": "#2f6fb3", "floor": "#c0392b"}
STAGE_COLORS = {"inversion": "#e0a458", "sampling": "#2f6fb3", "all other": "#808080"}


def plot(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw what files of ``tav bench --json`` hold, by name, to a PNG with two panels per row."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels = [(draw_steps, name, result) for name, result in results.items()]
    panels += [(draw_edits, name, result) for name, result in results.items() if "edit" in result]
    rows = -(-len(panels) // 2)
    figure, axes = pyplot.subplots(rows, 2, figsize=(13, 2.7 * rows), squeeze=False, layout="constrained")
    for place, panel in enumerate(axes.flat):
        if place < len(panels):
            draw, name, result = panels[place]
            draw(panel, name, result)
            panel.invert_yaxis()
            panel.set_xlabel("seconds")
        else:
            panel.axis("off")
    machines = {f"{result['machine']['cpu']}, {result['machine']['cores']} cores" for result in results.values()}
    figure.suptitle("; ".join(sorted(machines)), x=0.01, ha="left", fontsize="medium")
    with new_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    pyplot.close(figure)


def draw_steps(axes: Axes, name: str, result: Mapping[str, Any]) -> None:
    """Bars of a U-Net step in the file's order, with how many times as fast as torch SDPA it is."""
    step, bundle = result["step"], result["bundle"]
    entries = step["candidates"]
    medians = [entry["median"] for entry in entries.values()]
    low = [entry["median"] - entry["min"] for entry in entries.values()]
    high = [entry["max"] - entry["median"] for entry in entries.values()]
    colors = [COLORS["peer" if name.startswith("torch") else "engine"] for name in entries]
    axes.barh(list(entries), medians, color=colors, xerr=[low, high], error_kw={"capsize": 3, "ecolor": "#444444"})
    for place, (median, entry) in enumerate(zip(medians, entries.values(), strict=True)):
        ratio = f" ({entries[SDPA]['median'] / median:.2f}x SDPA)" if SDPA in entries else ""
        axes.annotate(
            f"{median:.3g} s{ratio}", (entry["max"], place), xytext=(6, 0), textcoords="offset points", va="center"
        )
    used = {entry["precision"] for entry in entries.values()}
    for precision, style in zip(sorted(used & set(step["floors"] or {})), ("--", ":"), strict=False):
        axes.axvline(step["floors"][precision], color=COLORS["floor"], linestyle=style, label=f"floor, {precision}")
    if step["floors"]:
        axes.legend(loc="lower right", fontsize="small")
    axes.set_xlim(right=1.6 * max(entry["max"] for entry in entries.values()))
    size = f"{bundle['num_frames']}x{bundle['height']}x{bundle['width']}"
    axes.set_title(f"U-Net step, {name}: {size}, batch {step['batch']}", loc="left", fontsize="medium")


def draw_edits(axes: Axes, name: str, result: Mapping[str, Any]) -> None:
    """Stacked stages of whole edits."""
    edit = result["edit"]
    names = list(edit["candidates"])
    left = [0.0] * len(names)
    for stage, color in STAGE_COLORS.items():
        shown = [stage] if stage in STAGES else [other for other in STAGES if other not in STAGE_COLORS]
        seconds = [
            statistics.median(sum(one["stages"][part] for part in shown) for one in rounds)
            for rounds in edit["candidates"].values()
        ]
        axes.barh(names, seconds, left=left, color=color, label=stage)
        left = [before + more for before, more in zip(left, seconds, strict=True)]
    for place, total in enumerate(left):
        axes.annotate(f"{total:.3g} s", (total, place), xytext=(6, 0), textcoords="offset points", va="center")
    axes.set_xlim(right=1.45 * max(left))
    axes.legend(loc="lower right", fontsize="small")
    steps = edit["steps"]
    axes.set_title(f"whole edit, {name}: {steps} + {steps} steps", loc="left", fontsize="medium")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="what tav bench --json wrote")
    parser.add_argument("--out", type=Path, required=True, help="a .png file")
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args(arguments)
    check_new_file(options.out, overwrite=options.overwrite)
    plot({path.stem: json.loads(path.read_text(encoding="utf-8")) for path in options.results}, options.out)


if __name__ == "__main__":
    main()
