"""Requests to one server: the token, trying again, and errors in the server's words."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tav_sdk.errors import InputError, MissingExtraError, ServerError, ServerUnreachableError, VideoError
from tav_sdk.version import __version__
from tav_sdk.words import brief, said

try:
    import httpx2
except ImportError as error:
    raise MissingExtraError("the client of tav serve", "client", error.name or "httpx2") from error

R = TypeVar("R")

CONNECT_S = 10.0
"""Longest wait for a connection."""
AGAIN = (429, 502, 503, 504)
"""Statuses that pass: the server is full, stops or starts, or a proxy does not reach it."""
FIRST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_RETRY_AFTER_S = 0.5, 8.0, 120.0
_TOKEN = re.compile(r"[!-~]{1,4096}")


class Connection:
    """Requests to one server. Threads may share it.

    Args:
        base_url: see :func:`checked_url`.
        token: sent with every request.
        timeout: longest wait for an answer to go on, in seconds.
        retries: how often a request is sent again.
        transport: what sends; by default the network.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        base_url: str,
        token: str | None,
        *,
        timeout: float,
        retries: int,
        transport: Any = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = checked_url(base_url)
        self.retries, self.sleep, self._token = retries, sleep, checked_token(token)
        self._timeout = httpx2.Timeout(timeout, connect=min(timeout, CONNECT_S))
        headers = {"User-Agent": f"tav-sdk/{__version__}", "Accept-Encoding": "identity"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        # A proxy of the environment is not for what this machine says to itself.
        self._http = httpx2.Client(
            headers=headers, timeout=self._timeout, transport=transport, trust_env=not _is_loopback(self.url)
        )

    def close(self) -> None:
        """Close what is open."""
        self._http.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        fields: Mapping[str, Any] | None = None,
        file: tuple[str, Path] | None = None,
        query: Mapping[str, Any] | None = None,
        patience_s: float | None = None,
    ) -> Any:
        """A request and the JSON of its answer; tried again where that is safe.

        Args:
            method: of HTTP. A ``POST`` has an ``Idempotency-Key``, the same each time that it is tried.
            path: from ``/v1`` on.
            fields: of the body.
            file: name of its field, and the file; the body is a form then.
            query: parameters.
            patience_s: how long it is tried again; by default ``retries`` times.

        Raises:
            ServerError: it was refused.
            ServerUnreachableError: there was no answer.
            InputError: a field cannot be sent.
        """
        return self.answer(method, path, fields=fields, file=file, query=query, patience_s=patience_s)[0]

    def answer(
        self,
        method: str,
        path: str,
        *,
        fields: Mapping[str, Any] | None = None,
        file: tuple[str, Path] | None = None,
        query: Mapping[str, Any] | None = None,
        patience_s: float | None = None,
    ) -> tuple[Any, Mapping[str, str]]:
        """As :meth:`ask`, with the answer's headers."""
        headers = {"Accept": "application/json"}
        if method == "POST":
            headers["Idempotency-Key"] = uuid.uuid4().hex
        body = None
        if fields is not None and file is None:
            headers["Content-Type"], body = "application/json", _json(fields).encode()

        def once() -> tuple[Any, Mapping[str, str]]:
            with contextlib.ExitStack() as stack, self._reached():
                if file is None:
                    response = self._http.request(method, self.url + path, headers=headers, content=body, params=query)
                else:
                    name, clip = file
                    part = (f"clip{clip.suffix}", stack.enter_context(_opened(clip)), "application/octet-stream")
                    response = self._http.request(
                        method, self.url + path, headers=headers, data=_form(fields or {}), files={name: part}
                    )
            self._check(response)
            return _object(response), response.headers

        return self.tried(once, patience_s=patience_s)

    @contextlib.contextmanager
    def stream(
        self,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, Any] | None = None,
        pause_s: float | None = None,
    ) -> Iterator[httpx2.Response]:
        """A ``GET`` whose body is read bit by bit in the ``with`` block; tried once.

        Args:
            path: from ``/v1`` on.
            headers: of the request.
            query: parameters.
            pause_s: longest wait for the next bit, in seconds; by default the timeout.

        Raises:
            ServerError, ServerUnreachableError: as :meth:`ask`; the latter also if the connection breaks in the block.
        """
        timeout = self._timeout if pause_s is None else httpx2.Timeout(pause_s, connect=self._timeout.connect)
        with (
            self._reached(),
            self._http.stream("GET", self.url + path, headers=headers, params=query, timeout=timeout) as response,
        ):
            if response.status_code >= 300:
                response.read()
            self._check(response)
            yield response

    def tried(self, once: Callable[[], R], *, patience_s: float | None = None) -> R:
        """What ``once`` returns, called again after a pause while its error passes.

        Raises:
            ServerError: of the last time.
        """
        end = None if patience_s is None else time.monotonic() + patience_s
        count = 0
        while True:
            try:
                return once()
            except ServerError as error:
                wait = self.pause(error, count)
                over = count >= self.retries if end is None else time.monotonic() + (wait or 0) > end
                if wait is None or over:
                    raise
                self.sleep(wait)
                count += 1

    def pause(self, error: ServerError, count: int) -> float | None:
        """Seconds to wait before a request is sent again; ``None``: its error does not pass.

        Args:
            error: what it met.
            count: how often it was sent again already.
        """
        if not error.passes or (error.retry_after or 0) > LONGEST_RETRY_AFTER_S:
            return None
        pause = min(FIRST_PAUSE_S * 2**count, LONGEST_PAUSE_S) * random.uniform(0.75, 1)
        return max(pause, error.retry_after or 0)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx2.TransportError as error:
            reason = said(error) or type(error).__name__
            raise ServerUnreachableError(
                f"{self.url} does not answer: {reason}; check the address, and that tav serve runs there", passes=True
            ) from error

    def _check(self, response: httpx2.Response) -> None:
        """Check a response, whose body has been read if it is no success.

        Raises:
            ServerError: it is no success.
        """
        status = response.status_code
        if status < 300:
            return
        if status < 400:
            where = brief(response.headers.get("location", ""))
            raise ServerError(f"{self.url} sends elsewhere, to {where}; give that address", status=status)
        try:
            error = json.loads(response.content)["error"]
            message, code, param = str(error["message"]), error["code"], error["param"]
        except (ValueError, RecursionError, LookupError, TypeError):
            message = f"{self.url} answered {status} {response.reason_phrase}, and not in tav serve's words"
            code = param = None
        if status == 401 and self._token is None:
            message += "; set TAV_TOKEN, or give the client a token"
        passes = status in AGAIN and response.headers.get("x-should-retry") != "false"
        retry_after = response.headers.get("retry-after", "")
        raise ServerError(
            message,
            status=status,
            code=code,
            param=param,
            passes=passes,
            retry_after=float(retry_after) if re.fullmatch(r"[0-9]{1,6}", retry_after) else None,
        )


