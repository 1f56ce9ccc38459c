"""What nobody foresaw: one line in the place of a trace, and an exit code of its own."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback

from tav_sdk.words import printable_lines, said

EXIT_CODE = 70
"""The exit code of a bug, ``EX_SOFTWARE`` of ``sysexits.h``."""
DEBUG = "TAV_DEBUG"
"""Environment variable: with any value, every error shows where it comes from."""


def tell(error: BaseException) -> int:
    """Say on standard error that a command ended by an exception that it should not have; its exit code."""
    with contextlib.suppress(OSError, ValueError):  # standard error may be closed
        if os.environ.get(DEBUG):
            show_trace(error)
        sys.stderr.write(f"error: {in_words(error)}\n")
    return EXIT_CODE


def in_words(error: BaseException) -> str:
    """The exception's name, what it says, and how to see more, in one line."""
    reason = f": {words}" if (words := said(error)) else ""
    advice = {
        MemoryError: "there is not enough memory for this; ",
        RecursionError: "something that was read is nested too deep; ",
    }
    more = next((text for kind, text in advice.items() if isinstance(error, kind)), "")
    return f"unexpected {type(error).__name__}{reason}; {more}{DEBUG}=1 before the command shows where it comes from"


def show_trace(error: BaseException) -> None:
    """An exception's trace on standard error, safe to print."""
    sys.stderr.write(printable_lines("".join(traceback.format_exception(error))))
