"""Signals that ask a command to end, handled alike: its temporary files are removed, and it says what is written."""

from __future__ import annotations

import signal
import sys
from types import FrameType

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

received: list[int] = []
"""The signals that came, in order."""


def handle_signals() -> None:
    """Let each signal that asks to end raise ``KeyboardInterrupt``, unless whoever started us wants it ignored.

    ``nohup`` has SIGHUP ignored. SIGINT counts in any case: shells have it ignored for whatever a script starts in the
    background, and there it is how to stop a command by hand.
    """
    for number in ENDING:
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def ignore_signals() -> None:
    """From here on, the command ends by itself."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def what_is_left() -> str:
    """What an interrupted command says of its outputs."""
    files = sys.modules.get("tav_sdk.files")
    written = files.written() if files is not None else []
    return f"written: {', '.join(map(str, written))}" if written else "nothing was written"


def _interrupt(number: int, _: FrameType | None) -> None:
    received.append(number)
    raise KeyboardInterrupt
