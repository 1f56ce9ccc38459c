"""What a bundle is exported with: frozen, validated on construction. Without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from tav_sdk.bundle.precision import Precision, check_precision
from tav_sdk.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What a run's bundle computes in, what it can do, and how it is checked.

    Attributes:
        precision: what the U-Net computes in, ``fp32``, ``fp16``, ``bf16``, or ``int8``, for the CPU; the manifest says
            of every graph what it computes in, and which parts are kept in float32. Inputs and outputs are float32.
        control: let the U-Net take a ControlNet's residuals; costs their addition at each step of every edit.
        windows: let the bundle go on, window by window, with videos longer than the run's clip: the U-Net is traced a
            second time, and shares its weights. Has no effect where that cannot be exact; see
            :func:`~tav_sdk.training.unet.windowed.can_continue`.
        parity: compare each graph with its model, here on the CPU; without, :func:`tav_sdk.pipeline.verify.verify`
            does it on a machine that has the memory for it.
        quality: compare edits in low precision, where the base has its own CLIP; see
            :func:`~tav_sdk.export.quality.check_edit_quality`. Has no effect without ``parity``.

    Raises:
        ConfigError: the precision is unknown, or another option is neither true nor false.
    """

    precision: Precision = "fp32"
    control: bool = False
    windows: bool = True
    parity: bool = True
    quality: bool = True

    def __post_init__(self) -> None:
        check_precision(self.precision)
        for name in ("control", "windows", "parity", "quality"):
            if not isinstance(value := getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {value!r}")
