"""What strangers write, and numbers and names that nobody would: one message that is safe to print, exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tav_sdk.cli.console import cell, guarded, say, screen, stages, write_json
from tav_sdk.errors import InputError
from tav_sdk.progress import Item, StepProgress

ROOT = Path(__file__).parents[3]
HOSTILE = "\x1b]0;pwned\x07\x1b[2J\u202e[/][bold]x:smile:\n"
SHOWN = "\\x1b]0;pwned\\x07\\x1b[2J\\u202e[/][bold]x:smile:\\n"


def harmless(text: str) -> bool:
    return all(character == "\n" or character.isprintable() for character in text)


# --- words ----------------------------------------------------------------------------------------------------------


def test_a_prompt_of_a_bundle_is_shown_escaped(tav, bundle_copy, edit_manifest, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    edit_manifest(lambda manifest: manifest.update(prompt=HOSTILE))
    result = tav("info", bundle_copy)
    assert result.exit_code == 0, result.stderr
    assert SHOWN in result.stdout
    assert harmless(result.stdout)


def test_json_escapes_what_strangers_write_and_keeps_it(tav, bundle_copy, edit_manifest):
    edit_manifest(lambda manifest: manifest.update(prompt=HOSTILE + "\x9b\x7f é 😀"))
    result = tav("info", bundle_copy, "--json")
    assert json.loads(result.stdout)["prompt"] == HOSTILE + "\x9b\x7f é 😀"
    assert harmless(result.stdout)
    assert "é 😀" in result.stdout


def test_json_on_a_terminal_of_few_letters_is_ascii(monkeypatch, capsys):
    monkeypatch.setattr(type(sys.stdout), "encoding", "ascii", raising=False)
    write_json({"prompt": "é\x1b\U000e0041"}, indent=None)
    assert capsys.readouterr().out == '{"prompt": "\\u00e9\\u001b\\udb40\\udc41"}\n'


def test_messages_errors_and_tables_are_escaped(capsys):
    say(HOSTILE, mark="written")
    screen(width=200).print(cell(HOSTILE))

    def fail() -> None:
        raise InputError(f"got {HOSTILE}")

    with pytest.raises(Exception, match="2"):
        guarded(fail)()
    printed = capsys.readouterr()
    assert printed.out == f"{SHOWN}\n"
    assert printed.err == f"written {SHOWN}\nerror: got {SHOWN}\n"


def test_warnings_and_logs_are_escaped(capsys):
    from tav_sdk.bundle.tokenizer import PromptTruncatedWarning
    from tav_sdk.words import logger

    def command() -> None:
        import warnings

        warnings.warn(HOSTILE, PromptTruncatedWarning, stacklevel=1)
        logger("tav_sdk.edits").info("editing %s", HOSTILE)
        logger("tav_sdk.edits").warning("not editing %s", HOSTILE)

    guarded(command)()
    assert capsys.readouterr().err == f"warning: {SHOWN}\nediting {SHOWN}\nwarning: not editing {SHOWN}\n"


def test_progress_is_escaped(capsys, monkeypatch):
    """A graph's name comes from a manifest."""
    from tav_sdk.cli import console as module

    monkeypatch.setattr(module.console, "width", 300)
    with stages() as show:
        show(StepProgress("verify", 1, 2, item=Item(kind="graph", index=1, count=2, name=HOSTILE)))
    err = capsys.readouterr().err
    assert SHOWN in err
    assert HOSTILE not in err


def test_what_the_parser_refuses_is_escaped(tav):
    for args in ([HOSTILE], ["plan", f"--{HOSTILE}"], ["plan", "--frames", HOSTILE], [f"--{HOSTILE}"]):
        result = tav(*args)
        assert result.exit_code == 2
        assert harmless(result.stderr), args


def test_brackets_in_an_output_are_no_markup(tav, work):
    """It was a MarkupError, when all was written."""
    out = work / "x[/]"
    result = tav("make-tiny-base", out)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == f"written {out}\n"


