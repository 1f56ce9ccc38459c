"""Values of a request by their kind: texts, numbers, switches, and parts that are requests of their own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tav_sdk.errors import InputError, PromptError
from tav_sdk.words import brief, is_utf8


def check_kind(field: str, value: Any, kind: type) -> None:
    """Check a part of a request.

    Raises:
        InputError: it is of another kind.
    """
    if not isinstance(value, kind):
        raise InputError(f"must be of the kind {kind.__name__}, got {brief(value)}", field=field)


def check_switch(field: str, value: Any) -> None:
    """Check what is on or off.

    Raises:
        InputError: it is neither ``True`` nor ``False``.
    """
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"must be True or False, got {brief(value)}", field=field)


def check_text(field: str, text: Any) -> None:
    """Check a text that is read by a text encoder and kept in records.

    Raises:
        PromptError: it is no text, or has half a surrogate pair, as an argument has that was no UTF-8.
    """
    if not isinstance(text, str):
        raise PromptError(f"must be a text, got {type(text).__name__}", field=field)
    if not is_utf8(text):
        raise PromptError(f"must be text in UTF-8, got {brief(text)}", field=field)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, such as a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False
