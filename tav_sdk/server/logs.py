"""The server's log: a line an event, as text or as JSON; never a prompt at level info."""

from __future__ import annotations

import json
import logging
import sys
import time

_FIELDS = ("request_id", "job_id", "worker", "seconds")
"""What a record may have besides its message."""


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: getattr(record, name) for name in _FIELDS if hasattr(record, name)},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


class TextLines(logging.Formatter):
    """A record as one line of text."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """The line, what could move a terminal escaped."""
        from tav_sdk.words import printable_lines

        return printable_lines(super().format(record))


def set_up_logs(form: str, *, level: int = logging.INFO) -> None:
    """Write the package's and uvicorn's logs to standard error.

    Args:
        form: ``json`` or ``text``.
        level: the least that is written.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    for name, least in (("tav_sdk", level), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(least)
        logger.propagate = False
