"""What a LoRA's file says of itself, in peft's words: the alphas that its factors are scaled by. Without PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tav_sdk.errors import BaseModelError
from tav_sdk.reading import parse_json, validated
from tav_sdk.words import brief

METADATA = "lora_adapter_metadata"
"""Where diffusers keeps peft's configuration in a file: JSON of ``unet.lora_alpha`` and the like."""
ADVICE = "write the file again, with diffusers' save_lora_weights, or without its metadata"
MAX_PATTERNS = 10_000

Alpha = Annotated[float, Field(ge=-1e6, le=1e6)]
_NAME = re.compile(r"\^?(?:[\w-]|\\?\.)+\$?")
"""peft takes a regular expression; a module's name is one, with its dots escaped or not, and is all that is taken."""


class PartMetadata(BaseModel):
    """What a LoRA says of its modules in one part of the base.

    Attributes:
        lora_alpha: of every module; none is its rank.
        alpha_pattern: of single modules, by the end of their names, or by the whole name behind ``^``.
        use_rslora: divide by the root of the rank, not by the rank.
        use_dora: the file is no plain LoRA.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)

    lora_alpha: Alpha | None = None
    alpha_pattern: Annotated[dict[Annotated[str, Field(max_length=1000)], Alpha], Field(max_length=MAX_PATTERNS)] = {}
    use_rslora: bool | None = False
    use_dora: bool | None = False

    @field_validator("alpha_pattern", mode="before")
    @classmethod
    def _names(cls, patterns: object) -> object:
        if isinstance(patterns, dict):
            for pattern in patterns:
                if isinstance(pattern, str) and not _NAME.fullmatch(pattern):
                    raise ValueError(
                        f"{brief(pattern)} is a regular expression, expected a module's name such as "
                        "mid_block.attentions.0.proj_in"
                    )
        return {} if patterns is None else patterns

    def alpha_of(self, name: str) -> float | None:
        """The alpha that the first fitting pattern gives a module."""
        for pattern, alpha in self.alpha_pattern.items():
            literal = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
            if name == literal or (not pattern.startswith("^") and name.endswith(f".{literal}")):
                return alpha
        return None


class LoraMetadata(BaseModel):
    """What a LoRA says of both parts of the base that it may change."""

    model_config = ConfigDict(strict=True, frozen=True)

    unet: PartMetadata = PartMetadata()
    text_encoder: PartMetadata = PartMetadata()

    @classmethod
    def read(cls, metadata: Mapping[str, str], what: str) -> LoraMetadata:
        """From the texts in a file's header; ``what`` names the file in messages.

        Raises:
            BaseModelError: they are no JSON, a value is of another type, or an alpha's name is no module's.
        """
        where = f"the metadata of {what}"
        values = parse_json(metadata.get(METADATA) or "{}", what=where, error=BaseModelError, advice=ADVICE)
        parts = {name: {} for name in cls.model_fields}
        if isinstance(values, dict):
            for key, value in values.items():
                part, dot, name = key.partition(".")
                if dot and part in parts:
                    parts[part][name] = value
            values = parts
        return validated(cls, values, what=where, error=BaseModelError, advice=ADVICE)
