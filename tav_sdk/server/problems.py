"""What the server answers when it refuses: a status, a code for programs, a sentence for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_NOT_AGAIN = (500, 501, 504, 507)
"""Clients of OpenAI's API try these again by themselves, unless a header says no."""


def storage_full() -> ProblemError:
    """What is said when the disk is full."""
    return ProblemError(507, "storage_full", "the server's disk is full; delete videos, or ask its keeper")


class ProblemError(Exception):
    """A request that is refused.

    Args:
        status: of HTTP, 400 or more.
        code: one of the contract's codes.
        message: what was expected, what came, what to do; no path, no traceback, no version.
        param: the field that is wrong, if there is one.
        headers: more headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers = dict(headers or {})
        if status in _NOT_AGAIN:
            self.headers["x-should-retry"] = "false"

    @property
    def body(self) -> dict[str, Any]:
        """The answer's body."""
        type_ = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": type_, "param": self.param, "code": self.code}}
