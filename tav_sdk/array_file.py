"""numpy's own files, ``.npy`` and ``.npz``, whose sizes are compared before anything is allocated. Never unpickled."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from tav_sdk.paths import open_regular

Spec = tuple[str, tuple[int, ...]]
"""numpy's name of a dtype, and a shape."""
MAX_BYTES = 1 << 30
"""What the arrays of one ``.npz`` file may take together."""
_MAX_HEADER = 10_000
_BAD = (
    OSError,
    ValueError,
    EOFError,
    SyntaxError,
    RecursionError,
    MemoryError,
    zipfile.BadZipFile,
    NotImplementedError,
)
"""What numpy and zipfile raise of damaged files."""


def read_array(path: Path, *, dtype: str, axes: int, max_bytes: int) -> np.ndarray:
    """The array of an ``.npy`` file.

    Args:
        path: the file.
        dtype: numpy's name of what it has to hold.
        axes: how many it has to have.
        max_bytes: most that it may hold.

    Raises:
        ValueError: it is no regular file, or holds something else; says what.
    """
    try:
        with open_regular(path) as (file, whole):
            kind, shape, order = _header(file)
            _check(kind, shape, dtype)
            if len(shape) != axes:
                raise ValueError(f"expected {axes} axes, got {list(shape)}")
            size = whole - file.tell()
            if size > max_bytes:
                raise ValueError(f"it has {size} bytes, at most {max_bytes} are read")
            return _content(file, kind, shape, order, size)
    except _BAD as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_arrays(path: Path, specs: Mapping[str, Spec]) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file.

    Args:
        path: a regular file.
        specs: all that it may hold; an axis that is -1 there may have any length.

    Raises:
        ValueError: it is damaged, or holds something else; says what.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > len(specs):
                raise ValueError(f"it holds {len(members)} arrays, at most {len(specs)} belong into it")
            if (total := sum(member.file_size for member in members)) > MAX_BYTES:
                raise ValueError(f"its arrays have {total} bytes, at most {MAX_BYTES} are read")
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name not in specs or name in arrays:
                    raise ValueError(f"it holds {ascii(name)[:80]}, which does not belong into it")
                arrays[name] = _member(archive, member, *specs[name])
    except _BAD as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return arrays


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, dtype: str, expected: tuple[int, ...]) -> np.ndarray:
    """One array."""
    with archive.open(member) as file:
        kind, shape, order = _header(file)
        _check(kind, shape, dtype)
        fits = len(shape) == len(expected) and all(want in (got, -1) for want, got in zip(expected, shape, strict=True))
        if not fits:
            raise ValueError(f"{member.filename} has the shape {list(shape)}, expected {list(expected)}")
        return _content(file, kind, shape, order, member.file_size - file.tell())


def _header(file: IO[bytes]) -> tuple[np.dtype, tuple[int, ...], bool]:
    """dtype, shape, and whether it is in Fortran's order; at most :data:`_MAX_HEADER` characters are looked at."""
    version = np.lib.format.read_magic(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if version == (1, 0):
            read = np.lib.format.read_array_header_1_0
        elif version == (2, 0):
            read = np.lib.format.read_array_header_2_0
        else:
            raise ValueError(f"it is of numpy's format {version}")
        try:
            shape, order, kind = read(file, max_header_size=_MAX_HEADER)
        except (ValueError, OSError):
            raise
        except Exception as error:
            raise ValueError(f"its header is none: {error}") from error
    if kind.hasobject:
        raise ValueError("Object arrays cannot be loaded")  # they would be unpickled
    return kind, shape, order


def _check(kind: np.dtype, shape: tuple[int, ...], dtype: str) -> None:
    if kind.name != dtype or not kind.isnative:
        raise ValueError(f"expected {dtype}, got {kind}")
    if any(axis < 0 for axis in shape):
        raise ValueError(f"it has the shape {list(shape)}")


def _content(file: IO[bytes], kind: np.dtype, shape: tuple[int, ...], order: bool, size: int) -> np.ndarray:
    """The array, if the bytes that are left are just its own."""
    length = kind.itemsize
    for axis in shape:
        length *= axis
    if length != size:
        raise ValueError(f"{kind}{list(shape)} takes {length} bytes, {size} are left")
    content = bytearray(file.read(length + 1))
    if len(content) != length:
        raise ValueError(f"{length} bytes were said, {len(content)} came")
    return np.frombuffer(content, kind).reshape(shape, order="F" if order else "C")
