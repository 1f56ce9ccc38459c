"""Many changed files of every format, counted, and the smallest of each cause of failure kept."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.formats import Format, seed_file
from tests.fuzz.mutate import contents
from tests.fuzz.runner import Outcome, Runner

BATCH = 25


@dataclass(kw_only=True)
class Tally:
    """What came of a format's cases.

    Attributes:
        tried: cases.
        loaded: those whose file was taken.
        causes: wrong cases by their signature.
        smallest: the smallest content and the outcome of each signature.
        slowest: seconds of the slowest case that was not wrong.
    """

    tried: int = 0
    loaded: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    smallest: dict[str, tuple[bytes, Outcome]] = field(default_factory=dict)
    slowest: float = 0.0

    @property
    def wrong(self) -> int:
        return self.causes.total()

    def add(self, content: bytes, outcome: Outcome) -> None:
        """Count one case."""
        self.tried += 1
        self.loaded += outcome.loaded and not outcome.wrong
        if not outcome.wrong:
            self.slowest = max(self.slowest, outcome.seconds)
            return
        self.causes[outcome.signature] += 1
        known = self.smallest.get(outcome.signature)
        if known is None or len(content) < len(known[0]):
            self.smallest[outcome.signature] = (content, outcome)


def batch(runner: Runner, form: Format, tally: Tally, number: int, examples: int) -> None:
    """Try some changed files; the same number gives the same ones."""
    valid = seed_file(form, runner.seeds).read_bytes()

    @seed(number)
    @settings(
        max_examples=examples,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(contents(form.kind, valid))
    def each(content: bytes) -> None:
        tally.add(content, runner.attempt(form, content))

    each()


def campaign(
    runner: Runner,
    formats: Iterable[Format],
    *,
    until: float,
    examples: int | None = None,
    first_seed: int = 0,
    leave_out: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Tally]:
    """Batches of every format in turn.

    Args:
        runner: what tries them.
        formats: which.
        until: no batch begins after this time of :func:`time.monotonic`.
        examples: cases of each format, after which it ends; by default only the time counts.
        first_seed: other seeds give other cases.
        leave_out: a format whose valid file is not loaded is left out, since an older checkout may not read it.
        say: takes a line per batch.

    Returns:
        The tallies by format.

    Raises:
        RuntimeError: a valid file is refused, so that nothing would be tried.
    """
    tallies = {form.name: Tally() for form in formats}
    chosen = list(formats)
    for form in list(chosen):
        if leave_out and not seed_file(form, runner.seeds).is_file():
            say(f"left out: there is no {form.file} in {form.folder}")
            chosen.remove(form)
            continue
        outcome = runner.attempt(form, seed_file(form, runner.seeds).read_bytes())
        if outcome.loaded == form.loads and not outcome.wrong:
            continue
        problem = f"the valid {form.name} does not load: {outcome.what} {outcome.where}"
        if not leave_out:
            raise RuntimeError(problem)
        say(f"left out: {problem}")
        chosen.remove(form)
    number = first_seed
    while chosen and time.monotonic() < until:
        for form in list(chosen):
            tally = tallies[form.name]
            left = BATCH if examples is None else min(BATCH, examples - tally.tried)
            if left <= 0:
                chosen.remove(form)
                continue
            batch(runner, form, tally, number, left)
            say(f"{form.name}: {tally.tried} tried, {tally.wrong} wrong of {len(tally.causes)} causes")
            if time.monotonic() >= until:
                break
        number += 1
    return tallies


def keep(tallies: dict[str, Tally], formats: dict[str, Format], corpus: Path) -> list[Path]:
    """Write the smallest content of every cause below ``corpus/FORMAT/``."""
    written = []
    for name, tally in tallies.items():
        for content, _ in tally.smallest.values():
            path = corpus / name / f"{hashlib.sha256(content).hexdigest()[:12]}{Path(formats[name].file).suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            written.append(path)
    return written
