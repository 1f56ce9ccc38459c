"""Rules for the fields of a request: one each, which judges values of JSON and texts of forms, and describes itself."""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from tav_sdk.server.problems import ProblemError
from tav_sdk.server.strict_json import type_name

_WHOLE = re.compile(r"-?[0-9]+")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_MAX_DIGITS = 40


class Rule(Protocol):
    """What one field may be."""

    def read(self, value: Any, param: str, *, form: bool) -> Any:
        """The field's value.

        Args:
            value: of JSON, or a text of a form; never ``None``.
            param: the field's name for messages.
            form: whether it is a text of a form.

        Raises:
            ProblemError: 400 ``invalid_type`` or ``invalid_value``.
        """
        ...

    @property
    def schema(self) -> dict[str, Any]:
        """The rule as a JSON schema, for the OpenAPI document."""
        ...


Table = Mapping[str, Rule]
"""The fields of a request by name."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A whole number from ``least`` to ``most``."""

    least: int
    most: int

    def read(self, value: Any, param: str, *, form: bool) -> int:
        if form and isinstance(value, str) and _WHOLE.fullmatch(value) and len(value) <= _MAX_DIGITS:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            wrong_type(param, f"a whole number from {self.least} to {self.most}", value, form=form)
        if not self.least <= value <= self.most:
            wrong_value(param, f"a whole number from {self.least} to {self.most}", value)
        return value

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number from ``least`` (or above it) to ``most``."""

    least: float
    most: float
    above: bool = False

    def read(self, value: Any, param: str, *, form: bool) -> float:
        if form and isinstance(value, str) and _NUMBER.fullmatch(value) and len(value) <= _MAX_DIGITS:
            value = float(value)
        words = f"a number from {self.least:g} to {self.most:g}"
        if self.above:
            words = f"a number above {self.least:g}, at most {self.most:g}"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            wrong_type(param, words, value, form=form)
        if not self.least <= value <= self.most or (self.above and value == self.least):
            wrong_value(param, words, value)
        return float(value)

    @property
    def schema(self) -> dict[str, Any]:
        least = "exclusiveMinimum" if self.above else "minimum"
        return {"type": "number", least: self.least, "maximum": self.most}


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A boolean; ``true`` or ``false`` in a form."""

    def read(self, value: Any, param: str, *, form: bool) -> bool:
        if form and value in ("true", "false"):
            return value == "true"
        if not isinstance(value, bool):
            wrong_type(param, "true or false", value, form=form)
        return value

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text of ``least`` to ``most`` characters, with no control characters but line feeds and tabs.

    Attributes:
        blank: whether it may be spaces alone.
    """

    least: int = 0
    most: int
    blank: bool = True

    def read(self, value: Any, param: str, *, form: bool) -> str:
        words = f"a text of {self.least} to {self.most} characters"
        if not isinstance(value, str):
            wrong_type(param, words, value, form=form)
        if not self.least <= len(value) <= self.most:
            refuse_value(param, f"must be {words}, got {len(value)}")
        if not self.blank and not value.strip():
            refuse_value(param, "must not be blank; say what the video shows")
        for at, character in enumerate(value):
            kind = unicodedata.category(character)
            if kind == "Cs":
                refuse_value(param, f"must be Unicode, but has half a surrogate pair at character {at}")
            if kind == "Cc" and character not in "\n\t":
                refuse_value(param, f"must have no control characters, but has {character!a} at character {at}")
        return value

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": self.least, "maxLength": self.most}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of some words."""

    of: tuple[str, ...]

    def read(self, value: Any, param: str, *, form: bool) -> str:
        words = f"{', '.join(self.of[:-1])} or {self.of[-1]}"
        if not isinstance(value, str):
            wrong_type(param, words, value, form=form)
        if value not in self.of:
            wrong_value(param, words, value)
        return value

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.of)}


