"""Valid files changed by place: JSON values, headers, tables of an mp4, and bytes."""

from __future__ import annotations

import copy
import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.formats import Kind

_DEEP = "@deep:{}@"
_HUGE = "@huge:{}@"
_INTEGERS = (0, -1, 1, 2, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64, -(2**31), -(2**63), 10**30)
_NUMBERS = (0.5, -0.5, 1e20, 1e308, -1e308, 1e-320, float("nan"), float("inf"), float("-inf"), _HUGE.format(400))
_TEXTS = (
    *("", " ", "0", "nan", "float32", "x" * 300, "x" * 100_000, "\ud800", "zero\0byte", "\x1b[31mred\x1b[0m\x07"),
    *("../../../etc/passwd", "/dev/zero", "/", ".", "a\nb", "(a+)+$", "é" * 200, "\u202e", "%s%n", "[/]"),
)
_OTHERS = (None, True, False, [], {}, [[]], {"": None}, [None] * 1000, list(range(70)))
_DEPTHS = (10, 70, 1000, 100_000)
VALUES: tuple[Any, ...] = (*_INTEGERS, *_NUMBERS, *_TEXTS, *_OTHERS, *(_DEEP.format(depth) for depth in _DEPTHS))
"""Values that a reader might stumble over, for any place."""

_WORDS = tuple(value & (2**32 - 1) for value in (0, 1, 2, -1, 2**31 - 1, 2**31, 2**24, 2**16, 80_000_000, -(2**30)))
_BOXES = (
    *(b"ftyp", b"moov", b"mvhd", b"trak", b"tkhd", b"mdia", b"mdhd", b"hdlr", b"minf", b"stbl", b"stsd", b"avc1"),
    *(b"avcC", b"pasp", b"stts", b"ctts", b"stss", b"stsc", b"stsz", b"stco", b"edts", b"elst", b"mdat", b"udta"),
)
_YAML = (
    b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nbase: *c\n",
    b"base: &a [*a]\n",
    b"!!python/object/apply:os.system ['true']\n",
    b"? [a, b]\n: c\n",
    b"base: 2020-01-01\nseed: 0x10\nlearning_rate: .inf\n",
    b"- base\n- video\n",
    b"base: !!binary aGFsbG8=\n",
    b"<<: 3\n",
    b"inflation: 3\n",
    b"1: 2\nnull: 3\n",
)


def contents(kind: Kind, valid: bytes) -> st.SearchStrategy[bytes]:
    """Changed contents of a valid file, by how it is built."""
    rng = st.randoms(use_true_random=True)  # seeded; one draw a case
    changed = rng.map(lambda random: _CHANGES[kind](valid, random))
    return st.one_of(changed, changed, changed, rng.map(lambda random: change_bytes(valid, random)))


# --- JSON -----------------------------------------------------------------------------------------------------------


def change_values(values: Any, rng: random.Random) -> Any:
    """The values with one to three of their places changed."""
    values = json.loads(json.dumps(values))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = [((), None), *_places(values)]
        path, _ = rng.choice(places)
        values = _at(values, list(path), partial(_other, places=places, rng=rng))
    return values


