"""Paths that somebody gave: that they are paths, such as the system can follow, and regular files where one is read."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tav_sdk.errors import InputError
from tav_sdk.words import brief

_UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP)
"""What the system says of a path that nothing can ever lie at."""


class NotRegularError(OSError):
    """What lies at a path is a folder, a pipe or a device."""


@contextlib.contextmanager
def open_regular(path: str | Path) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file, open for reading, and its size in bytes; links are followed.

    Raises:
        NotRegularError: it is none; nothing was waited for.
        OSError: it cannot be opened.
        ValueError: the name has a zero byte.
    """
    # A named pipe without a writer would wait for one.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotRegularError("it is not a regular file")
        yield file, status.st_size


def as_path(field: str, value: Any) -> Path:
    """A text or an ``os.PathLike`` as a path, whatever it says.

    Raises:
        InputError: it is neither.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise InputError(f"must be a path, got {brief(value)}", field=field)
    return Path(value)


def given_path(field: str, value: Any) -> Path:
    """A path that was given and that the system can follow, whether or not anything lies there.

    Args:
        field: the argument's name.
        value: a text or an ``os.PathLike``.

    Raises:
        InputError: it is none, has a zero byte or a name that is too long, or leads through links in a circle.
    """
    path = as_path(field, value)
    try:
        os.stat(value)
    except ValueError as error:  # a zero byte, or what the system's encoding has no letters for
        raise InputError(f"must be usable, got {brief(os.fspath(value))}: {error}", field=field) from error
    except OSError as error:
        if error.errno in _UNUSABLE:
            raise InputError(f"must be usable, got {brief(os.fspath(value))}: {error.strerror}", field=field) from error
    return path
