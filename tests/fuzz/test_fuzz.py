"""Changed files of every format are loaded or refused, within a bound of time and memory: a short run, and the corpus.

The long run is ``make fuzz MINUTES=30``; the frame is told in ``__main__.py``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.campaign import campaign
from tests.fuzz.formats import FORMATS, Format
from tests.fuzz.runner import Runner
from tests.fuzz.seeds import make_clips, make_others

CORPUS = Path(__file__).with_name("corpus")
CASES = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
EXAMPLES = 10


@pytest.fixture(scope="module")
def seeds(made_once, tiny_base, tiny_run, tiny_bundle) -> Path:
    """Valid files of every format."""

    def make(folder: Path) -> None:
        folder.mkdir()
        for name, source in (("base", tiny_base), ("run", tiny_run), ("bundle", tiny_bundle)):
            (folder / name).symlink_to(source)
        make_clips(folder / "video")
        make_others(folder)

    return made_once("fuzz", make)


@pytest.fixture(scope="module")
def runner(seeds: Path, tmp_path_factory) -> Iterator[Runner]:
    with Runner(seeds, tmp_path_factory.mktemp("cases")) as made:
        yield made


@pytest.mark.parametrize("form", [pytest.param(form, id=name) for name, form in FORMATS.items()])
def test_changed_files_are_loaded_or_refused(runner: Runner, form: Format) -> None:
    tally = campaign(runner, [form], until=time.monotonic() + 60, examples=EXAMPLES)[form.name]
    assert tally.tried == EXAMPLES
    assert not tally.causes, "\n".join(f"{cause}: {outcome.what}" for cause, (_, outcome) in tally.smallest.items())


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=f"{case.parent.name}-{case.name}") for case in CASES],
)
def test_a_case_that_was_wrong_stays_mended(runner: Runner, case: Path) -> None:
    outcome = runner.attempt(FORMATS[case.parent.name], case.read_bytes())
    assert not outcome.wrong, f"{outcome.what} at {outcome.where}"
