"""A base model as a folder in the diffusers layout, written by whatever version of diffusers."""

# diffusers and transformers annotate loosely:
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModel

from tav_sdk.errors import BaseModelError, PickledWeightsError
from tav_sdk.files import sha256_of
from tav_sdk.training.base.layout import PARTS, WEIGHTS, check_pipeline, find_weights, part_files
from tav_sdk.training.base.mismatches import listed
from tav_sdk.training.base.part_configs import KINDS, TextConfig, check_has_weights, read_part_config
from tav_sdk.training.base.reading import PICKLED, reading

BUFFERS = ("position_ids",)
"""Ends of keys that old versions wrote and that hold no weights."""


class BaseFolder:
    """A folder with ``unet``, ``vae``, ``text_encoder``, ``tokenizer`` and ``scheduler``; other parts are left alone.

    Args:
        path: the folder.
        allow_pickle: read ``.bin`` weights where there is no ``.safetensors``.
        weights: also look for the weights; without, only configurations can be read.
        tokenizer: whether the folder's own tokenizer is needed.

    Raises:
        BaseModelError: the folder or a part is missing, or it is of a kind that cannot be inflated.
        PickledWeightsError: a part has only pickled weights and ``allow_pickle`` is not set.
    """

    pad_token: str | None = None

    def __init__(self, path: Path, *, allow_pickle: bool, weights: bool, tokenizer: bool) -> None:
        self.path, self.allow_pickle = path, allow_pickle
        check_pipeline(path, f"the base model {path}")
        needed = {part: name for part, name in PARTS.items() if tokenizer or part != "tokenizer"}
        missing = [f"{part}/{name}" for part, name in needed.items() if not (path / part / name).is_file()]
        if missing:
            raise BaseModelError(
                f"the base model {path} lacks {', '.join(missing)}; a diffusers folder of Stable Diffusion has "
                f"the parts {', '.join(PARTS)}"
            )
        if weights:
            for part in WEIGHTS:
                self._check_weights(part)

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The parsed configuration of each part."""
        return self._configs

    @cached_property
    def _configs(self) -> dict[str, dict[str, Any]]:
        return {
            part: read_part_config(self.path / part / name, KINDS[part])
            for part, name in PARTS.items()
            if (self.path / part / name).is_file()
        }

    @property
    def tokenizer_folder(self) -> Path:
        """Where its tokenizer lies."""
        return self.path / "tokenizer"

    def digest(self, *, tokenizer: bool) -> str:
        """A hash over the configurations and weights of every part; of weights, those that are read."""
        digest = hashlib.sha256()
        for part in PARTS:
            if part == "tokenizer" and not tokenizer:
                continue
            for path in part_files(self.path, part):
                digest.update(f"{path.relative_to(self.path).as_posix()} {sha256_of(path)}\n".encode())
        return digest.hexdigest()

    def load_unet(self) -> UNet2DConditionModel:
        """The image U-Net in float32."""
        return self._load("unet", UNet2DConditionModel)

    def load_vae(self) -> AutoencoderKL:
        """The autoencoder in float32."""
        return self._load("vae", AutoencoderKL)

    def load_text_encoder(self) -> CLIPTextModel:
        """The text encoder in float32."""
        found = find_weights(self.path / "text_encoder", "text_encoder")
        check_has_weights(
            TextConfig.model_validate(self.configs["text_encoder"]).size,
            found.files if found else (),
            f"the text_encoder of the base model {self.path}",
        )
        return self._load("text_encoder", CLIPTextModel)

    def _load(self, part: str, kind: Any) -> Any:
        found = find_weights(self.path / part, part)
        with quiet_diffusers(), reading(f"the {part} of the base model {self.path}"):
            model, info = kind.from_pretrained(
                self.path / part,
                torch_dtype=torch.float32,
                variant=found.variant if found else None,
                use_safetensors=None if self.allow_pickle else True,
                local_files_only=True,
                output_loading_info=True,
            )
        self._check_keys(part, info)
        return model

    def _check_keys(self, part: str, info: dict[str, Collection[Any]]) -> None:
        # diffusers fills what is missing with random numbers, without a word.
        problems = [f"missing {key}" for key in sorted(info["missing_keys"]) if not key.endswith(BUFFERS)]
        problems += [f"unexpected {key}" for key in sorted(info["unexpected_keys"]) if not key.endswith(BUFFERS)]
        problems += [f"{key[0]}: expected {tuple(key[2])}, got {tuple(key[1])}" for key in info["mismatched_keys"]]
        if problems:
            raise BaseModelError(
                f"the weights of the {part} of the base model {self.path} do not fit its config.json "
                f"({len(problems)} differences):{listed(problems)}Download the model again, or convert it again"
            )

    def _check_weights(self, part: str) -> None:
        found = find_weights(self.path / part, part)
        if found is None:
            others = [path.name for path in (self.path / part).iterdir() if path.suffix in PICKLED]
            raise BaseModelError(
                f"the base model {self.path} lacks {part}/{WEIGHTS[part][0]}.safetensors, the weights of its {part}"
                + (f" (it has {', '.join(others)}, which is not read)" if others else "")
            )
        if found.pickled and not self.allow_pickle:
            raise PickledWeightsError(
                f"the {part} of the base model {self.path} has only pickled weights "
                f"({', '.join(path.name for path in found.files)}); reading "
                "a pickle can run code. Convert it to .safetensors, or, if you trust it, allow it with allow_pickle, "
                "which reads tensors only (weights_only)"
            )


@contextlib.contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Without diffusers' log: it logs an error for each name that it tries."""
    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(level)
