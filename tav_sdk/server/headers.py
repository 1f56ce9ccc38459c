"""What a request's head says, as ASGI gives it: pairs of bytes, names in lower case."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable

from tav_sdk.server.problems import ProblemError

Headers = Iterable[tuple[bytes, bytes]]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(r"[!-~]{1,128}")


def header_values(headers: Headers, name: str) -> list[str]:
    """All values of one header, in order."""
    wanted = name.lower().encode("latin-1")
    return [value.decode("latin-1").strip() for key, value in headers if key.lower() == wanted]


def request_id(headers: Headers) -> str:
    """The client's ``X-Request-Id`` if it is 1 to 64 letters, digits, dots, underscores or hyphens, else a new one."""
    given = header_values(headers, "x-request-id")
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return given[0]
    return secrets.token_hex(16)


def idempotency_key(headers: Headers) -> str | None:
    """The client's ``Idempotency-Key``, if there is one.

    Raises:
        ProblemError: 400 ``invalid_value``: it is not 1 to 128 visible ASCII characters, or came twice.
    """
    given = header_values(headers, "idempotency-key")
    if not given:
        return None
    if len(given) > 1:
        raise ProblemError(400, "invalid_value", "Idempotency-Key came twice; send it once", param="Idempotency-Key")
    if not _KEY.fullmatch(given[0]):
        raise ProblemError(
            400,
            "invalid_value",
            f"Idempotency-Key must be 1 to 128 visible ASCII characters, got {len(given[0])} characters; "
            "a UUID is a good one",
            param="Idempotency-Key",
        )
    return given[0]
