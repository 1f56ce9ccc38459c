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
        sys.exit(2)
