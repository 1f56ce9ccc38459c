"""Who may call: hashed bearer tokens, names of this machine, origins of pages, and how often."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tav_sdk.errors import ConfigError
from tav_sdk.reading import read_text
from tav_sdk.server.headers import Headers, header_values
from tav_sdk.server.problems import ProblemError
from tav_sdk.server.settings import ServerSettings

MAX_TOKEN = 4096
"""Longest token that is looked at, in characters."""
WITHOUT_TOKENS = ""
"""The owner of jobs where there are no tokens."""

_ADVICE = "write a line NAME:SHA256 for each token, where SHA256 is that of the token, in hexadecimal"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]+)(?::(?P<port>[0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Access:
    """The rules of one server.

    Args:
        settings: of the server; its file of tokens is read here, once.

    Raises:
        ConfigError: the file of tokens is damaged, an origin is none, or the server would listen to other machines
            without tokens.
    """

    def __init__(self, settings: ServerSettings) -> None:
        check_listening(settings)
        self.tokens = None if settings.tokens is None else Tokens.read(settings.tokens)
        self._origins = tuple(_checked_origin(origin) for origin in settings.allow_origins)
        self._loopback_only = self.tokens is None and is_loopback(settings.host)

    def owner(self, headers: Headers) -> str:
        """The name of the request's token; empty where there are no tokens.

        Raises:
            ProblemError: 401 ``invalid_token``.
        """
        return WITHOUT_TOKENS if self.tokens is None else self.tokens.owner(headers)

    def check_host(self, headers: Headers) -> None:
        """Check that the request meant this machine; a page elsewhere may have its own name lead here.

        Raises:
            ProblemError: 403 ``host_not_allowed``.
        """
        if not self._loopback_only:
            return
        given = header_values(headers, "host")
        found = _HOST.fullmatch(given[0]) if len(given) == 1 else None
        if found is None or not is_loopback(found["name"]):
            raise ProblemError(
                403,
                "host_not_allowed",
                f"the header Host must be localhost, 127.0.0.1 or [::1], got {_shown(given)}; for other names start "
                "the server with tokens",
            )

    def check_origin(self, headers: Headers) -> str | None:
        """Check which page sent the request.

        Returns:
            The origin if it is another's that was allowed, for :func:`cors_headers`; ``None``: no page, or the
            server's own.

        Raises:
            ProblemError: 403 ``origin_not_allowed``.
        """
        given = header_values(headers, "origin")
        if not given:
            return None
        origin = _normal_origin(given[0]) if len(given) == 1 else None
        if origin is not None:
            if origin in self._origins:
                return given[0]
            hosts = header_values(headers, "host")
            # A proxy in front ends TLS: the server's own page then has https, which is not seen here.
            if len(hosts) == 1 and origin in (_normal_origin(f"{scheme}://{hosts[0]}") for scheme in _DEFAULT_PORTS):
                return None
        raise ProblemError(
            403,
            "origin_not_allowed",
            f"pages of {_shown(given)} may not call this server; open its own page, or start it with that origin "
            "allowed",
        )


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token's owner, and SHA-256 of the token."""

    name: str
    sha256: bytes


class Tokens:
    """The tokens that are known. A name may have several, so that one can be replaced without a pause."""

    def __init__(self, tokens: tuple[Token, ...]) -> None:
        self._tokens = tokens

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """Read a file of tokens: ``NAME:SHA256`` a line; empty lines and lines that begin with ``#`` are left out.

        Raises:
            ConfigError: the file cannot be read, a line is no such line, a token is there twice, or there is none.
                What a line holds is never repeated: it may be the token itself.
        """
        text = read_text(path, max_bytes=1 << 20, error=ConfigError, advice=_ADVICE)
        tokens: dict[bytes, Token] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            name, _, digest = (part.strip() for part in line.partition(":"))
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"{path}, line {number}: expected NAME:SHA256 with a name of 1 to 64 letters, digits, dots, "
                    f"underscores or hyphens; {_ADVICE}"
                )
            if not _SHA256.fullmatch(digest):
                raise ConfigError(
                    f"{path}, line {number}: expected 64 hexadecimal digits after the name {name}, got {len(digest)} "
                    f"characters; {_ADVICE}"
                )
            token = Token(name=name, sha256=bytes.fromhex(digest))
            if token.sha256 in tokens:
                raise ConfigError(f"{path}, line {number}: this token is there already; leave one of the lines out")
            tokens[token.sha256] = token
        if not tokens:
            raise ConfigError(f"{path} has no token; {_ADVICE}")
        return cls(tuple(tokens.values()))

    def owner(self, headers: Headers) -> str:
        """The name of the token in ``Authorization: Bearer TOKEN``.

        Raises:
            ProblemError: 401 ``invalid_token``: there is none, or it is not known.
        """
        given = header_values(headers, "authorization")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > MAX_TOKEN:
            raise _unknown("send a token in the header Authorization: Bearer TOKEN")
        digest = hashlib.sha256(token.encode("latin-1")).digest()
        owner = None
        for known in self._tokens:  # all of them, so that the time says nothing
            if hmac.compare_digest(known.sha256, digest):
                owner = known.name
        if owner is None:
            raise _unknown("this token is not known; ask whoever runs the server for one")
        return owner


