"""Signals that ask a command to end, at chosen moments of an edit."""

import signal
import subprocess
import sys

import pytest

from tav_sdk.cli import console

# The process sends itself a signal when a function is called: before it, or after it,
# or before it where the interrupt goes no further, as in TensorRT.
CODE = """
import importlib, os, sys, time
number, when, module, name, *sys.argv[1:] = sys.argv[1:]
home = importlib.import_module(module)
for part in name.split(".")[:-1]:
    home = getattr(home, part)
name = name.split(".")[-1]
real = getattr(home, name)
def signalled(*args, **options):
    if when == "before":
        os.kill(os.getpid(), int(number))
    if when == "swallowed":
        try:
            os.kill(os.getpid(), int(number))
            time.sleep(1)
        except KeyboardInterrupt:
            pass
    result = real(*args, **options)
    if when == "after":
        os.kill(os.getpid(), int(number))
    return result
setattr(home, name, signalled)
from tav_sdk.cli import main
sys.argv[0] = "tav"
main()
"""
SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"]


def edit(tiny_bundle, clip_path, out, number, when, module, name, **options):
    how = ["--prompt", "a red car", "--num-inference-steps", "1", "--num-inversion-steps", "1", "--no-cache"]
    command = ["edit", str(tiny_bundle), "--video", str(clip_path), *how, "--out", str(out)]
    return subprocess.run(
        [sys.executable, "-c", CODE, str(int(number)), when, module, name, *command],
        capture_output=True,
        text=True,
        check=False,
        **{"preexec_fn": heard, **options},
    )


def heard() -> None:
    """No signal is left out, even where the tests themselves run under ``nohup``."""
    for name in SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_DFL)


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_that_end_a_command_are_handled_alike(tiny_bundle, clip_path, work, name):
    out = work / "deep" / "out"
    place = ("before", "tav_sdk.edits.output", "EditOutput.finish")
    result = edit(tiny_bundle, clip_path, out, getattr(signal, name), *place)
    assert result.returncode == 2
    assert result.stderr.rstrip().endswith("interrupted; nothing was written")
    assert "Traceback" not in result.stderr
    assert list(work.iterdir()) == []


@pytest.mark.parametrize(
    "place",
    [
        ("before", "tav_sdk.cli.edit", "say_where"),
        ("after", "os", "rename"),
        ("before", "tav_sdk.siblings", "Sibling.close"),
        ("after", "tav_sdk.cli.edit", "say_where"),
    ],
)
def test_what_was_written_before_a_signal_is_said(tiny_bundle, clip_path, work, place):
    result = edit(tiny_bundle, clip_path, work / "out", signal.SIGTERM, *place)
    assert result.returncode == 2
    said = result.stderr.split("interrupted; ")[1]
    written = (work / "out" / "edits.json").is_file()
    assert said.strip() == (f"written: {work / 'out'}" if written else "nothing was written")
    if place[2] != "Sibling.close":  # called for each of the files first
        assert written


def test_an_interrupt_that_a_library_swallows_ends_the_command_at_its_next_step(tiny_bundle, clip_path, work):
    result = edit(tiny_bundle, clip_path, work / "out", signal.SIGTERM, "swallowed", "tav_sdk.pipeline", "load")
    assert result.returncode == 2
    assert result.stderr.rstrip().endswith("interrupted; nothing was written")
    assert list(work.iterdir()) == []


def test_a_build_that_is_interrupted_says_what_is_kept(tiny_bundle, tav, monkeypatch):
    seen = []

    def build(graph, **_):
        seen.append(graph.name)
        if len(seen) == 2:
            monkeypatch.setattr(console, "received", [signal.SIGTERM])
        return True

    monkeypatch.setattr("tav_sdk.engines.select.build_engine", build)
    result = tav("build", tiny_bundle, "--engine", "tensorrt-rtx")
    assert result.exit_code == 2
    assert result.stderr.endswith("interrupted; what was built is kept; the same command builds the other graphs\n")
    assert len(seen) == 2


# The process sends itself a signal while Python ends.
LATE = """
import atexit, os, sys
atexit.register(os.kill, os.getpid(), int(sys.argv.pop(1)))
from tav_sdk.cli import main
main()
"""


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_after_all_was_done_changes_nothing(name):
    command = [sys.executable, "-c", LATE, str(int(getattr(signal, name))), "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("tav-sdk ")


def test_who_started_a_command_may_have_its_hangup_ignored(tiny_bundle, clip_path, work):
    place = ("before", "tav_sdk.edits.output", "EditOutput.finish")
    ignored = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    result = edit(tiny_bundle, clip_path, work / "out", signal.SIGHUP, *place, **ignored)
    assert result.returncode == 0, result.stderr
    assert (work / "out" / "edits.json").is_file()
