"""A base model on disk: a folder in the diffusers layout of Stable Diffusion."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModel, CLIPTokenizer

from tav_sdk.errors import BaseModelError, PickledWeightsError
from tav_sdk.files import sha256_of
from tav_sdk.pocket import find_base
from tav_sdk.schedule import DDIMSchedule
from tav_sdk.text import Tokenizer
from tav_sdk.training.reading import PICKLED, reading
from tav_sdk.training.recommended import Recommended, read_recommended

PARTS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@dataclass(frozen=True)
class BaseModel:
    """A text-to-image model whose parts are read one at a time, so that no more than needed is in memory.

    Args:
        folder: a diffusers folder with ``unet``, ``vae``, ``text_encoder``, ``tokenizer`` and ``scheduler``, or
            ``pocket``, the base in the package.
        allow_pickle: read ``.bin`` weights where there is no ``.safetensors``; ``torch.load(weights_only=True)``.

    Raises:
        BaseModelError: the folder or a part is missing or unreadable.
        PickledWeightsError: a part has only pickled weights and ``allow_pickle`` is not set.
    """

    folder: Path
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", find_base(self.folder))
        if not self.folder.is_dir():
            raise BaseModelError(
                f"there is no base model folder {self.folder}; give a folder in the diffusers layout, or "
                "'pocket', the base in the package"
            )
        missing = [f"{part}/{name}" for part, name in PARTS.items() if not (self.folder / part / name).is_file()]
        if missing:
            raise BaseModelError(
                f"the base model {self.folder} lacks {', '.join(missing)}; a diffusers folder of Stable Diffusion has "
                f"the parts {', '.join(PARTS)}"
            )
        for part in WEIGHTS:
            self._check_weights(part)

    # -- what the configurations say -----------------------------------------------------------------------------

    @cached_property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The parsed configuration of each part."""
        try:
            return {part: json.loads((self.folder / part / name).read_text()) for part, name in PARTS.items()}
        except (OSError, ValueError) as error:
            raise BaseModelError(f"a configuration of the base model {self.folder} cannot be read: {error}") from error

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent along one side, 8 for Stable Diffusion."""
        return 2 ** (len(self.configs["vae"].get("block_out_channels", [0])) - 1)

    @property
    def scaling_factor(self) -> float:
        """What the VAE's latents are multiplied with, 0.18215 for Stable Diffusion 1.x."""
        return float(self.configs["vae"].get("scaling_factor") or 0.18215)

    @property
    def size_multiple(self) -> int:
        """Height and width in pixels must be multiples of this: VAE factor times 2^(upsamplers); 64 for SD."""
        levels = len(self.configs["unet"].get("block_out_channels", [0, 0, 0, 0]))
        return self.vae_scale_factor * 2 ** (levels - 1)

    @property
    def schedule(self) -> DDIMSchedule:
        """The noise schedule of the base's scheduler configuration."""
        return DDIMSchedule.from_config(self.configs["scheduler"])

    @cached_property
    def recommended(self) -> Recommended:
        """What the base is best tuned and edited with."""
        return read_recommended(self.folder)

    @cached_property
    def sha256(self) -> str:
        """Identity of the base: a hash over the configurations and weights of every part."""
        digest = hashlib.sha256()
        for part in PARTS:
            for path in sorted((self.folder / part).rglob("*")):
                if path.is_file():
                    digest.update(f"{path.relative_to(self.folder).as_posix()} {sha256_of(path)}\n".encode())
        return digest.hexdigest()

    # -- parts ---------------------------------------------------------------------------------------------------

    def load_unet(self) -> UNet2DConditionModel:
        """The image U-Net in float32, in evaluation mode."""
        return self._load("unet", UNet2DConditionModel).eval()

    def load_vae(self) -> AutoencoderKL:
        """The autoencoder in float32, in evaluation mode."""
        return self._load("vae", AutoencoderKL).eval()

    def load_text_encoder(self) -> CLIPTextModel:
        """The text encoder in float32, in evaluation mode."""
        return self._load("text_encoder", CLIPTextModel).eval()

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer, as the SDK runs it."""
        with self._reading("tokenizer"):
            original = CLIPTokenizer.from_pretrained(self.folder / "tokenizer")
            limit = min(
                int(original.model_max_length), int(self.configs["text_encoder"].get("max_position_embeddings", 77))
            )
            definition = original.backend_tokenizer.to_str()
            return Tokenizer(definition, model_max_length=limit, pad_token=str(original.pad_token))

    def _load(self, part: str, kind: Any) -> Any:
        with self._reading(part):
            return kind.from_pretrained(
                self.folder / part,
                torch_dtype=torch.float32,
                use_safetensors=None if self.allow_pickle else True,
                local_files_only=True,
            )

    @contextlib.contextmanager
    def _reading(self, part: str) -> Iterator[None]:
        level = diffusers_logging.get_verbosity()
        diffusers_logging.set_verbosity(logging.CRITICAL)  # it logs an error for each name that it tries
        try:
            with reading(f"the {part} of the base model {self.folder}"):
                yield
        finally:
            diffusers_logging.set_verbosity(level)

    def _check_weights(self, part: str) -> None:
        files = [path for path in (self.folder / part).iterdir() if path.is_file()]
        if any(path.suffix == ".safetensors" for path in files):
            return
        pickled = [path.name for path in files if path.suffix in PICKLED]
        if not pickled:
            raise BaseModelError(
                f"the base model {self.folder} lacks {part}/{WEIGHTS[part]}.safetensors, the weights of its {part}"
            )
        if not self.allow_pickle:
            raise PickledWeightsError(
                f"the {part} of the base model {self.folder} has only pickled weights ({', '.join(pickled)}); reading "
                "a pickle can run code. Convert it to .safetensors, or, if you trust it, allow it with --allow-pickle "
                "(allow_pickle=True), which reads tensors only (weights_only)"
            )
