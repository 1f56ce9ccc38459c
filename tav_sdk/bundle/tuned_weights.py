"""How much of a tuning is used: weights on the straight line from the base's own to the tuned ones, and beyond.

The query projections go from the base's values to the tuned ones. The temporal attention, which the base does not
have, comes in through its output projection, which tuning starts from zero. So at scale 0 the U-Net is the inflated
base, as it was before tuning, and at scale 1 the tuned one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from tav_sdk.engines.base import Weights
from tav_sdk.errors import InputError
from tav_sdk.words import brief

MAX_ADAPTER_SCALE = 2.0
_TEMPORAL, _OUTPUT = ".attn_temp.", ".attn_temp.to_out."


def check_adapter_scale(scale: float) -> float:
    """The scale, if it can be used.

    Raises:
        InputError: it is no number from 0 to :data:`MAX_ADAPTER_SCALE`.
    """
    is_number = isinstance(scale, int | float | np.integer | np.floating) and not isinstance(scale, bool)
    if not (is_number and 0 <= scale <= MAX_ADAPTER_SCALE):
        raise InputError(
            f"must be from 0 (the base) to {MAX_ADAPTER_SCALE:g}, got {brief(scale)}; 1 is as it was tuned",
            field="adapter_scale",
        )
    return float(scale)


def is_in_base(name: str) -> bool:
    """Whether the base has a value for a tuned weight; it has none for the temporal attention's weights."""
    return _TEMPORAL not in name


def scale_tuned_weights(tuned: Weights, untuned: Weights, scale: float) -> Weights:
    """A clip's tuned weights, scaled.

    Args:
        tuned: as they were tuned.
        untuned: the base's values of those that have one, see :func:`is_in_base`; same dtypes and shapes.
        scale: in [0, :data:`MAX_ADAPTER_SCALE`].

    Returns:
        ``base + scale * (tuned - base)``, computed in float32, of what is in the base; ``scale * tuned`` of the
        temporal attention's output projections; the rest as it is. ``tuned`` itself at 1.
    """
    if scale == 1:
        return tuned
    key = hashlib.sha256(f"{tuned.key} {untuned.key} {scale!r}".encode()).hexdigest()
    return Weights(key, scale_tensors(tuned.tensors, untuned.tensors, scale))


def scale_tensors(
    tuned: Mapping[str, np.ndarray], untuned: Mapping[str, np.ndarray], scale: float
) -> dict[str, np.ndarray]:
    """The tensors of :func:`scale_tuned_weights`, whatever the scale; ``uint16`` are the bits of ``bfloat16``."""
    scaled = {}
    for name, array in tuned.items():
        if is_in_base(name):
            base = _widened(untuned[name])
            scaled[name] = _narrowed(base + np.float32(scale) * (_widened(array) - base), array.dtype)
        elif _OUTPUT in name:
            scaled[name] = _narrowed(np.float32(scale) * _widened(array), array.dtype)
        else:
            scaled[name] = array
    return scaled


def _widened(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def _narrowed(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype != np.uint16:
        with np.errstate(over="ignore"):  # an engine says what it makes of infinity
            return array.astype(dtype)
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)  # to the nearest, ties to even
