"""Words of strangers, such as prompts, names and paths, made safe for a terminal, a log or a message."""

from __future__ import annotations

import logging
import re
import unicodedata
from numbers import Number
from typing import Any

MAX_SHOWN = 60
"""Most characters of a value that a message repeats."""
MAX_SAID = 500
"""Most characters of a foreign exception's own words that a message repeats."""

_JOINERS = "\u200c\u200d"
"""Zero width joiners: emoji and several scripts need them, and they move nothing."""
_UNSAFE_KINDS = ("Cc", "Cf", "Cs", "Zl", "Zp")
_MAYBE_UNSAFE = re.compile(r"[^ -~]")


def printable(value: object) -> str:
    r"""The text of ``value``, in one line that does nothing to what shows it.

    Control characters (C0 and C1, so newlines and escape sequences), marks that turn the direction of writing, line and
    paragraph separators, invisible characters and halves of surrogate pairs are shown escaped, such as ``\x1b``.
    Everything that is printed, logged or drawn as progress passes here.
    """
    return _MAYBE_UNSAFE.sub(lambda match: _escaped(match[0]), str(value))


def printable_lines(text: str) -> str:
    """As :func:`printable`, line by line, for a text of ours that has several."""
    return "\n".join(map(printable, text.split("\n")))


def said(error: BaseException) -> str:
    """What a foreign exception says, in one line, cut after :data:`MAX_SAID` characters and without a full stop."""
    try:
        text = printable(" ".join(str(error).split()))
    except Exception:  # noqa: BLE001  an exception's own words may fail
        return ""
    return text.rstrip(".") if len(text) <= MAX_SAID else f"{text[:MAX_SAID]}..."


def is_unsafe(character: str) -> bool:
    """Whether :func:`printable` escapes this character."""
    return unicodedata.category(character) in _UNSAFE_KINDS and character not in _JOINERS


def brief(value: Any) -> str:
    """What a message says of a value that came: its ``repr``, in one line, cut after :data:`MAX_SHOWN` characters.

    A number of thousands of digits, which Python refuses to write, is described.
    """
    if isinstance(value, int) and value.bit_length() > 512:
        return f"a number of about {round(value.bit_length() * 0.30103)} digits"
    try:
        text = repr(value[: MAX_SHOWN + 1] if isinstance(value, str | bytes) else value)
    except Exception:  # noqa: BLE001  anything may be given, and what describes it may fail
        text = f"a {type(value).__name__}"
    text = printable(text)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def is_utf8(text: str) -> bool:
    """Whether a text can be written in UTF-8; it cannot with half a surrogate pair, as a name that is no UTF-8 has."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def logger(name: str) -> logging.Logger:
    """Python's logger of this name, whose records pass :func:`printable`."""
    found = logging.getLogger(name)
    found.addFilter(_printable_arguments)
    return found


def _printable_arguments(record: logging.LogRecord) -> bool:
    """Make what is put into a record's message printable; the message itself is ours."""
    if isinstance(record.args, tuple):
        record.args = tuple(one if isinstance(one, Number) else printable(one) for one in record.args)
    return True


def _escaped(character: str) -> str:
    if not is_unsafe(character):
        return character
    # Not ASCII is escaped by the codec, ASCII by the language.
    return repr(character)[1:-1] if character.isascii() else character.encode("ascii", "backslashreplace").decode()