@dataclass(frozen=True, kw_only=True)
class Size:
    """``WxH`` in pixels, each from 1 to ``most``."""

    most: int = 8192

    def read(self, value: Any, param: str, *, form: bool) -> tuple[int, int]:
        """Width and height."""
        words = f"WIDTHxHEIGHT in pixels, such as 512x320, each from 1 to {self.most}"
        if not isinstance(value, str):
            wrong_type(param, words, value, form=form)
        found = _SIZE.fullmatch(value)
        if found is None or max(int(found[1]), int(found[2])) > self.most:
            wrong_value(param, words, value)
        return int(found[1]), int(found[2])

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^[1-9][0-9]{0,3}x[1-9][0-9]{0,3}$"}


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Seconds above 0, at most ``most``, as a text: in JSON as well, as in OpenAI's API."""

    most: float = 86400

    def read(self, value: Any, param: str, *, form: bool) -> float:
        words = f'seconds as a string, such as "4", above 0 and at most {self.most:g}'
        if not isinstance(value, str):
            wrong_type(param, words, value, form=form)
        if not _NUMBER.fullmatch(value) or len(value) > _MAX_DIGITS or not 0 < float(value) <= self.most:
            wrong_value(param, words, value)
        return float(value)

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?$"}


@dataclass(frozen=True, kw_only=True)
class Name:
    """An id of a model that is to be: ``[a-z0-9][a-z0-9._-]{0,63}``."""

    def read(self, value: Any, param: str, *, form: bool) -> str:
        words = "1 to 64 of a-z, 0-9, dot, underscore and hyphen, a letter or digit first"
        if not isinstance(value, str):
            wrong_type(param, words, value, form=form)
        if not MODEL_ID.fullmatch(value):
            wrong_value(param, words, value)
        return value

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{MODEL_ID.pattern}$"}


MODEL_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""What the id of a model is."""


def read_fields(table: Table, given: Mapping[str, Any], *, form: bool, prefix: str = "") -> dict[str, Any]:
    """The fields that are given, judged; ``None`` is not given.

    Args:
        table: the fields that may be given.
        given: values by name.
        form: whether they are texts of a form.
        prefix: before each name in messages, such as ``extra_params.``.

    Raises:
        ProblemError: 400 ``unknown_parameter``, ``invalid_type`` or ``invalid_value``; its ``param`` is the field.
    """
    for name in given:
        if name not in table:
            raise unknown(name, list(table), prefix=prefix)
    return {
        name: rule.read(given[name], f"{prefix}{name}", form=form)
        for name, rule in table.items()
        if given.get(name) is not None
    }


def schema_of(table: Table, *, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """A table as the JSON schema of an object."""
    properties = {name: rule.schema for name, rule in table.items()}
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": list(required)} if required else {}),
    }


def unknown(name: str, known: list[str], *, prefix: str = "") -> ProblemError:
    """What is said of a field that there is not; names the nearest one that there is."""
    near = difflib.get_close_matches(name[:100], known, 1, 0.7)
    param = prefix + (name if len(name) <= 100 else f"{name[:100]}...")
    hint = f"; did you mean {prefix}{near[0]}?" if near else "; leave it out"
    return ProblemError(400, "unknown_parameter", f"there is no field {param}{hint}", param=param)


def missing(param: str, reason: str) -> ProblemError:
    """What is said when a field has to be given."""
    return ProblemError(400, "missing_parameter", f"{param} is missing; {reason}", param=param)


def wrong_type(param: str, expected: str, value: Any, *, form: bool) -> NoReturn:
    """Refuse a value of another type."""
    got = shown(value) if form else type_name(value)
    raise ProblemError(400, "invalid_type", f"{param} must be {expected}, got {got}", param=param)


def wrong_value(param: str, expected: str, value: Any) -> NoReturn:
    """Refuse a value that is none of those."""
    refuse_value(param, f"must be {expected}, got {shown(value)}")


def refuse_value(param: str, reason: str) -> NoReturn:
    """Refuse a value for a reason that goes on where its name ends."""
    raise ProblemError(400, "invalid_value", f"{param} {reason}", param=param)


def shown(value: Any) -> str:
    """A value for a message: short, and without what cannot be sent."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    if isinstance(value, int) and abs(value) >= 10**_MAX_DIGITS:
        return "a larger one" if value > 0 else "a smaller one"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
