"""One killed command of :mod:`benchmarks.chaos`, and what has to be true then and after the same command again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos_commands import TAV, Command, Materials, contents, environment

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")
HANDLED = 2
"""The exit code of a command that a signal ended, and of one whose output is there already."""
PATIENCE = 180.0
"""Seconds after which a command hangs."""
POLL = 0.001
FOREIGN = {"mine.txt": "mine", ".out-notes": "a file", ".out-mine1234/keep.txt": "a folder named as a temporary one"}
"""Files of others beside the output: their names, and what is in them."""


class WrongError(Exception):
    """What a kill showed to be untrue."""


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A command that nobody killed.

    Attributes:
        seconds: from its start to its end.
        works: seconds at which its work showed on disk.
        out: what :func:`contents` says of its output.
        cache: likewise of the caches that it filled.
    """

    seconds: float
    works: float
    out: dict[str, str]
    cache: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Killed:
    """What came of one kill.

    Attributes:
        signal: its name.
        seconds: of the command when it came.
        delivered: whether the command still ran then.
        state: ``whole``, ``absent``, or ``kept`` if the command had kept some work to go on with.
        early: whether it came before the command handled signals.
        stopping: seconds from the signal to the end.
        wrong: what was untrue, if anything.
    """

    signal: str
    seconds: float
    delivered: bool
    state: str = ""
    early: bool = False
    stopping: float = 0.0
    wrong: str | None = None


class Place:
    """A folder in which one command at a time runs: ``work`` with the output, ``cache`` and ``tmp``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / "work"

    def clear(self) -> None:
        """As before any command, with files of others beside the output."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.work.mkdir(parents=True)
        for name, text in FOREIGN.items():
            (self.work / name).parent.mkdir(exist_ok=True)
            (self.work / name).write_text(text, encoding="utf-8")

    def out(self, command: Command) -> Path:
        """Where the command's output lies."""
        return self.folder / "cache" / "engines" if command.in_cache else self.work / "out"

    def start(self, command: Command, launcher: tuple[str, ...], *more: str) -> subprocess.Popen[str]:
        """The command, begun in a session of its own."""
        return subprocess.Popen(
            [sys.executable, *launcher, *command.words, *more],
            cwd=self.work,
            env=environment(self.folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_heed_signals,
        )

    def works(self, command: Command) -> bool:
        """Whether the work shows on disk: a temporary folder, or the output."""
        folder = self.out(command) if command.in_cache else self.work
        return any(name not in _TOP for name in _names(folder))

    def cache(self) -> dict[str, str]:
        """The files of all caches' entries, by their places."""
        folder = self.folder / "cache"
        found = contents(folder) if folder.exists() else {}
        return {name: what for name, what in found.items() if os.sep in name}


def _heed_signals() -> None:
    """In the process that becomes the command: a ``nohup`` around the benchmark is not meant for it."""
    for name in SIGNALS[1:]:
        signal.signal(getattr(signal, name), signal.SIG_DFL)


_TOP = {name.partition("/")[0] for name in FOREIGN}


def undisturbed(command: Command, place: Place) -> Undisturbed:
    """Run a command to its end; it begins and ends as every other one.

    Raises:
        RuntimeError: it failed.
    """
    place.clear()
    began = time.monotonic()
    process = place.start(command, command.launcher)
    for _ in _while(process, lambda: not place.works(command)):
        pass
    works = time.monotonic() - began
    _, said = process.communicate(timeout=PATIENCE)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command.words)} failed: {said[-1000:]}")
    seconds = time.monotonic() - began
    out = place.out(command)
    command.opens(out)
    return Undisturbed(seconds=seconds, works=works, out=contents(out), cache=place.cache())


def kill(command: Command, whole: Undisturbed, place: Place, seed: int, name: str, materials: Materials) -> Killed:
    """Kill a command once, look, run it again, and look again.

    The signal follows from the seed. So does its moment: of 20, 8 lie anywhere in the time of an undisturbed run, 9 in
    the time in which its work shows on disk, and 3 just after the output appeared.
    """
    place.clear()
    before = materials.files()
    number = SIGNALS[seed % len(SIGNALS)]
    chance = random.Random(f"{name} {seed}")
    began = time.monotonic()
    process = place.start(command, command.launcher)
    _wait(process, command, whole, place, chance)
    seconds = time.monotonic() - began
    there, delivered = os.path.lexists(place.work / "out"), process.poll() is None
    if delivered:
        process.send_signal(getattr(signal, number))
    sent = time.monotonic()
    try:
        _, said = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Killed(signal=number, seconds=seconds, delivered=delivered, wrong=f"runs {PATIENCE:.0f} s after it")
    stopping = time.monotonic() - sent
    found = Killed(signal=number, seconds=seconds, delivered=delivered, stopping=stopping)
    early, state = False, ""
    try:
        state = state_of(command, whole, place)
        early = check_said(process.returncode, said, number, state, command, place)
        if delivered and not there and state == "whole" and stopping > whole.seconds:
            raise WrongError(f"it went on to its end, for {stopping:.1f} s after {number}")
        _check_again(command, whole, place, state)
        if materials.files() != before:
            raise WrongError("a file that the command reads was changed")
    except WrongError as error:
        found = Killed(signal=number, seconds=seconds, delivered=delivered, stopping=stopping, wrong=str(error))
    return Killed(**{**vars(found), "state": state, "early": early})


