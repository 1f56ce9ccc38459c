"""Signals that ask a command to end, at chosen moments of an edit."""

import signal
import subprocess
import sys

import pytest

# The process sends itself a signal when a function is called: before it, or after it.
CODE = """
import importlib, os, sys
number, when, module, name, *sys.argv[1:] = sys.argv[1:]
home = importlib.import_module(module)
for part in name.split(".")[:-1]:
    home = getattr(home, part)
name = name.split(".")[-1]
real = getattr(home, name)
def signalled(*args, **options):
    if when == "before":
        os.kill(os.getpid(), int(number))
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
        **options,
    )


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


def test_who_started_a_command_may_have_its_hangup_ignored(tiny_bundle, clip_path, work):
    place = ("before", "tav_sdk.edits.output", "EditOutput.finish")
    ignored = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    result = edit(tiny_bundle, clip_path, work / "out", signal.SIGHUP, *place, **ignored)
    assert result.returncode == 0, result.stderr
    assert (work / "out" / "edits.json").is_file()
