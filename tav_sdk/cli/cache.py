"""``tav cache``"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from tav_sdk.cli.console import cell, guarded, say, screen, write
from tav_sdk.errors import InputError
from tav_sdk.words import printable

if TYPE_CHECKING:
    from tav_sdk.cache.store import Cache

_WHAT = ("name", "engine", "precision", "gpus", "prompt", "num_inversion_steps")
"""The facts that tell entries apart for people, as far as an entry has them."""
_IN_WORDS = {"unfinished": "unfinished edits"}
"""Kinds whose name is no noun."""


class Kind(str, Enum):
    """A cache."""

    ENGINES = "engines"
    INVERSIONS = "inversions"
    CONTROLNETS = "controlnets"
    UNFINISHED = "unfinished"


KindOption = Annotated[Kind | None, typer.Option("--kind", help="Only this cache. [dim]default: all[/]")]

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def _main() -> None:
    """Look after what is kept on disk to save time: engines, inversions, exported ControlNets, unfinished edits.

    It may be emptied at any time: what is needed again is made again. TAV_CACHE names another folder;
    TAV_CACHE_SIZE_ENGINES, TAV_CACHE_SIZE_INVERSIONS,
    TAV_CACHE_SIZE_CONTROLNETS and
    TAV_CACHE_SIZE_UNFINISHED set the limits, such as 50GB.

    [bold]Examples[/]

      tav cache list

      tav cache clear --kind engines --older-than 30
    """


def list_entries(kind: KindOption = None) -> None:
    """List what is kept, the last used first.

    [bold]Examples[/]

      tav cache list

      tav cache list --kind engines
    """
    caches = _caches(kind)
    table = Table(box=None, pad_edge=False)
    for name in ("kind", "what", "size", "last used", "key"):
        table.add_column(name, justify="right" if name == "size" else "left")
    lines = []
    for cache in caches:
        entries = cache.entries()
        for entry in entries:
            what = f"damaged: {entry.problem}" if entry.problem else _what(entry.facts)
            table.add_row(cell(entry.kind), cell(what), _bytes(entry.size), _ago(entry.last_used), cell(entry.key[:12]))
        total = _bytes(sum(entry.size for entry in entries))
        lines.append(f"{cache.kind}: {_count(len(entries))}, {total} of {_bytes(cache.max_bytes)}")
    console = screen(soft_wrap=True)
    if table.row_count:
        console.print(table, soft_wrap=False)
        console.print()
    for line in (str(caches[0].root), *lines):
        console.print(cell(line))


def clear(
    kind: KindOption = None,
    older_than: Annotated[
        int | None,
        typer.Option("--older-than", metavar="DAYS", min=0, max=36500, help="Only what was not used for so long."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove what is kept; what is needed again is made again.

    [bold]Examples[/]

      tav cache clear --kind inversions --yes

      tav cache clear --older-than 30
    """
    caches = _caches(kind)
    age = None if older_than is None else timedelta(days=older_than)
    if not yes:
        *others, last = (_IN_WORDS.get(cache.kind, cache.kind) for cache in caches)
        which = f"{', '.join(others)} and {last}" if others else last
        when = "" if older_than is None else f" that were not used for {older_than} days"
        try:
            typer.confirm(printable(f"Remove the {which}{when} from {caches[0].root}?"), abort=True)
        except typer.Abort:
            if sys.stdin.isatty():
                raise
            raise InputError("there was no answer, so nothing was removed; give --yes to skip the question") from None
    freed = sum(cache.clear(unused_for=age) for cache in caches)
    say(f"removed {_bytes(freed)}")


def verify(kind: KindOption = None) -> None:
    """Compare every file with its hash and look at who may write it; exit code 1 if something is wrong.

    [bold]Examples[/]

      tav cache verify
    """
    problems = [problem for cache in _caches(kind) for problem in cache.verify()]
    for problem in problems:
        write(f"{printable(problem.path)}: {printable(problem.message)}")
    if problems:
        say("the entries listed are not used; each is made again when it is needed")
        raise typer.Exit(1)
    say("everything is as it was made")


app.command("list")(guarded(list_entries))
app.command()(guarded(clear))
app.command()(guarded(verify))


def _caches(kind: Kind | None) -> list[Cache]:
    from tav_sdk.cache.limits import LIMITS
    from tav_sdk.cache.store import Cache

    return [Cache(name) for name in LIMITS if kind is None or name == kind.value]


def _what(facts: Mapping[str, Any]) -> str:
    values = [_shown(name, facts[name]) for name in _WHAT if facts.get(name) not in (None, "")]
    return ", ".join(values) or "-"


def _shown(name: str, value: Any) -> str:
    if isinstance(value, list):
        value = " ".join(map(str, value))
    text = f"{value} steps" if name == "num_inversion_steps" else f"GPUs {value}" if name == "gpus" else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _count(number: int) -> str:
    return "1 entry" if number == 1 else f"{number} entries"


def _bytes(size: int) -> str:
    if size >= 10**9:
        return f"{size / 1e9:,.1f} GB"
    return f"{size / 1e6:,.1f} MB" if size >= 10**6 else f"{size / 1e3:,.1f} kB"


def _ago(then: datetime) -> str:
    seconds = (datetime.now(timezone.utc) - then).total_seconds()
    for name, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {name}{'s' * (number > 1)} ago"
    return "just now"
