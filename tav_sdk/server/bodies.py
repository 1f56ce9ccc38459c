"""Reading a request's body: refused as early as can be, never whole in memory if it is a form."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from python_multipart.multipart import parse_options_header

from tav_sdk.server.forms import Form, Upload, invalid_body
from tav_sdk.server.headers import Headers, header_values
from tav_sdk.server.problems import ProblemError
from tav_sdk.server.strict_json import parse_object

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
"""ASGI's: the next message of a request."""

MAX_JSON_BYTES = 64 << 10


class ClientGoneError(Exception):
    """The client closed the connection before its body was whole; nobody waits for an answer."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """What a request brought.

    Attributes:
        fields: JSON values by name, or the texts of a form.
        file: what a form had as a file; the caller's to move or to remove.
        form: whether it was a form, where everything is text.
        sha256: of fields and file, in hexadecimal: two bodies that mean the same have the same, whatever separates
            the parts of a form and however JSON is spaced.
    """

    fields: dict[str, Any]
    file: Upload | None = None
    form: bool
    sha256: str

    def discard(self) -> None:
        """Remove the file; whoever refuses the request calls it."""
        if self.file is not None:
            self.file.remove()


async def read_body(headers: Headers, receive: Receive, *, folder: Path, max_bytes: int, pause_s: float) -> Body:
    """Read a body.

    Args:
        headers: of the request.
        receive: gives its messages; nothing is asked for if the headers suffice to refuse it.
        folder: where a file goes; it must be there.
        max_bytes: largest form; JSON has :data:`MAX_JSON_BYTES`.
        pause_s: longest wait for more bytes, in seconds.

    Raises:
        ProblemError: 415 ``unsupported_media_type`` or ``unsupported_content_encoding``, 413 ``body_too_large``,
            408 ``request_timeout``, 400 ``invalid_json`` or ``invalid_body``, 507 ``storage_full``. No file is left.
        ClientGoneError: there is no client any more. No file is left.
    """
    headers = list(headers)
    kind, boundary = _media_type(headers)
    most = MAX_JSON_BYTES if kind == "json" else max_bytes
    _check_length(headers, most)
    for encoding in header_values(headers, "content-encoding"):
        if encoding.lower() not in ("identity", ""):
            raise ProblemError(
                415,
                "unsupported_content_encoding",
                f"Content-Encoding must be identity, got {encoding[:40]!a}; send the body as it is",
                headers={"Connection": "close"},
            )
    chunks = _chunks(receive, most=most, pause_s=pause_s)
    if kind == "json":
        content = b"".join([chunk async for chunk in chunks])
        fields = parse_object(content)
        return Body(fields=fields, form=False, sha256=_hash("json", fields, None))
    form = Form(boundary, folder)
    try:
        async for chunk in chunks:
            await asyncio.to_thread(form.feed, chunk)
        file = await asyncio.to_thread(form.finish)
    except BaseException:
        form.discard()
        raise
    return Body(fields=dict(form.fields), file=file, form=True, sha256=_hash("form", form.fields, file))


async def _chunks(receive: Receive, *, most: int, pause_s: float) -> AsyncIterator[bytes]:
    seen, more = 0, True
    while more:
        try:
            message = await asyncio.wait_for(receive(), pause_s)
        except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
            raise timed_out(pause_s) from None
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk, more = message.get("body", b""), message.get("more_body", False)
        seen += len(chunk)
        if seen > most:
            raise too_large(most)
        if chunk:
            yield chunk


def _media_type(headers: Headers) -> tuple[str, bytes]:
    """``json`` or ``form``, and what stands between the parts of a form."""
    given = header_values(headers, "content-type")
    kind, options = parse_options_header(given[0]) if len(given) == 1 else (b"", {})
    if kind == b"application/json" and options.get(b"charset", b"utf-8").lower() in (b"utf-8", b"utf8"):
        return "json", b""
    if kind == b"multipart/form-data":
        boundary = options.get(b"boundary", b"")
        if not boundary:
            raise invalid_body("its Content-Type names no boundary")
        return "form", boundary
    shown = ascii(given[0][:80]) if len(given) == 1 else f"{len(given)} of them"
    raise ProblemError(
        415,
        "unsupported_media_type",
        f"Content-Type must be application/json in UTF-8 or multipart/form-data, got {shown}",
        headers={"Connection": "close"},
    )


def _check_length(headers: Headers, most: int) -> None:
    for length in header_values(headers, "content-length"):
        if not (length.isascii() and length.isdigit()):
            raise ProblemError(400, "invalid_body", "Content-Length must be a number of bytes")
        if len(length) > 18 or int(length) > most:
            raise too_large(most)


def too_large(most: int) -> ProblemError:
    """What is said of a body that is larger than ``most`` bytes."""
    return ProblemError(
        413, "body_too_large", f"the body must have at most {most} bytes", headers={"Connection": "close"}
    )


def timed_out(pause_s: float) -> ProblemError:
    """What is said to a client that sends nothing more."""
    return ProblemError(
        408,
        "request_timeout",
        f"no more bytes of the body came within {pause_s:g} s; send it again",
        headers={"Connection": "close"},
    )


def _hash(kind: str, fields: dict[str, Any], file: Upload | None) -> str:
    sent = [kind, fields, None if file is None else [file.field, file.sha256, file.size]]
    return hashlib.sha256(json.dumps(sent, sort_keys=True).encode()).hexdigest()