def _places(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    found = []
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        found.append(((*path, key), value))
        found += _places(value, (*path, key))
    return found


def _at(values: Any, path: list[Any], change: Callable[[Any], Any]) -> Any:
    if not path:
        return change(values)
    try:
        values[path[0]] = _at(values[path[0]], path[1:], change)
    except (KeyError, IndexError, TypeError):
        return change(values)
    return values


def _other(value: Any, places: list[tuple[tuple[Any, ...], Any]], rng: random.Random) -> Any:
    kind = rng.randrange(10)
    if kind == 0:
        return [value]
    if kind == 1:
        return {"a": value}
    if kind == 2:
        return str(value)
    if kind == 3:
        return copy.deepcopy(rng.choice(places)[1])  # a value from another place
    if isinstance(value, dict) and value and kind < 8:
        key = rng.choice(list(value))
        kept = {name: inner for name, inner in value.items() if name != key}
        if kind == 4:
            return kept
        return {**kept, rng.choice([text for text in _TEXTS if text] + ["unknown"]): value[key]}
    if isinstance(value, list) and value and kind < 8:
        return value[:-1] if kind == 4 else value * rng.choice((2, 100))
    if isinstance(value, (int, float)) and not isinstance(value, bool) and kind < 6:
        return rng.choice((-value, value * 1_000_000, value + 1, value - 1, value * 1e30))
    return copy.deepcopy(rng.choice(VALUES))


def json_text(values: Any) -> str:
    """As JSON; deep lists and numbers of many digits are written out here."""
    text = json.dumps(values)
    text = re.sub(r'"@deep:(\d+)@"', lambda found: "[" * int(found[1]) + "]" * int(found[1]), text)
    return re.sub(r'"@huge:(\d+)@"', lambda found: "9" * int(found[1]), text)


def change_json(valid: bytes, rng: random.Random) -> bytes:
    """A JSON file with other values, or with text that is no JSON."""
    text = json_text(change_values(json.loads(valid), rng)).encode()
    kind = rng.randrange(12)
    if kind == 0:
        return b"\xef\xbb\xbf" + text
    if kind == 1:
        return rng.choice((b"", b"null", b"3", b'"x"', b"[]", b"{}", b"{" * 100_000, b"[" * 100_000, b"\xff\xfe"))
    return text


def change_yaml(valid: bytes, rng: random.Random) -> bytes:
    """A YAML file with other values, or with what YAML has beside values."""
    import yaml

    if rng.randrange(4) == 0:
        return rng.choice((b"", valid)) + rng.choice(_YAML)
    return json_text(change_values(yaml.safe_load(valid), rng)).encode()


# --- bytes ----------------------------------------------------------------------------------------------------------


def change_bytes(valid: bytes, rng: random.Random) -> bytes:
    """Flipped, cut, spliced, overwritten with numbers."""
    data = bytearray(valid)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        if not data:
            break
        at, kind = rng.randrange(len(data)), rng.randrange(6)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            data[at : at + 4] = struct.pack(rng.choice(("<I", ">I")), rng.choice(_WORDS))
        elif kind == 3:
            length = rng.randrange(1, 200)
            start = rng.randrange(len(data))
            data[at : at + rng.choice((0, length))] = data[start : start + length]
        elif kind == 4 and rng.randrange(3) == 0:
            del data[at:]
        else:
            del data[at : at + rng.randrange(1, 9)]
    return bytes(data)


def change_safetensors(valid: bytes, rng: random.Random) -> bytes:
    """Another header, most often with the length that it has."""
    length = int.from_bytes(valid[:8], "little")
    header = json.loads(valid[8 : 8 + length])
    metadata = dict(header.get("__metadata__") or {})
    told = [name for name, text in metadata.items() if text[:1] in "{["]
    if told and rng.randrange(2):  # JSON in a text of the header
        name = rng.choice(told)
        text = change_json(metadata[name].encode(), rng).decode("utf-8", "replace")
        changed = {**header, "__metadata__": {**metadata, name: text}}
    else:
        changed = change_values(header, rng)
    text = json_text(changed).encode()
    told_length = len(text) if rng.randrange(8) else rng.choice((0, 2**63, 2**64 - 1, 10**9, len(text) + 1))
    return told_length.to_bytes(8, "little") + text + valid[8 + length :]


def change_npz(valid: bytes, rng: random.Random) -> bytes:
    """Arrays with other shapes and dtypes in their heads."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(valid)) as given, zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        chosen = rng.choice(given.namelist())
        for name in given.namelist():
            data = given.read(name)
            archive.writestr(name, _other_array(data, rng) if name == chosen else data)
    return written.getvalue()


def _other_array(data: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(data[8:10], "little")
    shape = rng.choice(("(1099511627776,)", "(-1,)", "(2, 3)", "()", "(0,)", "(1,)" * 3, "[1]", "(" * 3000, "(True,)"))
    descr = rng.choice(("<f4", "|O", "<c16", "<U9", "<M8[s]", "|V8", ">f8", "x", "<f4" * 30, "<U99999999"))
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    if rng.randrange(3) == 0:
        return rng.choice((b"", data[:20], b"\x80\x04N.", data + bytes(1000)))
    if rng.randrange(8) == 0:
        return data[:8] + head[: length + 2] + data
    return data[:8] + len(head).to_bytes(2, "little") + head + data[10 + length :]


def change_mp4(valid: bytes, rng: random.Random) -> bytes:
    """Other numbers in the index."""
    data = bytearray(valid)
    there = [name for name in _BOXES if name in valid]
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = valid.index(rng.choice(there)) + 4 * rng.randrange(-1, 14) + rng.choice((0, 0, 0, 2))
        at = max(0, min(at, len(data) - 4))
        data[at : at + 4] = struct.pack(">I", rng.choice((*_WORDS, rng.randrange(2**32))))
    return bytes(data)


def change_gif(valid: bytes, rng: random.Random) -> bytes:
    """Other sizes, delays and places of pictures."""
    data = bytearray(valid)
    places = [
        6,
        8,
        *(at + 4 for at in _found(valid, b"\x21\xf9\x04")),
        *(at + 1 for at in _found(valid, b"\x2c\0\0\0\0")),
    ]
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.choice(places) + rng.choice((0, 4, 6))
        data[at : at + 2] = struct.pack("<H", rng.choice((0, 1, 255, 16_000, 65_535, rng.randrange(65_536))))
    return bytes(data)


def _found(data: bytes, part: bytes) -> list[int]:
    return [found.start() for found in re.finditer(re.escape(part), data)]


_CHANGES: dict[Kind, Callable[[bytes, random.Random], bytes]] = {
    "json": change_json,
    "yaml": change_yaml,
    "safetensors": change_safetensors,
    "npz": change_npz,
    "mp4": change_mp4,
    "gif": change_gif,
    "bytes": change_bytes,
}
