"""The one place that imports ONNX Runtime: without its telemetry, and with a log that leaves the words to us."""

from __future__ import annotations

import os
from typing import Any

TELEMETRY = "ORT_DISABLE_TELEMETRY"
"""Environment variable of ONNX Runtime, read when it is imported: ``1`` sends and keeps nothing."""
SILENT, WARNINGS = 4, 2
"""Severities of ONNX Runtime's log: only what ends the process, and warnings and all above."""


def import_onnxruntime() -> Any:
    """The module ``onnxruntime``.

    With telemetry on, as it comes, it writes a file ``.ses`` into the folder for temporary files at import, through
    whatever link another user may have put there.

    Raises:
        ImportError: it is not installed, or only half.
    """
    os.environ.setdefault(TELEMETRY, "1")
    import onnxruntime

    # Its errors are raised as well; they would stand twice on the screen.
    onnxruntime.set_default_logger_severity(log_severity())
    return onnxruntime


def log_severity() -> int:
    """How much ONNX Runtime writes to standard error by itself: with ``TAV_DEBUG`` set its warnings and errors."""
    return WARNINGS if os.environ.get("TAV_DEBUG") else SILENT
