"""Reading files that anyone may have written: regular, of bounded size and depth, and typed by pydantic models."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tav_sdk.errors import TavError
from tav_sdk.paths import NotRegularError, open_regular
from tav_sdk.words import brief, is_utf8

MAX_JSON_BYTES = 16 << 20
"""Largest JSON file that is read: tokenizers have a few MiB. What is read takes up to 25 times as much memory."""

MAX_CONFIG_BYTES = 1 << 20
"""Largest file of settings that is read."""

MAX_DEPTH = 64
"""Deepest nesting of lists and objects in a file."""

_UNION = re.compile(r"constrained-|function-|list\[|dict\[|(int|float|str|bool|list|dict)$")
"""What pydantic calls a member of a union, among the places of a value."""

ModelT = TypeVar("ModelT", bound=BaseModel)


def read_bytes(path: str | Path, *, max_bytes: int, error: type[TavError], advice: str) -> bytes:
    """A regular file's bytes; nothing is read of a file that is larger.

    Args:
        path: links are followed; a pipe, a device or a folder is refused at once.
        max_bytes: largest size, in bytes.
        error: what is raised.
        advice: what to do about it; ends the message, without a full stop.

    Raises:
        TavError: of the class ``error``: the file is not there, cannot be read, is no regular file, or is larger.
    """
    try:
        with open_regular(path) as (file, size):
            if size > max_bytes:
                raise error(f"{path} has {size} bytes, more than the {max_bytes} that are read; {advice}")
            content = file.read(max_bytes + 1)
    except NotRegularError as problem:
        raise error(f"{path} is not a regular file; {advice}") from problem
    except (OSError, ValueError) as problem:  # ValueError: a zero byte in the name
        if isinstance(problem, TavError):
            raise
        reason = getattr(problem, "strerror", None) or str(problem)
        raise error(f"{path} cannot be read: {reason}; {advice}") from problem
    if len(content) > max_bytes:
        raise error(f"{path} has more than the {max_bytes} bytes that are read; {advice}")
    return content


def read_text(path: str | Path, *, max_bytes: int = MAX_JSON_BYTES, error: type[TavError], advice: str) -> str:
    """A regular file's text in UTF-8, a byte order mark left out; otherwise as :func:`read_bytes`.

    Raises:
        TavError: of the class ``error``: as :func:`read_bytes`, or the text is not UTF-8.
    """
    content = read_bytes(path, max_bytes=max_bytes, error=error, advice=advice)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(f"{path} is not text in UTF-8 (byte {problem.start}); {advice}") from problem


def read_json(path: str | Path, *, max_bytes: int = MAX_JSON_BYTES, error: type[TavError], advice: str) -> Any:
    """What a JSON file holds; arguments as :func:`read_bytes`.

    Raises:
        TavError: of the class ``error``: as :func:`read_text` and :func:`parse_json`.
    """
    text = read_text(path, max_bytes=max_bytes, error=error, advice=advice)
    return parse_json(text, what=str(path), error=error, advice=advice)


def parse_json(text: str, *, what: str, error: type[TavError], advice: str) -> Any:
    """What a JSON text holds, nested at most :data:`MAX_DEPTH` deep, its strings valid Unicode.

    Args:
        text: the JSON text.
        what: names the text in messages.
        error: what is raised.
        advice: what to do about it.

    Raises:
        TavError: of the class ``error``: the text is not JSON, too deep, or has half a surrogate pair in a string.
    """
    try:
        values = json.loads(text)
    except RecursionError as problem:
        raise error(f"{what} is nested more than {MAX_DEPTH} deep; {advice}") from problem
    except ValueError as problem:
        raise error(f"{what} is not valid JSON: {problem}; {advice}") from problem
    return checked_values(values, what=what, error=error, advice=advice)


def checked_values(values: Any, *, what: str, error: type[TavError], advice: str) -> Any:
    """The same values of a JSON or YAML text, if they are not too deep and their strings are valid Unicode.

    Raises:
        TavError: of the class ``error``, as :func:`parse_json`.
    """
    level = [values]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.keys()
                below += value.values()
            elif isinstance(value, (list, tuple)):
                below += value
            elif isinstance(value, str) and not is_utf8(value):
                raise error(f"{what} has half a surrogate pair in a string: {ascii(value)[:60]}; {advice}")
        if not below:
            return values
        level = below
    raise error(f"{what} is nested more than {MAX_DEPTH} deep; {advice}")


def validated(model: type[ModelT], values: Any, *, what: str, error: type[TavError], advice: str) -> ModelT:
    """Values as a pydantic model.

    Raises:
        TavError: of the class ``error``: the first thing that is wrong, by its place in the values.
    """
    try:
        return model.model_validate(values)
    except (ValidationError, RecursionError) as problem:
        raise error(f"{what} is not valid: {first_problem(problem)}; {advice}") from problem


def first_problem(problem: Exception) -> str:
    """The first thing that a pydantic model found wrong: its place, what was expected, and what came, cut short."""
    if not isinstance(problem, ValidationError):
        return "it is nested too deep"
    problems = problem.errors(include_url=False)
    # Of a union each kind has its own complaint: the one that goes deepest is of the kind that was meant.
    first = max((one for one in problems if one["loc"][:1] == problems[0]["loc"][:1]), key=lambda one: len(one["loc"]))
    where = ascii(".".join(str(place) for place in first["loc"] if not _UNION.match(str(place))))[1:-1][:120]
    came = "" if first["type"] == "missing" else f", got {brief(first['input'])}"
    return f"{where}: {first['msg']}{came}" if where else f"{first['msg']}{came}"
