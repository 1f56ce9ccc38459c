"""benchmarks/chaos.py kills commands, and sees what is wrong."""

from __future__ import annotations

import json
import signal
import time

import pytest

from benchmarks import chaos
from benchmarks.chaos_commands import Materials, commands, contents
from benchmarks.chaos_kill import Killed, Place, Undisturbed, WrongError, check_equal, check_said, state_of


@pytest.fixture
def materials(tiny_bundle, tiny_run, tiny_base, clip_path):
    return Materials(clip=clip_path, base=tiny_base, run=tiny_run, bundle=tiny_bundle)


def test_an_edit_that_is_killed_is_made_again(materials, tmp_path):
    result = chaos.run(materials, tmp_path, ["edit"], seed=0, kills=1, until=time.monotonic() + 300, jobs=1)
    assert result["failures"] == []
    assert result["all"]["kills"] + result["all"]["ended_before"] == 1
    assert result["commands"]["edit"]["seconds"] > 0
    json.dumps(result)


def test_each_command_gets_each_signal_and_costly_ones_take_part_now_and_then():
    turns = list(chaos.turns(["edit", "export"], {"edit": 1, "export": 4}, 7, 12))
    assert [seed for name, seed in turns if name == "edit"] == list(range(7, 16))
    assert [seed for name, seed in turns if name == "export"] == [7, 8, 9]


def test_all_commands_that_were_asked_for_are_known(materials):
    assert set(chaos.NAMES) - set(commands(materials)) <= {"build"}


def test_a_command_is_not_started_with_signals_ignored(materials, tmp_path):
    """Whoever starts the benchmark with ``nohup`` would have every hangup passed over."""
    code = "import signal; raise SystemExit(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        place = Place(tmp_path)
        place.clear()
        process = place.start(commands(materials)["edit"], ("-c", code))
        process.communicate()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert process.returncode == 0


def test_the_counts_of_two_runs_are_added():
    kills = [Killed(signal="SIGINT", seconds=1.0, delivered=True, state="whole", stopping=0.5)]
    whole = Undisturbed(seconds=2.0, works=1.0, out={}, cache={})
    one = {"edit": chaos.counts(kills, whole), "tune": chaos.counts([], whole)}
    first = {"commands": one, "all": chaos.counts(kills), "failures": ["x"], "minutes_taken": 1.5}
    second = {"commands": {"edit": one["edit"]}, "all": chaos.counts(kills), "failures": [], "minutes_taken": 1.0}
    both = chaos.added(second, first)
    assert both["all"]["signals"]["SIGINT"] == {"kills": 2, "survived": 2}
    assert both["commands"]["edit"] == {
        **one["edit"],
        **both["commands"]["edit"],
        "kills": 2,
        "survived": 2,
        "whole": 2,
    }
    assert set(both["commands"]) == {"edit", "tune"}
    assert both["failures"] == ["x"]
    assert both["all"]["slowest_stop"] == 0.5


class _Left(Place):
    """What a killed command left: an output, and work on disk or not."""

    def __init__(self, folder, *, works=False):
        super().__init__(folder)
        self._works = works
        (self.work / "out").mkdir(parents=True)

    def works(self, command):
        return self._works


def test_half_an_output_is_seen(materials, tmp_path):
    place = _Left(tmp_path)
    (place.work / "out" / "00.mp4").write_bytes(b"half")
    whole = Undisturbed(seconds=1, works=1, out={"00.mp4": "0", "edits.json": "0"}, cache={})
    with pytest.raises(WrongError, match=r"differs in 00\.mp4 \(2 such\)"):
        state_of(commands(materials)["edit"], whole, place)


@pytest.mark.parametrize(
    ("code", "said", "state", "wrong"),
    [
        (2, "interrupted; nothing was written\n", "whole", "it said 'nothing was written'"),
        (2, "interrupted; written: {out}\n", "absent", "it said 'written"),
        (2, "error: x\n", "absent", "exit code 2"),
        (70, "error: unexpected\n", "absent", "exit code 70"),
        (0, "", "absent", "not whole"),
        (2, "Traceback\ninterrupted; nothing was written\n", "absent", "Traceback"),
    ],
)
def test_what_is_said_and_is_not_true_is_seen(materials, tmp_path, code, said, state, wrong):
    place = _Left(tmp_path)
    if state == "absent":
        (place.work / "out").rmdir()
    said = said.format(out=place.work / "out")
    with pytest.raises(WrongError, match=wrong):
        check_said(code, said, "SIGTERM", state, commands(materials)["edit"], place)


def test_a_signal_before_the_command_began_needs_no_word(materials, tmp_path):
    edit = commands(materials)["edit"]
    assert check_said(-15, "", "SIGTERM", "absent", edit, _Left(tmp_path / "a"))
    with pytest.raises(WrongError, match="without a word"):
        check_said(-15, "", "SIGTERM", "absent", edit, _Left(tmp_path / "b", works=True))


def test_times_are_not_compared_and_all_else_is(tmp_path):
    for name, seconds, loss in (("a", 1.5, 0.1), ("b", 2.5, 0.1), ("c", 1.5, 0.2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"seconds": seconds, "loss": loss}))
    check_equal(contents(tmp_path / "a"), contents(tmp_path / "b"), "x")
    with pytest.raises(WrongError, match=r"run\.json"):
        check_equal(contents(tmp_path / "a"), contents(tmp_path / "c"), "x")
