"""How many threads an engine on the CPU takes."""

from __future__ import annotations

import os

from tav_sdk.errors import ConfigError
from tav_sdk.words import brief

VARIABLE = "TAV_NUM_THREADS"
"""Environment variable: threads of an engine on the CPU, 0 to :data:`MAX_THREADS`; 0 lets the engine choose."""
MAX_THREADS = 1024


def default_threads() -> int:
    """What :data:`VARIABLE` says; 0 if it is not set.

    Raises:
        ConfigError: it holds something else than such a number.
    """
    text = os.environ.get(VARIABLE, "").strip() or "0"
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) <= MAX_THREADS):
        raise ConfigError(
            f"{VARIABLE} must be a whole number from 0 to {MAX_THREADS}, got {brief(text)}; leave it out to let the "
            "engine choose"
        )
    return int(text)