def test_an_argument_that_is_no_utf8_is_refused(tav, work, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for args in (["info", "caf\udce9"], ["generate", "b", "--prompt", "caf\udce9", "--out", work / "out"]):
        result = tav(*args)
        assert result.exit_code == 2
        assert "caf\\udce9 is not text in UTF-8; give texts in UTF-8" in " ".join(result.stderr.split())


# --- numbers and names ----------------------------------------------------------------------------------------------

BIG = ("2147483648", "9223372036854775808", "1" + "0" * 400, "9" * 5000, "1e20", "-1", "nan", "٣x")
OPTIONS = {
    "edit": ("num-inference-steps", "num-inversion-steps", "start", "stride", "frames", "window"),
    "generate": ("num-inference-steps", "frames", "window"),
    "plan": ("frames", "size"),
    "compare": ("steps", "num-inference-steps"),
    "bench": ("rounds", "steps"),
    "export": ("step",),
}


@pytest.mark.parametrize("number", BIG)
@pytest.mark.parametrize("command", OPTIONS)
def test_a_number_beyond_all_sense_is_refused(tav, tiny_bundle, tiny_run, clip_path, work, command, number):
    out = work / "out"
    given: dict[str, list[Any]] = {
        "edit": [tiny_bundle, "--video", clip_path, "--prompt", "a", "--out", out],
        "generate": [tiny_bundle, "--prompt", "a", "--out", out],
        "plan": [],
        "compare": [tiny_run, "--prompt", "a", "--out", work / "out.png"],
        "bench": [tiny_bundle],
        "export": [tiny_run, "--out", out],
    }
    for option in OPTIONS[command]:
        result = tav(command, *given[command], f"--{option}={number}")
        assert result.exit_code == 2, (option, result.output, result.exception)
        assert option in result.stderr or "step" in result.stderr
        assert len(result.stderr) < 1000
        assert list(work.iterdir()) == []


@pytest.mark.parametrize("number", ["1e400", "inf", "9" * 400])
@pytest.mark.parametrize("option", ["guidance-scale", "adapter-scale", "fps"])
def test_a_float_beyond_all_sense_is_refused(tav, tiny_bundle, clip_path, work, option, number):
    result = tav("edit", tiny_bundle, "--video", clip_path, "--prompt", "a", "--out", work / "o", f"--{option}", number)
    assert result.exit_code == 2, result.output
    assert f"--{option} must be" in result.stderr


@pytest.mark.parametrize("text", ["9" * 400, "1" * 19 + "TB", "1e400", "1GB" * 100])
def test_an_amount_beyond_all_sense_is_refused(tav, text):
    result = tav("plan", "--memory", text)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --memory must be an amount such as 12GB, 11.5GiB or 800MB; got '")
    assert len(result.stderr) < 200


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("TAV_CACHE_SIZE_INVERSIONS", "9" * 400, "TAV_CACHE_SIZE_INVERSIONS: expected a size such as 20GB, 512MB or 0"),
        ("TAV_CACHE_SIZE_ENGINES", "9" * 19, "TAV_CACHE_SIZE_ENGINES: expected a size"),
        ("TAV_CACHE_SIZE_UNFINISHED", "9999999999TB", "TAV_CACHE_SIZE_UNFINISHED: expected a size"),
        ("TAV_CACHE_SIZE_CONTROLNETS", "\x1b[2J", "TAV_CACHE_SIZE_CONTROLNETS: expected a size"),
        ("TAV_CACHE", "~nobody-of-that-name/x", "TAV_CACHE is '~nobody-of-that-name/x', and there is no such user"),
        ("TAV_CACHE", "x" * 300, "File name too long; let TAV_CACHE name a folder, or leave it out"),
    ],
)
@pytest.mark.parametrize("command", ["list", "verify"])
def test_a_variable_that_makes_no_sense_is_refused(tav, monkeypatch, name, value, text, command):
    monkeypatch.setenv(name, value)
    result = tav("cache", command)
    assert result.exit_code == 2, result.output
    assert text in result.stderr
    assert result.stderr.count("\n") == 1
    assert harmless(result.stderr)


