"""JSON of strangers: an object, with what every reader understands in the same way, and nothing else."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from tav_sdk.reading import MAX_DEPTH
from tav_sdk.server.problems import ProblemError


def parse_object(text: bytes | str, *, param: str | None = None) -> dict[str, Any]:
    """The object that a JSON text holds. Half surrogate pairs may be in its strings, not in its names.

    Args:
        text: JSON in UTF-8.
        param: the field that the text came in, if it was one.

    Raises:
        ProblemError: 400 ``invalid_json``: it is no JSON, not UTF-8, nested more than :data:`MAX_DEPTH` deep, has a
            name twice, or a number that overflows; ``invalid_type``, of a field: it is another value than an object.
    """
    what = "the body" if param is None else param

    def refuse(reason: str, code: str = "invalid_json") -> NoReturn:
        raise ProblemError(400, code, f"{what} must be a JSON object, {reason}", param=param) from None

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            refuse("but a number in it is too large")
        return value

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(found)
        if len(values) < len(found):
            names = [name for name, _ in found]
            double = next(name for name in names if names.count(name) > 1)
            refuse(f"but the name {_shown(double)} is in it twice")
        for name in values:
            if not _is_unicode(name):
                refuse("but a name in it has half a surrogate pair")
        return values

    try:
        read = text.decode() if isinstance(text, bytes) else text
        values = json.loads(
            read,
            parse_constant=lambda name: refuse(f"but {name} in it is no JSON"),
            parse_float=number,
            object_pairs_hook=pairs,
        )
    except UnicodeDecodeError as error:
        refuse(f"but it is not text in UTF-8 (byte {error.start})")
    except json.JSONDecodeError as error:
        refuse(f"but it cannot be read at character {error.pos}: {error.msg}")
    except RecursionError:
        refuse(f"but it is nested more than {MAX_DEPTH} deep")
    except ValueError:  # Python reads no whole number of more than 4300 digits
        refuse("but a number in it is too large")
    if not isinstance(values, dict):
        refuse(f"got {type_name(values)}", "invalid_json" if param is None else "invalid_type")
    if _depth(values) > MAX_DEPTH:
        refuse(f"but it is nested more than {MAX_DEPTH} deep")
    return values


def type_name(value: object) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a whole number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")


def _depth(values: Any) -> int:
    """How deep lists and objects are nested; at most one more than :data:`MAX_DEPTH` is counted."""
    depth, level = 0, [values]
    while level and depth <= MAX_DEPTH:
        depth += 1
        below: list[Any] = []
        for value in level:
            inner = value.values() if isinstance(value, dict) else value
            below += [one for one in inner if isinstance(one, (dict, list))]
        level = below
    return depth


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else f"{text[:60]}...")
