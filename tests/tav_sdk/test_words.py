"""What strangers write does nothing to a terminal, a log or a message."""

from __future__ import annotations

import ast
import logging
import os
from pathlib import Path

import pytest

import tav_sdk
from tav_sdk.errors import InputError, VideoNotFoundError
from tav_sdk.words import brief, is_utf8, logger, printable, said

PACKAGE = Path(tav_sdk.__file__).parent
MODULES = [
    Path(folder, name)
    for folder, _, names in os.walk(PACKAGE, followlinks=True)
    for name in names
    if name.endswith(".py")
]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("one\ntwo\r\tthree\x00", "one\\ntwo\\r\\tthree\\x00"),
        ("\x85\x9b31m\x7f", "\\x85\\x9b31m\\x7f"),
        ("a\u202eb\u2066c\u200fd", "a\\u202eb\\u2066c\\u200fd"),
        ("a\u2028b\u2029c\ufeff", "a\\u2028b\\u2029c\\ufeff"),
        ("\U000e0041", "\\U000e0041"),
        ("caf\udce9", "caf\\udce9"),
        ("[bold]a[/] :smile: \\ é 日本 😀 👩\u200d🚀", "[bold]a[/] :smile: \\ é 日本 😀 👩\u200d🚀"),
    ],
)
def test_what_is_not_printable_is_escaped(text, shown):
    assert printable(text) == shown


def test_an_error_can_be_printed_and_keeps_its_lines():
    assert str(InputError("no \x1b[2Jclip:\n  a\r")) == "no \\x1b[2Jclip:\n  a\\r"
    assert str(InputError("got '\u202e'", field="sample.negative_prompt")) == "negative_prompt got '\\u202e'"
    assert str(VideoNotFoundError("no \x1b.mp4")) == "no \\x1b.mp4"


def test_what_is_logged_is_escaped(caplog):
    with caplog.at_level(logging.INFO, "tav_sdk.words_test"):
        logger("tav_sdk.words_test").info("%s has %d of %.1f", "clip\x1b[1m\n", 3, 0.5)
    assert caplog.messages == ["clip\\x1b[1m\\n has 3 of 0.5"]


def test_every_module_logs_through_it():
    """Python's own logger would write what strangers wrote."""
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node) == "logging.getLogger(__name__)"
    ]
    assert found == []
    assert len(MODULES) > 150


def test_a_value_is_shown_short_whatever_it_is():
    class Broken:
        def __repr__(self) -> str:
            raise ValueError

    assert brief("a\x1b") == "'a\\x1b'"
    assert brief("a" * 10**6) == "'" + "a" * 59 + "..."
    assert brief(10**5000) == "a number of about 5000 digits"
    assert brief([10**5000]) == "a list"
    assert brief(Broken()) == "a Broken"


def test_what_a_foreign_exception_says_is_one_line():
    assert said(RuntimeError("Check failed:\n  at core.cpp:84.\n")) == "Check failed: at core.cpp:84"
    assert len(said(RuntimeError("x" * 10**6))) == 503


def test_a_name_that_is_no_utf8_is_told_apart():
    assert is_utf8("日本 😀")
    assert not is_utf8("caf\udce9")