class RateLimit:
    """At most so many requests of one owner within any minute.

    Args:
        per_minute: how many; a part of one stretches the minute. ``None``: any number.
        clock: seconds that never fall.
    """

    def __init__(self, per_minute: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        if per_minute is not None and not (math.isfinite(per_minute) and per_minute > 0):
            raise ConfigError(f"the rate must be a number above 0, got {per_minute}; leave it out for none")
        self._clock = clock
        self._most = 0 if per_minute is None else max(1, int(per_minute))
        self._seconds = 0.0 if per_minute is None else 60 * self._most / per_minute
        self._seen: dict[str, deque[float]] = {}

    def count(self, owner: str) -> None:
        """Count a request.

        Raises:
            ProblemError: 429 ``rate_limited`` with ``Retry-After``, 1 to 60 seconds; the request is not counted.
        """
        if not self._most:
            return
        now = self._clock()
        seen = self._seen.setdefault(owner, deque())
        while seen and now - seen[0] >= self._seconds:
            seen.popleft()
        if len(seen) >= self._most:
            wait = min(60, max(1, math.ceil(seen[0] + self._seconds - now)))
            raise ProblemError(
                429,
                "rate_limited",
                f"at most {self._most} requests in {self._seconds:g} s may be sent; try again in {wait} s",
                headers={"Retry-After": str(wait)},
            )
        seen.append(now)


def check_listening(settings: ServerSettings) -> None:
    """Check that other machines cannot call a server that has no tokens.

    Raises:
        ConfigError: they could, and ``insecure`` does not say that they may.
    """
    if settings.tokens is None and not settings.insecure and not is_loopback(settings.host):
        raise ConfigError(
            f"without tokens the server listens on this machine alone, got the host {settings.host!r}; name a file of "
            "tokens, or say that it may be insecure"
        )


def is_loopback(host: str) -> bool:
    """Whether a name or an address, ``[::1]`` in brackets or without, is this machine's for itself."""
    name = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if name.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def cors_headers(origin: str, *, preflight: bool = False) -> dict[str, str]:
    """What tells a browser that a page of an allowed origin may read the answer.

    Args:
        origin: what :meth:`Access.check_origin` gave.
        preflight: whether the request is ``OPTIONS`` with ``Access-Control-Request-Method``, which has no token.
    """
    headers = {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": "X-Request-Id, Retry-After, Idempotent-Replay, openai-poll-after-ms",
        "Vary": "Origin",
    }
    if preflight:
        headers |= {
            "Access-Control-Allow-Methods": "GET, POST, DELETE",
            "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, "
            "X-Request-Id, Range",
            "Access-Control-Max-Age": "600",
        }
    return headers


def _unknown(message: str) -> ProblemError:
    return ProblemError(401, "invalid_token", message, headers={"WWW-Authenticate": "Bearer"})


def _normal_origin(origin: str) -> tuple[str, str, int] | None:
    """Scheme, name and port of an origin; ``None``: it is none."""
    scheme, separator, host = origin.partition("://")
    scheme = scheme.lower()
    found = _HOST.fullmatch(host)
    if not separator or scheme not in _DEFAULT_PORTS or found is None:
        return None
    return scheme, found["name"].lower(), int(found["port"] or _DEFAULT_PORTS[scheme])


def _checked_origin(origin: str) -> tuple[str, str, int]:
    normal = _normal_origin(origin.removesuffix("/"))
    if normal is None or urlsplit(origin).path.strip("/"):
        raise ConfigError(f"an allowed origin must be like https://example.org, got {origin!r}; * is not one")
    return normal


def _shown(given: list[str]) -> str:
    if not given:
        return "none"
    text = given[0] if len(given) == 1 else f"{len(given)} values"
    return ascii(text[:80])[1:-1]