def test_links_in_a_circle_are_refused_wherever_they_are_given(tav, tiny_bundle, tiny_run, clip_path, work):
    loop = work / "loop"
    loop.symlink_to(loop)
    edit = ["edit", tiny_bundle, "--prompt", "a"]
    for args in (
        ["info", loop],
        ["info", "x" * 300],
        [*edit, "--video", loop, "--out", work / "out"],
        [*edit, "--video", clip_path, "--out", loop],
        [*edit, "--video", clip_path, "--out", loop / "out"],
        [*edit, "--video", clip_path, "--out", "x" * 300],
        [*edit, "--video", clip_path, "--out", work / "out", "--control", loop, "--controlnet", "pocket"],
        [*edit, "--video", clip_path, "--out", work / "out", "--control", "canny", "--controlnet", loop],
        ["tune", "--base", loop, "--video", clip_path, "--prompt", "a", "--out", work / "run"],
        ["tune", "--config", loop],
        ["export", loop, "--out", work / "bundle"],
        ["export", tiny_run, "--bundle", loop, "--out", work / "bundle"],
        ["evaluate", loop],
        ["verify", loop],
        ["compare", loop, "--prompt", "a"],
        ["plan", "--base", loop],
    ):
        result = tav(*args)
        assert result.exit_code == 2, (args, result.output, result.exception)
        text = "File name too long" if "x" * 300 in args else "Too many levels of symbolic links"
        assert result.stderr.startswith("error: the path must be usable, got '"), args
        assert result.stderr.endswith(f": {text}\n")
        assert list(work.iterdir()) == [loop]


# --- what nobody foresaw --------------------------------------------------------------------------------------------

RAISE = """
import sys
import tav_sdk.cli.doctor as doctor
from tav_sdk.cli import main

class PanicException(BaseException):
    pass

def fail():
    ERROR

doctor._facts = fail
main()
"""


def ended(error: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """``tav doctor``, in which an exception is raised."""
    env = {name: value for name, value in os.environ.items() if name != "TAV_DEBUG"}
    return subprocess.run(
        [sys.executable, "-c", RAISE.replace("ERROR", error), "doctor"],
        env={**env, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("raise ZeroDivisionError('a \\x1b[1m\\nb.')", "unexpected ZeroDivisionError: a \\x1b[1m b; "),
        ("raise KeyError", "unexpected KeyError; "),
        ("raise MemoryError", "unexpected MemoryError; there is not enough memory for this; "),
        ("fail()", "unexpected RecursionError: maximum recursion depth exceeded"),
        ("raise OSError(28, 'No space left on device', 'x')", "OSError: [Errno 28] No space left on device: 'x'; "),
        ("raise PanicException('a bug in Rust')", "unexpected PanicException: a bug in Rust; "),
        ("raise RuntimeError('x' * 10**6)", "..."),
    ],
)
def test_what_nobody_foresaw_ends_as_one_line(error, text):
    result = ended(error)
    assert result.returncode == 70, result.stderr
    assert result.stderr.startswith("error: unexpected ")
    assert text in result.stderr
    assert result.stderr.endswith("; TAV_DEBUG=1 before the command shows where it comes from\n")
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 1000
    assert result.stdout == ""


def test_its_trace_can_be_asked_for():
    result = ended("raise ZeroDivisionError('\\x1b[2J')", TAV_DEBUG="1")
    assert result.returncode == 70
    assert "Traceback (most recent call last):\n" in result.stderr
    assert "ZeroDivisionError: \\x1b[2J\n" in result.stderr
    assert "\x1b" not in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_standard_output_on_a_full_disk_is_a_message():
    command = [sys.executable, "-m", "tav_sdk.cli", "info", "pocket", "--json"]
    with open("/dev/full", "w") as full:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=env)
    assert result.stderr == "error: standard output cannot be written: No space left on device\n"
    assert result.returncode == 2
