"""What a bundle's U-Net computes in, and how far that may take its outputs from float32."""

from __future__ import annotations

from typing import Literal, get_args

from tav_sdk.errors import ConfigError

Precision = Literal["fp32", "fp16", "bf16", "int8"]
"""What a bundle's U-Net computes in."""
PRECISIONS: tuple[str, ...] = get_args(Precision)


TOLERANCES: dict[str, float] = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 1.5e-1}
"""By precision, how far a graph's output may be from the float32 model's, relative to its largest magnitude."""


def check_precision(precision: str) -> None:
    """Check the name of a precision.

    Raises:
        ConfigError: it is unknown; lists those that are known.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"there is no precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
