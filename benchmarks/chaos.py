"""Kill commands at random moments, and see that nothing is lost and that what they say is true.

    python -m benchmarks.chaos --work FOLDER --minutes 12 --kills 160 [--only edit tune] [--seed 0] --json chaos.json

Every command runs on a tiny random base: tune, export, export --bundle, build (where an engine can be built), edit, an
edit of more frames than the bundle's, and a stream. Each gets SIGKILL, SIGTERM, SIGINT and SIGHUP in turn. After a
kill: the output is whole, and equals an undisturbed run's byte for byte, or it is absent; the last line that was said
is true. Then the same command again (a tune with --resume) ends with an output that equals the undisturbed one; if
the killed one was done already, the command is refused, or says so. Nothing hidden is left beside the output, and no
file of another is touched. The times in a run's and a cache entry's record are not compared, and of plans of
TensorRT, whose bytes differ from build to build, the cache's own hashes are.

A failure is one line that has the command which tries it again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import progress, table, write_json
from benchmarks.chaos_commands import Materials, commands, prepare
from benchmarks.chaos_kill import SIGNALS, Killed, Place, Undisturbed, kill, undisturbed

NAMES = ("tune", "export", "export --bundle", "build", "edit", "long edit", "stream")


def turns(names: Sequence[str], every: dict[str, int], first: int, kills: int) -> Iterator[tuple[str, int]]:
    """Command and seed of each kill: rounds over the commands, in which costly ones take part now and then."""
    seeds = dict.fromkeys(names, first)
    done = turn = 0
    while done < kills:
        for name in names:
            if turn % every[name] == 0 and done < kills:
                yield name, seeds[name]
                seeds[name] += 1
                done += 1
        turn += 1


def run(
    materials: Materials, work: Path, names: Sequence[str], *, seed: int, kills: int, until: float, jobs: int
) -> dict[str, Any]:
    """All kills, some at a time.

    Args:
        materials: what the commands read.
        work: a folder for what they write.
        names: which commands; those that cannot run here are left out.
        seed: of the first kill of each command.
        kills: how many at most.
        until: no kill begins after this time of :func:`time.monotonic`.
        jobs: commands at a time.
    """
    known = {name: command for name, command in commands(materials).items() if name in names}
    places: Queue[Place] = Queue()
    for index in range(jobs):
        places.put(Place(work.absolute() / f"place-{index}"))

    def in_a_place(task: Any) -> Any:
        place = places.get()
        try:
            return task(place)
        finally:
            places.put(place)

    def once(turn: tuple[str, int]) -> tuple[str, int, Killed] | None:
        name, its_seed = turn
        if time.monotonic() >= until:
            return None
        found = in_a_place(lambda place: kill(known[name], whole[name], place, its_seed, name, materials))
        line = f"{name}: seed {its_seed}, {found.signal} after {found.seconds:.2f} s: "
        progress(line + (f"WRONG: {found.wrong}" if found.wrong else f"{found.state}, {found.stopping:.2f} s to end"))
        return name, its_seed, found

    with ThreadPoolExecutor(jobs) as pool:
        first = pool.map(lambda name: in_a_place(lambda place: undisturbed(known[name], place)), known)
        whole: dict[str, Undisturbed] = dict(zip(known, first, strict=True))
        for name, it in whole.items():
            progress(f"{name}: {it.seconds:.1f} s undisturbed, at work after {it.works:.1f} s")
        every = {name: command.every for name, command in known.items()}
        found = list(filter(None, pool.map(once, turns(list(known), every, seed, kills))))
    return {
        "benchmark": "chaos",
        "commands": {name: counts([one for who, _, one in found if who == name], whole[name]) for name in known},
        "all": counts([one for _, _, one in found]),
        "failures": [_told(name, its_seed, one) for name, its_seed, one in found if one.wrong],
    }


def counts(found: Sequence[Killed], whole: Undisturbed | None = None) -> dict[str, Any]:
    """Some kills: how many, how many were survived, and what the killed commands left."""
    kills = [one for one in found if one.delivered]
    return {
        "seconds": None if whole is None else whole.seconds,
        **_survived(kills),
        "signals": {name: _survived([one for one in kills if one.signal == name]) for name in SIGNALS},
        **{state: sum(one.state == state for one in kills) for state in ("whole", "kept", "absent")},
        "early": sum(one.early for one in kills),
        "ended_before": len(found) - len(kills),
        "slowest_stop": max((one.stopping for one in kills if one.signal != "SIGKILL"), default=None),
    }


def added(result: dict[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """A result with the counts of an earlier one; seconds stay those of this run, the slowest stop is of both."""
    for name, one in earlier["commands"].items():
        mine = result["commands"].get(name)
        result["commands"][name] = one if mine is None else _summed(mine, one)
    return {
        **result,
        "all": _summed(result["all"], earlier["all"]),
        "failures": [*earlier["failures"], *result["failures"]],
        "minutes_taken": round(result["minutes_taken"] + earlier["minutes_taken"], 1),
    }


def _summed(mine: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: value + other[key] for key, value in mine.items() if isinstance(value, int)}
    for key in ("seconds", "signals", "slowest_stop"):
        if key in mine:
            found[key] = mine[key]
    if "signals" in mine:
        found["signals"] = {name: _summed(one, other["signals"][name]) for name, one in mine["signals"].items()}
        found["slowest_stop"] = max((it for it in (mine["slowest_stop"], other["slowest_stop"]) if it), default=None)
    return found


def _survived(kills: Sequence[Killed]) -> dict[str, int]:
    return {"kills": len(kills), "survived": sum(one.wrong is None for one in kills)}


def _told(name: str, seed: int, found: Killed) -> str:
    how = f'python -m benchmarks.chaos --only "{name}" --seed {seed} --kills 1'
    return f"{name}: seed {seed}, {found.signal} after {found.seconds:.2f} s: {found.wrong}; {how}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; its exit code is 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER", help="for all that is written")
    parser.add_argument("--minutes", type=float, default=12, help="no kill begins after these (default: 12)")
    parser.add_argument("--kills", type=int, default=160, help="at most (default: 160)")
    parser.add_argument("--only", nargs="+", choices=NAMES, help="commands (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of each command's first kill (default: 0)")
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time (default: 2)")
    parser.add_argument("--add", type=Path, metavar="FILE", help="an earlier result, whose counts are added")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    options.work.mkdir(parents=True, exist_ok=True)
    work = options.work.absolute()
    result = run(
        prepare(work),
        work,
        options.only or NAMES,
        seed=options.seed,
        kills=options.kills,
        until=began + 60 * options.minutes,
        jobs=options.jobs,
    )
    result["minutes_taken"] = round((time.monotonic() - began) / 60, 1)
    if options.add:
        result = added(result, json.loads(options.add.read_text(encoding="utf-8")))
    head = ("command", *SIGNALS)
    rows = [
        (name, *("{survived} of {kills}".format(**one["signals"][signal]) for signal in SIGNALS))
        for name, one in {**result["commands"], "all": result["all"]}.items()
    ]
    print(table(head, rows))
    for failure in result["failures"]:
        print(failure)
    write_json(options.json, result, options)
    return int(bool(result["failures"]))


if __name__ == "__main__":
    sys.exit(main())
