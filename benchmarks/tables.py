"""Write the tables of measurements in the documentation anew, each from its file below ``benchmarks/results``.

    python -m benchmarks.tables [--check]

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``. Its numbers are in the file that its layout names
(``edit_tables.py`` and the other files of that ending), or else in ``tables/NAME.json``. With ``--check``
nothing is written: the exit code is 1 if a table differs.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.doc_table import noted
from benchmarks.edit_tables import EDIT_TABLES
from benchmarks.encoder_tables import ENCODER_TABLES
from benchmarks.long_video_tables import LONG_VIDEO_TABLES
from benchmarks.reliability_tables import RELIABILITY_TABLES
from benchmarks.serving_tables import SERVING_TABLES
from benchmarks.speed_tables import SPEED_TABLES
from tav_sdk.export.bench.measure import table

TABLES = EDIT_TABLES | ENCODER_TABLES | LONG_VIDEO_TABLES | RELIABILITY_TABLES | SERVING_TABLES | SPEED_TABLES
"""By name; a table that is not here was noted by hand, and its file holds ``head`` and ``rows`` as they stand."""
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MARKED = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n)(?P<lines>.*?)(<!-- end -->)", re.DOTALL)
WIDE = 150
"""Characters per line, above which columns are not aligned."""


def pages() -> list[Path]:
    """The documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def source_of(name: str) -> Path:
    """The file that has a table's numbers."""
    return RESULTS / (TABLES[name].source if name in TABLES else f"tables/{name}.json")


def rendered(name: str) -> str:
    """A table's Markdown.

    Raises:
        FileNotFoundError: there is no file of its numbers.
    """
    measured = json.loads(source_of(name).read_text(encoding="utf-8"))
    head, rows = TABLES[name].lines(measured) if name in TABLES else noted(measured)
    aligned = table(head, rows)
    if name in TABLES and len(aligned.splitlines()[0]) <= WIDE:
        return aligned
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(re.sub(r"  +", " ", f"| {' | '.join(line)} |") for line in lines)


def rewritten(text: str) -> str:
    """A page with all its tables as they are measured."""
    return MARKED.sub(lambda found: f"{found[1]}{rendered(found['name'])}\n{found[4]}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare")
    options = parser.parse_args(arguments)
    differ = 0
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := rewritten(text)) == text:
            continue
        differ += 1
        if options.check:
            names = [m["name"] for m in MARKED.finditer(text) if m["lines"] != rendered(m["name"]) + "\n"]
            sys.stderr.write(f"{page.relative_to(ROOT)} differs from the measurements: {', '.join(names)}\n")
        else:
            page.write_text(new, encoding="utf-8")
            sys.stderr.write(f"{page.relative_to(ROOT)} was written\n")
    return int(bool(differ) and options.check)


if __name__ == "__main__":
    sys.exit(main())