def checked_url(text: str) -> str:
    """The address of a server, such as ``http://127.0.0.1:8000``, without ``/`` or ``/v1`` at its end.

    Raises:
        InputError: it is none.
    """
    try:
        parts = urlsplit(text)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
        wrong = wrong or parts.username is not None or parts.query or parts.fragment or not re.fullmatch("[!-~]+", text)
    except ValueError:
        wrong = True
    if wrong:
        shown = "one with a name or a password in it" if "@" in text else brief(text)
        raise InputError(f"must be an address such as http://127.0.0.1:8000, got {shown}", field="base_url")
    return text.rstrip("/").removesuffix("/v1").rstrip("/")


def checked_token(token: str | None) -> str | None:
    """A token that a header can have; never repeated in a message.

    Raises:
        InputError: it is none.
    """
    if token is not None and not _TOKEN.fullmatch(token):
        raise InputError(
            f"must be 1 to 4096 visible ASCII characters, got {len(token)} that are not; give the token alone",
            field="token",
        )
    return token


def _is_loopback(url: str) -> bool:
    name = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _json(values: Any) -> str:
    try:
        return json.dumps(values, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"the settings cannot be sent as JSON: {said(error)}; give numbers, texts and booleans"
        ) from error


def _form(fields: Mapping[str, Any]) -> dict[str, str]:
    """Fields as texts."""
    return {name: value if isinstance(value, str) else _json(value) for name, value in fields.items()}


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error


def _object(response: httpx2.Response) -> Any:
    try:
        values = json.loads(response.content)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ServerError(
            f"{response.url} answered with something that is no JSON object; check that tav serve is at this address",
            status=response.status_code,
        )
    return values