def _wait(
    process: subprocess.Popen[str], command: Command, whole: Undisturbed, place: Place, chance: random.Random
) -> None:
    """Wait until the moment of the kill, or until the command ends."""
    kind, part = chance.random(), chance.random()
    if kind < 0.4:
        left = part * whole.seconds
    elif kind < 0.85:
        for _ in _while(process, lambda: not place.works(command)):
            pass
        left = part * (whole.seconds - whole.works)
    else:
        for _ in _while(process, lambda: not place.out(command).exists()):
            pass
        left = part * 0.1
    until = time.monotonic() + left
    for _ in _while(process, lambda: time.monotonic() < until):
        pass


def _while(process: subprocess.Popen[str], waits: Callable[[], bool]) -> Iterator[None]:
    patience = time.monotonic() + PATIENCE
    while process.poll() is None and waits() and time.monotonic() < patience:
        yield
        time.sleep(POLL)


def state_of(command: Command, whole: Undisturbed, place: Place) -> str:
    """Whether the output is whole, absent, or absent with something to go on with.

    Raises:
        WrongError: it is neither.
    """
    out = place.out(command)
    if command.in_cache:  # whole or absent is each entry of it
        _check_opens(command, out)
        names = set(contents(out)) if out.exists() else set()
        visible = {name for name in names if not name.startswith(".")}
        if not visible <= set(whole.out):
            raise WrongError(f"the cache has {sorted(visible - set(whole.out))[0]}")
        return "whole" if visible == set(whole.out) else "kept" if visible else "absent"
    if os.path.lexists(out):
        check_equal(whole.out, contents(out), "the output")
        _check_opens(command, out)
        return "whole"
    unfinished = place.folder / "cache" / "unfinished"
    kept = (place.work / ".out.partial" / "resume.safetensors").exists() or any(
        not _is_lock(n) for n in _names(unfinished)
    )
    return "kept" if kept else "absent"


def check_said(code: int, said: str, number: str, state: str, command: Command, place: Place) -> bool:
    """Whether a signal came before it was handled; what was said otherwise has to be true."""
    if number == "SIGKILL" and code == -signal.SIGKILL:
        return False
    if code == -getattr(signal, number):  # Python was starting
        if place.works(command):
            raise WrongError(f"{number} ended it without a word after it had begun")
        return True
    if code == 0 and "Traceback" not in said:
        if state != "whole":
            raise WrongError("its exit code is 0, and its output is not whole")
        return False
    told = said.rstrip().rpartition("\n")[2]
    if code != HANDLED or not told.startswith("interrupted; ") or "Traceback" in said:
        raise WrongError(f"exit code {code}, and it said: {said.strip()[-300:]!r}")
    claim = told.removeprefix("interrupted; ")
    partial = (place.work / ".out.partial").exists()
    true = {
        f"written: {place.work / 'out'}": state == "whole",
        "nothing was written": command.in_cache or (not os.path.lexists(place.work / "out") and not partial),
        "the same command with --resume continues": partial or state == "whole",
        "what was built is kept; the same command builds the other graphs": command.in_cache and state != "absent",
    }
    if not true.get(claim, False):
        raise WrongError(f"it said {claim!r}, and the output is {state}{', with a partial run' * partial}")
    if left := _names(place.folder / "tmp"):
        raise WrongError(f"it left {left[0]} among temporary files")
    return False


def _check_again(command: Command, whole: Undisturbed, place: Place, state: str) -> None:
    """The same command again: it succeeds with an equal output, or says that it is there, and nothing else stays."""
    shutil.rmtree(place.folder / "tmp", ignore_errors=True)
    process = place.start(command, TAV, *command.again)
    try:
        _, said = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise WrongError(f"the command again does not end within {PATIENCE:.0f} s") from None
    refused = state == "whole" and not command.again and not command.in_cache
    if process.returncode != (HANDLED if refused else 0) or (refused and "is not empty" not in said):
        raise WrongError(f"the command again: exit code {process.returncode}, {said.strip()[-300:]!r}")
    out = place.out(command)
    check_equal(whole.out, contents(out), "the output of the command again")
    _check_opens(command, out)
    check_equal(whole.cache, place.cache(), "a cache")
    beside = set(_names(place.work)) - _TOP - ({"out"} if not command.in_cache else set())
    if beside:
        raise WrongError(f"it left {sorted(beside)[0]} beside the output")
    if left := _names(place.folder / "tmp"):
        raise WrongError(f"the command again left {left[0]} among temporary files")
    for name, text in FOREIGN.items():
        path = place.work / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            raise WrongError(f"the file {name} of another was changed")


def _check_opens(command: Command, out: Path) -> None:
    try:
        command.opens(out)
    except Exception as error:
        raise WrongError(f"the output does not open: {error}") from error


def check_equal(expected: dict[str, str], found: dict[str, str], what: str) -> None:
    if differ := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        name = differ[0]
        how = "lacks" if name not in found else "also has" if name not in expected else "differs in"
        raise WrongError(f"{what} {how} {name} ({len(differ)} such)")


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _is_lock(name: str) -> bool:
    return name.startswith(".") and name.endswith(".lock")
