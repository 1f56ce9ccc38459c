"""The command line, ``tav``."""

from __future__ import annotations

import os
import sys

from tav_sdk.cli.interrupts import handle_signals, ignore_signals, received, what_is_left
from tav_sdk.words import printable


def main() -> None:
    """Entry point of the ``tav`` command."""
    # Waiting OpenMP threads sleep instead of spinning: on a machine with other work, spinning is many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    handle_signals()
    try:
        from tav_sdk.cli.app import app

        app()
    except KeyboardInterrupt:
        _leave_interrupted()
    except SystemExit as end:
        if not received:
            ignore_signals()  # all is done and said; while Python ends, a signal would kill it, or show a trace
            raise
        if end.code == 2:  # the command said why
            _leave(2)
        _leave_interrupted()
    except BaseException as error:  # noqa: BLE001  libraries in Rust end by one that is no Exception
        # An extension module that is interrupted while it is imported says that its import failed.
        if not received:
            from tav_sdk.cli.unforeseen import tell

            _leave(tell(error))
        _leave_interrupted()


def _leave_interrupted() -> None:
    ignore_signals()
    sys.stderr.write(f"interrupted; {printable(what_is_left())}\n")
    _leave(2)


def _leave(code: int) -> None:
    """Leave with this exit code.

    Python itself would end by the signal, as if killed, whenever an interrupt has passed through ``exec`` of a string,
    as in the code that torch and dataclasses generate.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
