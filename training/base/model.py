"""A base model: a diffusers folder, a single-file checkpoint or a model of the Hugging Face hub; with LoRAs or not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, get_args

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from tav_sdk.bundle.tokenizer import Tokenizer
from tav_sdk.diffusion.schedule import DDIMSchedule, PredictionType
from tav_sdk.errors import BaseModelError, ConfigError
from tav_sdk.files import sha256_of
from tav_sdk.pocket import find_base
from tav_sdk.training.base.folder import BaseFolder, quiet_diffusers
from tav_sdk.training.base.hub import fetch_base, fetch_configs, find_tokenizer, is_hub_id
from tav_sdk.training.base.lora import check_loras, fuse
from tav_sdk.training.base.lora_file import LoraFile
from tav_sdk.training.base.reading import reading
from tav_sdk.training.base.recommended import Recommended, read_recommended
from tav_sdk.training.base.single_file import SingleFile
from tav_sdk.training.base.single_file_parts import SingleFileParts
from tav_sdk.training.base.tokenizer_files import (
    VOCABULARY,
    WHOLE_TOKENIZER,
    check_tokenizer,
    read_merges,
    read_vocabulary,
)


class Source(Protocol):
    """Where a base's parts come from: one class for each kind of base."""

    path: Path

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The configuration of each part, in diffusers' words."""
        ...

    @property
    def pad_token(self) -> str | None:
        """The token that pads prompts; none if the tokenizer's own files say it."""
        ...

    @property
    def tokenizer_folder(self) -> Path | None:
        """Where its own tokenizer lies, if it has one."""
        ...

    def digest(self, *, tokenizer: bool) -> str:
        """Identity of what is read of it, with its own tokenizer or without."""
        ...

    def load_unet(self) -> UNet2DConditionModel:
        """The image U-Net in float32."""
        ...

    def load_vae(self) -> AutoencoderKL:
        """The autoencoder in float32."""
        ...

    def load_text_encoder(self) -> CLIPTextModel:
        """The text encoder in float32."""
        ...


