"""LoRA files that are fused into a base: which, and how strongly. Without PyTorch; :mod:`.lora` fuses them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tav_sdk.errors import BaseModelError, ConfigError
from tav_sdk.files import sha256_of

MAX_SCALE = 1000.0
IN_A_FOLDER = "pytorch_lora_weights.safetensors"
"""What diffusers calls the file in a folder."""


@dataclass(frozen=True)
class LoraFile:
    """A LoRA and its scale.

    Attributes:
        path: the file.
        scale: what the change of the weights is multiplied by; 1 as it was trained.
    """

    path: Path
    scale: float = 1.0

    @classmethod
    def parse(cls, text: str | Path) -> LoraFile:
        """Read ``FILE`` or ``FILE:SCALE``; a folder stands for the file that diffusers writes into one.

        Raises:
            ConfigError: the scale is no number, or beyond :data:`MAX_SCALE`.
        """
        text = str(text)
        name, colon, number = text.rpartition(":")
        path, scale = Path(text), 1.0
        if colon and name and not os.path.exists(path):  # unlike Path.exists, it takes any name
            try:
                path, scale = Path(name), float(number)
            except ValueError:
                # Where there is no such file, the colon is a part of the name, as in C:\lora.safetensors.
                if os.path.exists(name):
                    scale = math.nan
        if not abs(scale) <= MAX_SCALE:
            raise ConfigError(
                f"the scale of a LoRA must be a number from {-MAX_SCALE:g} to {MAX_SCALE:g}, as in FILE:0.8; got "
                f"{text[:300]!r}"
            )
        return cls(path / IN_A_FOLDER if os.path.isdir(path) else path, scale)

    def __str__(self) -> str:
        return f"{self.path}:{self.scale:g}"

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file.

        Raises:
            BaseModelError: there is no such file.
        """
        self.check()
        return sha256_of(self.path)

    def check(self) -> None:
        """Check that the file is there.

        Raises:
            BaseModelError: it is not.
        """
        if not os.path.isfile(self.path):  # unlike Path.is_file, it takes any name
            raise BaseModelError(
                f"there is no LoRA file {self.path}; give FILE or FILE:SCALE, such as style.safetensors:0.8"
            )
