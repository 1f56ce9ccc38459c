"""The command line, ``tav``."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point of the ``tav`` command."""
    # Waiting OpenMP threads sleep instead of spinning: on a machine with other work, spinning is many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from tav_sdk.cli.app import app

        app()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was written\n")
        _leave(2)
    except SystemExit as end:
        if _follows_an_interrupt(end):
            _leave(end.code if isinstance(end.code, int) else 2)
        raise


def _follows_an_interrupt(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _leave(code: int) -> None:
    """Leave with this exit code.

    Python itself would end by the signal, as if killed, whenever an interrupt has passed through ``exec`` of a string,
    as in the code that torch and dataclasses generate.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