@dataclass(frozen=True)
class PretrainedBase:
    """A text-to-image model whose parts are read one at a time, so that no more than needed is in memory.

    Args:
        base: a diffusers folder with ``unet``, ``vae``, ``text_encoder``, ``tokenizer`` and ``scheduler``; a
            single-file ``.safetensors`` checkpoint; an id on the Hugging Face hub; or ``pocket``, the base in the
            package.
        allow_pickle: read ``.bin`` weights where there is no ``.safetensors``; ``torch.load(weights_only=True)``.
        loras: LoRA files, ``FILE`` or ``FILE:SCALE``, which are fused into the U-Net and the text encoder.
        tokenizer: folder of a CLIP tokenizer, for a base that has none; by default that beside a single file, or one in
            the hub's cache.
        prediction_type: ``epsilon`` or ``v_prediction``, if the base does not say so, or is wrong about it.
        revision: branch, tag or commit on the hub.
        local_files_only: take a model on the hub from the cache only; download nothing.
        weights: whether weights will be read; without, the configurations are enough.

    Raises:
        BaseModelError: the base or a part is missing or unreadable, or of a kind that cannot be inflated.
        PickledWeightsError: a part has only pickled weights and ``allow_pickle`` is not set.
        ConfigError: ``prediction_type`` is unknown, or a LoRA's scale is no finite number.
    """

    base: str | Path
    allow_pickle: bool = False
    _: KW_ONLY
    loras: Sequence[LoraFile | str | Path] = ()
    tokenizer: str | Path | None = None
    prediction_type: str | None = None
    revision: str | None = None
    local_files_only: bool = False
    weights: bool = True

    def __post_init__(self) -> None:
        check_prediction_type(self.prediction_type)
        self._check_channels()
        DDIMSchedule.from_config(self.configs["scheduler"])  # refuses what is not sampled here, as flow matching
        if not self.weights:
            for lora in self.lora_files:
                lora.check()
            return
        if (folder := self.tokenizer_folder) is None:
            raise BaseModelError(
                f"the checkpoint {self.path} has no tokenizer, and there is none in a folder 'tokenizer' beside it or "
                "in the Hugging Face cache; give one as tokenizer: the folder 'tokenizer' of any Stable Diffusion "
                "model in the diffusers layout will do"
            )
        check_tokenizer(folder)
        if self.lora_files:
            with quiet_diffusers():
                check_loras(self.configs, self.lora_files, allow_pickle=self.allow_pickle)

    @cached_property
    def source(self) -> Source:
        """Where the parts come from."""
        path = find_base(self.base)
        if path.is_file():
            return SingleFileParts(SingleFile(path, self.prediction_type))
        if is_hub_id(self.base):
            where: dict[str, Any] = {"revision": self.revision, "local_files_only": self.local_files_only}
            if self.weights:
                path = fetch_base(Path(self.base).as_posix(), allow_pickle=self.allow_pickle, **where)
            else:
                path = fetch_configs(Path(self.base).as_posix(), **where)
        elif not path.is_dir():
            raise BaseModelError(
                f"there is no base model folder {self.base}; give a folder in the diffusers layout, a single-file "
                ".safetensors checkpoint, a Hugging Face id such as CompVis/stable-diffusion-v1-4, or 'pocket', the "
                "base in the package"
            )
        return BaseFolder(path, allow_pickle=self.allow_pickle, weights=self.weights, tokenizer=self.tokenizer is None)

    @cached_property
    def lora_files(self) -> tuple[LoraFile, ...]:
        """The LoRAs, read from how they were given."""
        return tuple(lora if isinstance(lora, LoraFile) else LoraFile.parse(lora) for lora in self.loras)

    @property
    def path(self) -> Path:
        """Where it lies: a file, or a folder, which is in the cache for a model of the hub."""
        return self.source.path

    @property
    def name(self) -> str:
        """What it is called: an id on the hub, or a folder's or file's name."""
        return Path(self.base).as_posix() if self.commit else self.path.resolve().name

    @property
    def commit(self) -> str | None:
        """The commit that was taken, if it is a model on the hub."""
        return self.path.name if is_hub_id(self.base) else None

    # -- what the configurations say -----------------------------------------------------------------------------

    @cached_property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The configuration of each part, in diffusers' words."""
        configs = self.source.configs
        if self.prediction_type is None:
            return configs
        return {**configs, "scheduler": {**configs["scheduler"], "prediction_type": self.prediction_type}}

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent along one side, 8 for Stable Diffusion."""
        return 2 ** (len(self.configs["vae"].get("block_out_channels", [0])) - 1)

    @property
    def scaling_factor(self) -> float:
        """What the VAE's latents are multiplied by, 0.18215 for Stable Diffusion 1.x."""
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
        return read_recommended(self.path, prediction_type=self.prediction_type)

    @cached_property
    def sha256(self) -> str:
        """Identity of the base: a hash over the configurations and weights of every part, LoRAs and scales included."""
        own = self.tokenizer is None and self.source.tokenizer_folder is not None
        base = self.source.digest(tokenizer=own)
        more = []
        if not own and self.tokenizer_folder is not None:
            more.append(f"tokenizer {_tokenizer_digest(self.tokenizer_folder)}")
        if self.schedule != DDIMSchedule.from_config(self.source.configs["scheduler"]):
            more.append(f"prediction_type {self.prediction_type}")
        more += [f"lora {lora.sha256} {lora.scale!r}" for lora in self.lora_files]
        if not more:
            return base
        return hashlib.sha256("\n".join([base, *more]).encode()).hexdigest()

    @property
    def record(self) -> dict[str, Any]:
        """What a run says of its base: plain values."""
        record: dict[str, Any] = {"name": self.name, "sha256": self.sha256}
        if self.commit:
            record["revision"] = self.commit
        if self.lora_files:
            record["loras"] = [
                {"name": lora.path.name, "sha256": lora.sha256, "scale": lora.scale} for lora in self.lora_files
            ]
        return record

    # -- parts ---------------------------------------------------------------------------------------------------

    def load_unet(self) -> UNet2DConditionModel:
        """The image U-Net in float32, in evaluation mode, LoRAs fused."""
        unet = self.source.load_unet()
        fuse(unet, "unet", self.lora_files, self.configs["unet"], allow_pickle=self.allow_pickle)
        return unet.eval()

    def load_vae(self) -> AutoencoderKL:
        """The autoencoder in float32, in evaluation mode."""
        return self.source.load_vae().eval()

    def load_text_encoder(self) -> CLIPTextModel:
        """The text encoder in float32, in evaluation mode, LoRAs fused."""
        text_encoder = self.source.load_text_encoder()
        fuse(text_encoder, "text_encoder", self.lora_files, self.configs["unet"], allow_pickle=self.allow_pickle)
        return text_encoder.eval()

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer, as the SDK runs it."""
        with quiet_diffusers(), reading(f"the tokenizer of the base model {self.path}"):
            original = CLIPTokenizer.from_pretrained(str(self.tokenizer_folder), local_files_only=True)
            limit = min(
                int(original.model_max_length), int(self.configs["text_encoder"].get("max_position_embeddings", 77))
            )
            definition = original.backend_tokenizer.to_str()
            pad_token = self.source.pad_token or str(original.pad_token)
            rows, last = self.configs["text_encoder"].get("vocab_size", 49_408), max(original.get_vocab().values())
            if last >= rows:
                raise BaseModelError(
                    f"the tokenizer in {self.tokenizer_folder} numbers its tokens up to {last}, the text encoder has "
                    f"{rows}; give the tokenizer that belongs to it"
                )
            return Tokenizer(definition, model_max_length=limit, pad_token=pad_token)

    @property
    def tokenizer_folder(self) -> Path | None:
        """Where the tokenizer is read from: as given, the base's own, that beside a file, or one in the hub's cache."""
        if self.tokenizer is not None:
            return Path(self.tokenizer)
        if self.source.tokenizer_folder is not None:
            return self.source.tokenizer_folder
        beside = self.path.parent / "tokenizer"
        return beside if beside.is_dir() else find_tokenizer()

    def _check_channels(self) -> None:
        takes, given = self.configs["unet"].get("in_channels"), self.configs["vae"].get("latent_channels", 4)
        if takes is not None and takes != given:
            raise BaseModelError(
                f"the U-Net of the base model {self.path} takes {takes} channels, its VAE gives {given}: models for "
                "inpainting, depth or instructions cannot be tuned; give one that makes pictures from text alone"
            )


def check_prediction_type(prediction_type: str | None) -> None:
    """Raise ``ConfigError`` unless it is one that a schedule knows, or none."""
    if prediction_type is not None and prediction_type not in get_args(PredictionType):
        raise ConfigError(
            f"prediction_type must be one of {', '.join(get_args(PredictionType))}; got {prediction_type!r}"
        )


def _tokenizer_digest(folder: Path) -> str:
    """A hash of the vocabulary, however it is written."""
    if not (folder / VOCABULARY).is_file():
        return sha256_of(folder / WHOLE_TOKENIZER)
    vocabulary, pairs = read_vocabulary(folder), read_merges(folder)
    return hashlib.sha256(json.dumps([vocabulary, pairs], sort_keys=True).encode()).hexdigest()
