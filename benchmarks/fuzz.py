"""Changed files of every format, tried on two checkouts: how many were read wrongly before, and how many now.

    python -m benchmarks.fuzz --before CHECKOUT --examples 60 --long 15 --json fuzz.json

Runs ``tests.fuzz``, which says when a case is wrong, once on either checkout with the same seeds, and then for some
minutes on this one. Each checkout makes the valid files itself; formats that the other does not read are left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import table, write_json

ROOT = Path(__file__).resolve().parents[1]


def tried(*words: str) -> dict[str, Any]:
    """What ``tests.fuzz`` says, run with some arguments.

    Raises:
        RuntimeError: it ended without a result.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fuzz.json")
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz", *words, "--json", str(path)], cwd=ROOT, check=False, text=True
        )
        if not path.is_file():
            raise RuntimeError(f"tests.fuzz {' '.join(words)} ended with {done.returncode} and no result")
        return json.loads(path.read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, metavar="CHECKOUT", help="of an older version")
    parser.add_argument("--examples", type=int, default=60, help="cases of each format (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other cases (default: 0)")
    parser.add_argument("--long", type=float, default=0, metavar="MINUTES", help="and so long on this one alone")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    options = parser.parse_args(arguments)
    short = ("--examples", str(options.examples), "--seed", str(options.seed), "--minutes", "60")
    before = tried("--tree", str(options.before.resolve()), *short)
    result: dict[str, Any] = {"benchmark": "fuzz", "before": before, "now": tried(*short)}
    if options.long:
        result["long"] = tried("--minutes", str(options.long), "--seed", str(options.seed + 1000))
    kinds = [kind for kind in ("before", "now", "long") if kind in result]
    names = list(result["now"]["formats"])
    rows = [(name, *("{tried}: {wrong}".format(**result[kind]["formats"][name]) for kind in kinds)) for name in names]
    print(table(("format", *kinds), rows))
    write_json(options.json, result, options)


if __name__ == "__main__":
    main()
