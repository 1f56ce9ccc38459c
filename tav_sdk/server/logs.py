"""The server's log: a line an event, as text or as JSON; never a prompt at level info."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from contextvars import ContextVar

from tav_sdk.server.jobs import Event
from tav_sdk.words import logger

_log = logger(__name__)

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request that is being answered."""
_JOB_ID = re.compile(r"(video|tun)_[0-9a-f]{32}")
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


def log_event(event: Event) -> None:
    """A line for what happened to a job, but for its steps and previews."""
    what = event.type.partition(".")[2]
    if what in ("progress", "preview"):
        return
    told: dict[str, object] = {"job_id": event.job}
    words = [event.type, event.job]
    if what == "queued":
        reason = event.data.get("reason")
        if reason is None:
            told["request_id"] = REQUEST_ID.get()
        else:
            words.append(reason)
    if what == "failed":
        words.append(event.data["error"]["code"])
    if what == "completed" and event.data.get("inference_time_s") is not None:
        told["seconds"] = event.data["inference_time_s"]
    _log.info(" ".join(words), extra=told)


def job_id_of(path_params: dict[str, str]) -> dict[str, str]:
    """The job that a path names, as a field of a record; a client's other words are not logged."""
    found = [word for word in path_params.values() if _JOB_ID.fullmatch(word)]
    return {"job_id": found[0]} if found else {}


def set_up_logs(form: str, *, level: int = logging.INFO) -> None:
    """Write the package's and uvicorn's logs to standard error.

    Args:
        form: ``json`` or ``text``.
        level: the least that is written.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    for name, least in (("tav_sdk", level), ("uvicorn", logging.WARNING)):
        found = logging.getLogger(name)
        found.handlers[:] = [handler]
        found.setLevel(least)
        found.propagate = False
