"""Try changed files of every format for some minutes, and say what was wrong.

    python -m tests.fuzz --minutes 30 [--formats manifest mp4] [--tree CHECKOUT] [--json FILE]

A case is right if the file is loaded, or refused with a ``TavError``, within 20 s and 1 GiB. The smallest case of each
cause of a failure is kept in ``tests/fuzz/corpus/FORMAT/``, which the tests replay. With ``--tree`` the package of
another checkout is tried, with valid files that it makes itself, and nothing is kept. ``--examples`` tries the same
number of cases of every format, to compare two checkouts. The exit code is 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.campaign import Tally, campaign, keep
from tests.fuzz.formats import FORMATS
from tests.fuzz.runner import ROOT, Runner

CORPUS = Path(__file__).resolve().with_name("corpus")


def _seeds(folder: Path, tree: Path) -> None:
    """Make the valid files with a checkout's package, unless they are there."""
    if (folder / "lora" / "base" / "lora.safetensors").is_file():
        return
    sys.stderr.write(f"making valid files with {tree}\n")
    environment = {**os.environ, "PYTHONPATH": str(tree), "TAV_CACHE": str(folder / "cache")}
    script = Path(__file__).with_name("seeds.py")
    subprocess.run([sys.executable, str(script), str(folder)], check=True, env=environment, cwd=tree)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _told(tallies: dict[str, Tally]) -> dict[str, object]:
    return {
        name: {
            "tried": tally.tried,
            "loaded": tally.loaded,
            "wrong": tally.wrong,
            "causes": dict(tally.causes.most_common()),
            "slowest_seconds": round(tally.slowest, 2),
        }
        for name, tally in tallies.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: 10)")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="which (default: all)")
    parser.add_argument("--examples", type=int, metavar="N", help="cases of each format at most")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other cases (default: 0)")
    parser.add_argument("--tree", type=Path, default=ROOT, metavar="CHECKOUT", help="whose package is tried")
    parser.add_argument("--seeds", type=Path, metavar="FOLDER", help="where valid files are, or are made and stay")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the counts to this file")
    options = parser.parse_args(arguments)
    tree = options.tree.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        seeds = (options.seeds or Path(scratch, "seeds")).resolve()
        _seeds(seeds, tree)
        (cases := Path(scratch, "cases")).mkdir()
        with Runner(seeds, cases, tree) as runner:
            began = time.monotonic()
            tallies = campaign(
                runner,
                [FORMATS[name] for name in options.formats],
                until=began + 60 * options.minutes,
                examples=options.examples,
                first_seed=options.seed,
                leave_out=tree != ROOT,
                say=_say,
            )
    for name, tally in tallies.items():
        print(f"{name:18} {tally.tried:6} tried {tally.loaded:6} loaded {tally.wrong:6} wrong")
        for cause, times in tally.causes.most_common():
            print(f"    {times:5} {cause}: {tally.smallest[cause][1].what}")
    if tree == ROOT:
        for path in keep(tallies, FORMATS, CORPUS):
            print(f"kept {path.relative_to(ROOT)}")
    total, wrong = (sum(getattr(tally, name) for tally in tallies.values()) for name in ("tried", "wrong"))
    print(f"{total} tried, {wrong} wrong, {(time.monotonic() - began) / 60:.1f} minutes")
    if options.json:
        result = {"minutes": options.minutes, "seed": options.seed, "tried": total, "wrong": wrong}
        options.json.write_text(json.dumps({**result, "formats": _told(tallies)}, indent=2) + "\n", encoding="utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
