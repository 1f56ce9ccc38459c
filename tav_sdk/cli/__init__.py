"""The command line, ``tav``."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Entry point of the ``tav`` command."""
    # Waiting OpenMP threads sleep instead of spinning: on a machine with other work, spinning is many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    interrupts: list[int] = []

    def interrupt(number: int, _: object) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        from tav_sdk.cli.app import app

        app()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was written\n")
        _leave(2)
    except SystemExit as end:
        if interrupts:
            if end.code != 2:
                sys.stderr.write("interrupted; nothing was written\n")
            _leave(2)
        raise
    except BaseException as error:  # noqa: BLE001  libraries in Rust end by one that is no Exception
        # An extension module that is interrupted while it is imported says that its import failed.
        if not interrupts:
            from tav_sdk.cli.unforeseen import tell

            _leave(tell(error))
        sys.stderr.write("interrupted; nothing was written\n")
        _leave(2)


def _leave(code: int) -> None:
    """Leave with this exit code.

    Python itself would end by the signal, as if killed, whenever an interrupt has passed through ``exec`` of a string,
    as in the code that torch and dataclasses generate.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
