"""Where caches lie, and how large they may become."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from tav_sdk.errors import ConfigError, InputError
from tav_sdk.paths import given_path
from tav_sdk.words import brief

ROOT_VARIABLE = "TAV_CACHE"
"""Environment variable: the folder of all caches."""
LIMITS: Mapping[str, int] = {
    "engines": 20 * 10**9,
    "inversions": 10**9,
    "controlnets": 10 * 10**9,
    "unfinished": 5 * 10**9,
}
"""Every kind of cache, and how many bytes it may take unless ``TAV_CACHE_SIZE_<KIND>`` says otherwise."""
MAX_SIZE = 2**63 - 1
"""Largest size in bytes that can be set."""
_SIZE = re.compile(r"(\d{1,19}(?:\.\d{1,19})?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def cache_root() -> Path:
    """The folder of all caches: ``$TAV_CACHE``, or ``tav-sdk`` in the user's cache folder (``$XDG_CACHE_HOME``).

    Raises:
        ConfigError: ``$TAV_CACHE`` is no path that can be used.
    """
    if named := os.environ.get(ROOT_VARIABLE):
        path = os.path.expanduser(named)
        if path.startswith("~"):
            raise ConfigError(f"{ROOT_VARIABLE} is {brief(named)}, and there is no such user; name another folder")
        try:
            return given_path(ROOT_VARIABLE, path).absolute()
        except InputError as error:
            raise ConfigError(f"{error}; let {ROOT_VARIABLE} name a folder, or leave it out") from error
    from platformdirs import user_cache_path

    return user_cache_path("tav-sdk", appauthor=False)


def size_limit(kind: str) -> int:
    """How many bytes a kind of cache may take: ``TAV_CACHE_SIZE_ENGINES``, ``TAV_CACHE_SIZE_INVERSIONS``, or a default.

    The variables take ``20GB`` (10^9 bytes), ``512 MiB`` (2^20 bytes), or a number of bytes.

    Raises:
        InputError: there is no such kind.
        ConfigError: the variable holds no size.
    """
    check_kind(kind)
    name = size_variable(kind)
    text = os.environ.get(name, "").strip()
    if not text:
        return LIMITS[kind]
    return parse_size(text, name)


def parse_size(text: str, what: str) -> int:
    """Bytes of a size such as ``20GB`` (10^9 bytes), ``512 MiB`` (2^20 bytes), or a number of bytes.

    Raises:
        ConfigError: it is no size, or none below 2^63 bytes; the message begins with ``what``, the setting's name.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is not None and (match[2] or not match[3]):
        size = int(float(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2].lower() or " "))
        if size <= MAX_SIZE:
            return size
    raise ConfigError(f"{what}: expected a size such as 20GB, 512MB or 0, got {brief(text)}")


def size_variable(kind: str) -> str:
    """The environment variable of a cache's size limit."""
    return f"TAV_CACHE_SIZE_{kind.upper()}"


def check_kind(kind: str) -> None:
    """Check that there is such a kind of cache.

    Raises:
        InputError: there is not; lists them.
    """
    if kind not in LIMITS:
        raise InputError(f"there is no cache {kind!r}; the caches are {', '.join(LIMITS)}")
