"""The parts of a single-file checkpoint as diffusers models; diffusers' converters translate the names."""

# diffusers and transformers annotate loosely:
# pyright: reportArgumentType=false

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from tav_sdk.errors import BaseModelError
from tav_sdk.files import sha256_of
from tav_sdk.training.base.mismatches import listed
from tav_sdk.training.base.reading import reading
from tav_sdk.training.base.single_file import CLIP, CLIP_TEXT, OPEN_CLIP, UNET, VAE, SingleFile

NO_WEIGHTS = (f"{VAE}loss.", f"{VAE}model_ema.")
"""What only training of the VAE needed."""


class SingleFileParts:
    """The parts of a checkpoint, each loaded in float32.

    The loading methods raise ``BaseModelError`` where tensors are missing or left over, or have other shapes; it names
    the first ten and the count.
    """

    tokenizer_folder: Path | None = None

    def __init__(self, file: SingleFile) -> None:
        self.file = file
        self.path, self.pad_token = file.path, file.pad_token

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The configuration of each part."""
        return self.file.configs

    def digest(self, *, tokenizer: bool) -> str:
        """A hash over the file and over what was inferred from it."""
        configs = json.dumps(self.configs, sort_keys=True)
        return hashlib.sha256(f"{sha256_of(self.path)}\n{configs}".encode()).hexdigest()

    def load_unet(self) -> UNet2DConditionModel:
        """The image U-Net."""
        config = self.configs["unet"]
        return self._load(UNET, "unet", lambda: UNet2DConditionModel.from_config(config), convert_ldm_unet_checkpoint)

    def load_vae(self) -> AutoencoderKL:
        """The autoencoder."""
        config = self.configs["vae"]
        return self._load(VAE, "vae", lambda: AutoencoderKL.from_config(config), convert_ldm_vae_checkpoint)

    def load_text_encoder(self) -> CLIPTextModel:
        """The text encoder; of 2.x without the last layer, which is not used."""

        def make() -> CLIPTextModel:
            return CLIPTextModel(CLIPTextConfig(**self.configs["text_encoder"]))

        def convert(tensors: dict[str, Tensor], _: Mapping[str, Any]) -> dict[str, Tensor]:
            with torch.device("meta"):
                model = make()
            if self.file.is_v2:
                converted = convert_open_clip_checkpoint(model, tensors, OPEN_CLIP)
            else:
                names = {key: key.removeprefix(CLIP).removeprefix("text_model.") for key in tensors}
                converted = convert_ldm_clip_checkpoint({CLIP_TEXT + names[key]: t for key, t in tensors.items()})
            if not hasattr(model, "text_model"):  # transformers wrapped it once
                converted = {key.removeprefix("text_model."): tensor for key, tensor in converted.items()}
            return {key: tensor for key, tensor in converted.items() if key in model.state_dict()}

        return self._load(OPEN_CLIP if self.file.is_v2 else CLIP, "text_encoder", make, convert)

    def _load(
        self,
        prefix: str,
        part: str,
        make: Callable[[], Any],
        convert: Callable[[dict[str, Tensor], Mapping[str, Any]], dict[str, Tensor]],
    ) -> Any:
        with reading(f"the {part} of the checkpoint {self.path}"):
            with safe_open(self.path, framework="pt") as opened:
                names = [
                    name for name in self.file.shapes if name.startswith(prefix) and not name.startswith(NO_WEIGHTS)
                ]
                tensors = {name: opened.get_tensor(name).float() for name in names}
            with init_empty_weights():  # they would be thrown away
                model: nn.Module = make()
            converted = convert(dict(tensors), self.configs[part])
        own = model.state_dict()
        problems = [f"missing {name}" for name in own if name not in converted]
        if part != "text_encoder":  # beside CLIP's layers there are projections and buffers
            # What the converters did not move to a name of the model's. They move tensors as they are, or give views.
            used = {converted[name].data_ptr() for name in own if name in converted}
            problems += [f"unexpected {name}" for name, tensor in tensors.items() if tensor.data_ptr() not in used]
        problems += [
            f"{name}: expected {tuple(own[name].shape)}, got {tuple(converted[name].shape)}"
            for name in own
            if name in converted and own[name].shape != converted[name].shape
        ]
        _refuse(self.file, part, problems)
        model.load_state_dict({name: converted[name].contiguous() for name in own}, assign=True)
        return model.eval()


def _refuse(file: SingleFile, part: str, problems: Sequence[str]) -> None:
    if problems:
        raise BaseModelError(
            f"the {part} of the checkpoint {file.path} is not one of Stable Diffusion {'2.x' if file.is_v2 else '1.x'} "
            f"({len(problems)} differences):{listed(problems)}The file is incomplete, or of a changed model"
        )
