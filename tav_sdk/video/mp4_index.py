"""An mp4 file's tables of samples, checked before FFmpeg builds its index: a few bytes can declare 80 million."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tav_sdk.errors import NotAVideoError, TruncatedVideoError

_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"mvex", b"edts", b"dinf"}
_MAX_BOXES, _MAX_DEPTH = 1_000_000, 16
_MAX_RUNS = 1 << 20


def check_mp4_index(path: Path) -> None:
    """Check that the tables of an mp4 or mov file name no more samples than the file has bytes.

    Files of other kinds pass. What is broken in another way passes, too: FFmpeg says it.

    Raises:
        TruncatedVideoError: a table names more.
        NotAVideoError: the index is compressed, or has more boxes than are read.
    """
    size = os.path.getsize(path)
    with path.open("rb") as file:
        if file.read(8)[4:] not in (b"ftyp", b"moov", b"wide", b"free", b"skip", b"mdat", b"pnot"):
            return
        for boxes, (kind, start, end) in enumerate(_boxes(file, 0, size, 0)):
            if boxes > _MAX_BOXES or kind == b"cmov":
                raise NotAVideoError(
                    f"{path} has a compressed index (cmov) or too many boxes. Convert it to a usual mp4 first."
                )
            file.seek(start)
            if (samples := _samples(file, kind, end - start)) > size:
                raise TruncatedVideoError(
                    f"{path} is truncated or damaged: its index names {samples} samples, the file has {size} bytes. "
                    "Copy or download the file again."
                )


def _boxes(file: BinaryIO, start: int, end: int, depth: int) -> Iterator[tuple[bytes, int, int]]:
    """Each box with the place of its content, those in containers after their container."""
    while start + 8 <= end:
        file.seek(start)
        length, kind = struct.unpack(">I4s", file.read(8))
        content = start + 8
        if length == 1:
            wide = file.read(8)
            if len(wide) < 8:
                return
            (length,) = struct.unpack(">Q", wide)
            content += 8
        stop = end if length == 0 else start + length
        if stop < content:
            return
        stop = min(stop, end)
        yield kind, content, stop
        if kind in _CONTAINERS and depth < _MAX_DEPTH:
            yield from _boxes(file, content, stop, depth + 1)
        start = stop


def _samples(file: BinaryIO, kind: bytes, length: int) -> int:
    """How many samples a box speaks of; 0 for boxes that are no table of samples."""
    head = file.read(min(length, 12))
    if kind in (b"stsz", b"stz2", b"trun"):
        at = 4 if kind == b"trun" else 8
        return int.from_bytes(head[at : at + 4], "big") if len(head) >= at + 4 else 0
    if kind in (b"stts", b"ctts") and len(head) >= 8:
        file.seek(-len(head) + 8, os.SEEK_CUR)
        runs = min(int.from_bytes(head[4:8], "big"), (length - 8) // 8, _MAX_RUNS)
        table = file.read(8 * runs)
        return sum(struct.unpack_from(">I", table, 8 * run)[0] for run in range(len(table) // 8))
    return 0
