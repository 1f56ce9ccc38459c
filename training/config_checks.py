"""What the values of a tuning configuration may be: types, and the least and most of every number."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any, get_args

from tav_sdk.errors import ConfigError, PromptError
from tav_sdk.training.base.recommended import MAX_SIDE
from tav_sdk.words import brief, is_utf8

WHOLE: dict[str, tuple[int, int]] = {
    "num_frames": (1, 4096),
    "start": (0, 2**31 - 1),
    "stride": (1, 2**31 - 1),
    "height": (1, MAX_SIDE),
    "width": (1, MAX_SIDE),
    "num_train_steps": (1, 10_000_000),
    "checkpointing_steps": (1, 2**31 - 1),
    "seed": (0, 2**43 - 1),  # each step has a seed of its own, a million apart, below 2^63
}
"""Least and most of the whole numbers of a configuration."""
POSITIVE: dict[str, float] = {"learning_rate": 1e3, "max_grad_norm": 1e9, "adam_epsilon": 1.0}
"""Most of the positive numbers of a configuration."""
MAX_WEIGHT_DECAY = 1e3
MAX_PROMPT, MAX_PATH, MAX_LORAS = 10_000, 4096, 64
"""Most characters of a prompt and of a path or id, and most LoRAs."""


def check_choice(name: str, value: object, kind: Any) -> None:
    """Raise ``ConfigError`` unless ``value`` is one of the ``Literal`` type ``kind``."""
    if value not in get_args(kind):
        raise ConfigError(f"{name} must be one of {', '.join(map(str, get_args(kind)))}; got {brief(value)}")


def check_bool(name: str, value: object) -> None:
    """Raise ``ConfigError`` unless ``value`` is true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, got {brief(value)}")


def check_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise ``ConfigError`` for the first key of ``given`` not in ``known``, naming the nearest known one."""
    known = list(known)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key)[:100], known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
            raise ConfigError(f"unknown key {brief(key)} in {where}; {hint}")


def cast_field(name: str, spec: dataclasses.Field, value: Any) -> Any:
    """YAML reads ``3e-5`` as a string; numbers are taken as what the field is, and nothing else is guessed.

    Raises:
        ConfigError: the value is of another type than the field.
    """
    kind = str(spec.type)
    if kind in ("int", "float") and not isinstance(value, bool):
        if isinstance(value, int) and kind == "int":
            return value
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = None
        if number is not None and (kind == "float" or number.is_integer()):
            return number if kind == "float" else int(number)
    elif (kind == "bool" and isinstance(value, bool)) or kind not in ("int", "float", "bool", "str"):
        return value
    elif kind == "str" and isinstance(value, (str, Path)):
        return str(value)
    raise ConfigError(f"{name} must be of type {kind}, got {brief(value)}")


def check_text(name: str, value: object) -> str:
    """A path or an id as text.

    Raises:
        ConfigError: it is none, or longer than any.
    """
    if not isinstance(value, (str, Path)):
        raise ConfigError(f"{name} must be a text, got {brief(value)}")
    if len(text := str(value)) > MAX_PATH or "\0" in text:
        raise ConfigError(
            f"{name} must be at most {MAX_PATH} characters without a zero byte, got {len(text)}: {brief(text)}"
        )
    return text


def check_prompt(prompt: object) -> None:
    """Raise ``PromptError`` unless it can be a clip's caption."""
    if not isinstance(prompt, str):
        raise PromptError(f"the clip's prompt must be a text, got {brief(prompt)}")
    if not prompt.strip():
        raise PromptError("the clip's prompt is empty; describe what the clip shows, such as 'a man is skiing'")
    if len(prompt) > MAX_PROMPT:
        raise PromptError(f"the clip's prompt must be at most {MAX_PROMPT} characters, got {len(prompt)}; shorten it")
    if not is_utf8(prompt):
        raise PromptError(f"the clip's prompt is not valid Unicode: {brief(prompt)}; write it in UTF-8")


def check_whole(name: str, value: object) -> int:
    """A whole number within what :data:`WHOLE` allows it.

    Raises:
        ConfigError: it is none, or out of range.
    """
    least, most = WHOLE[name]
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ConfigError(f"{name} must be a whole number, got {brief(value)}")
    number = int(value)
    if number < least:
        expected = f"be at least {least}" if least else "not be negative"
        raise ConfigError(f"{name} must {expected}, got {brief(number)}")
    if number > most:
        raise ConfigError(f"{name} must be at most {most}, got {brief(number)}")
    return number


def check_finite(name: str, value: object) -> float:
    """A finite number.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"{name} must be a number, got {brief(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(f"{name} must be finite, got {brief(value)}")
    return number
