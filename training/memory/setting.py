"""The setting whose memory is planned."""

from __future__ import annotations

from dataclasses import dataclass

from tav_sdk.bundle.precision import Precision
from tav_sdk.training.config import MixedPrecision
from tav_sdk.training.memory.report import Device


@dataclass(frozen=True, kw_only=True)
class Setting:
    """All that a stage's memory depends on, but the base and its inflation."""

    num_frames: int
    height: int
    width: int
    precision: Precision
    mixed_precision: MixedPrecision
    gradient_checkpointing: bool
    guidance: bool
    device: Device
    parity: bool = True
