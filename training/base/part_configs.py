"""What the configurations of a base's parts may hold: types, and the least and most of every number.

A configuration decides how large a model is made, so it is checked before one is. What a library would fill in for a
key that is left out stays left out, and a key that is not known here only has to be of ordinary size. Without PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tav_sdk.errors import BaseModelError
from tav_sdk.reading import MAX_CONFIG_BYTES, read_json, validated
from tav_sdk.words import brief

ADVICE = "download the model again, or convert it again"
MAX_NUMBER, MAX_TEXT, MAX_ITEMS = 2**31 - 1, 10_000, 100_000
"""Bounds of keys that are not known here: the largest number, the longest text, and the most items of a list."""
MAX_TRANSFORMERS = 128
"""Most transformer layers of a side of the U-Net; Stable Diffusion 1.x has 6."""

SMALL_MODEL = 1 << 26
"""Numbers of a model that is made whatever its files are: 256 MiB."""

Width = Annotated[int, Field(ge=1, le=16_384)]
Count = Annotated[int, Field(ge=1, le=16)]
Kernel = Annotated[int, Field(ge=1, le=15)]
Name = Annotated[str, Field(max_length=200)]
Widths = Annotated[list[Width], Field(min_length=1, max_length=8)]
Counts = Annotated[list[Count], Field(min_length=1, max_length=8)]
Names = Annotated[list[Name], Field(min_length=1, max_length=8)]
Side = Annotated[int, Field(ge=1, le=4096)]
"""Latents or pixels along a side."""


class PartConfig(BaseModel):
    """Keys of any name, with values of ordinary size."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _of_ordinary_size(self) -> PartConfig:
        level: list[Any] = [*(self.__pydantic_extra__ or {}).items()]
        while level:
            below: list[Any] = []
            for value in level:
                if isinstance(value, (list, tuple, Mapping)):
                    if len(value) > MAX_ITEMS:
                        raise ValueError(f"a list has {len(value)} items, expected at most {MAX_ITEMS}")
                    below += [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
                elif isinstance(value, str) and len(value) > MAX_TEXT:
                    raise ValueError(f"a text has {len(value)} characters, expected at most {MAX_TEXT}")
                elif isinstance(value, (int, float)) and not abs(value) <= MAX_NUMBER:
                    raise ValueError(f"a number is {brief(value)}, expected at most {MAX_NUMBER}")
            level = below
        return self


class ConvolutionalConfig(PartConfig):
    """What U-Nets, ControlNets and autoencoders share."""

    sample_size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    in_channels: Width = 1
    out_channels: Width = 1
    block_out_channels: Widths = [1]
    down_block_types: Names = [""]
    up_block_types: Names = [""]
    act_fn: Name | None = None


class UnetConfig(ConvolutionalConfig):
    """A U-Net's, or a ControlNet's; the defaults do not matter, but for the sum of layers."""

    layers_per_block: Count | Counts = 2
    norm_num_groups: Width | None = 32
    transformer_layers_per_block: Count | Annotated[list[Count | Counts], Field(min_length=1, max_length=8)] = 1
    reverse_transformer_layers_per_block: Annotated[list[Count | Counts], Field(max_length=8)] | None = None
    cross_attention_dim: Width | Widths | None = None
    attention_head_dim: Width | Widths | None = None
    num_attention_heads: Width | Widths | None = None
    encoder_hid_dim: Width | None = None
    addition_time_embed_dim: Width | None = None
    addition_embed_type_num_heads: Width | None = None
    num_class_embeds: Width | None = None
    projection_class_embeddings_input_dim: Width | None = None
    time_embedding_dim: Width | None = None
    time_cond_proj_dim: Width | None = None
    conv_in_kernel: Kernel = 3
    conv_out_kernel: Kernel = 3
    downsample_padding: Annotated[int, Field(ge=0, le=15)] | None = None
    norm_eps: Annotated[float, Field(ge=0, le=1)] = 1e-5
    dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    mid_block_scale_factor: Annotated[float, Field(gt=0, le=1e3)] | None = None

    @model_validator(mode="after")
    def _of_few_layers(self) -> UnetConfig:
        blocks = max(len(self.down_block_types), len(self.block_out_channels))
        layers = blocks * (_most(self.layers_per_block) + 1) * _most(self.transformer_layers_per_block)
        if layers > MAX_TRANSFORMERS:
            raise ValueError(f"it has up to {layers} transformer layers, expected at most {MAX_TRANSFORMERS}")
        return self


class ControlNetConfig(UnetConfig):
    """A ControlNet's in the diffusers format."""

    conditioning_channels: Width = 3
    conditioning_embedding_out_channels: Widths = [16, 32, 96, 256]


class VaeConfig(ConvolutionalConfig):
    """An autoencoder's."""

    layers_per_block: Count = 1
    latent_channels: Width = 4
    scaling_factor: Annotated[float, Field(gt=0, le=1e3)] | None = None
    norm_num_groups: Width = 32


class TowerConfig(PartConfig):
    """A transformer's, of text or of pictures.

    Attributes of both, as transformers calls them.
    """

    hidden_size: Width = 512
    intermediate_size: Annotated[int, Field(ge=1, le=65_536)] = 2048
    num_hidden_layers: Annotated[int, Field(ge=1, le=64)] = 12
    num_attention_heads: Annotated[int, Field(ge=1, le=256)] = 8
    projection_dim: Width | None = None
    hidden_act: Name = "quick_gelu"
    layer_norm_eps: Annotated[float, Field(ge=0, le=1)] = 1e-5

    @property
    def num_embeddings(self) -> int:
        """Rows of the embeddings, each of ``hidden_size`` numbers."""
        return 0

    @property
    def size(self) -> int:
        """About how many numbers the tower has."""
        layer = 4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size
        return self.num_embeddings * self.hidden_size + self.num_hidden_layers * layer


class TextConfig(TowerConfig):
    """A text encoder's."""

    vocab_size: Annotated[int, Field(ge=1, le=1_000_000)] = 49_408
    max_position_embeddings: Annotated[int, Field(ge=2, le=1024)] = 77

    @property
    def num_embeddings(self) -> int:
        """Tokens and positions."""
        return self.vocab_size + self.max_position_embeddings


class SchedulerConfig(PartConfig):
    """A scheduler's, as far as DDIM takes it."""

    num_train_timesteps: Annotated[int, Field(ge=1, le=10_000)] = 1000
    beta_start: Annotated[float, Field(ge=1e-6, lt=1)] = 0.0001
    beta_end: Annotated[float, Field(ge=1e-6, lt=1)] = 0.02
    beta_schedule: Name = "linear"
    trained_betas: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(max_length=10_000)] | None = None
    prediction_type: Name = "epsilon"
    timestep_spacing: Name = "leading"
    steps_offset: Annotated[int, Field(ge=0, le=1000)] = 0
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False


class TokenizerConfig(PartConfig):
    """A tokenizer's; transformers writes 10^30 where a length is not known."""

    model_max_length: Annotated[int, Field(ge=2, le=10**31)] | Annotated[float, Field(ge=2, le=1e31)] = 77


KINDS: dict[str, type[PartConfig]] = {
    "unet": UnetConfig,
    "vae": VaeConfig,
    "text_encoder": TextConfig,
    "tokenizer": TokenizerConfig,
    "scheduler": SchedulerConfig,
}
"""By the part of a base."""


def read_part_config(path: Path, kind: type[PartConfig]) -> dict[str, Any]:
    """A part's configuration as it stands in the file.

    Raises:
        BaseModelError: the file cannot be read, or a value is of another type or out of range; says which.
    """
    values = read_json(path, max_bytes=MAX_CONFIG_BYTES, error=BaseModelError, advice=ADVICE)
    return check_part_config(values, kind, str(path))


def check_part_config(values: Any, kind: type[PartConfig], what: str) -> dict[str, Any]:
    """The same values, if they are a part's configuration.

    Raises:
        BaseModelError: they are not.
    """
    validated(kind, values, what=what, error=BaseModelError, advice=ADVICE)
    return dict(values)


def check_has_weights(size: int, files: Iterable[Path], what: str) -> None:
    """Refuse a model that is much larger than its files: transformers makes what they lack of random numbers.

    Args:
        size: about how many numbers the model has.
        files: its weights; a number has at least a byte there.
        what: names the model in messages.

    Raises:
        BaseModelError: it is.
    """
    given = sum(path.stat().st_size for path in files)
    if size > max(given, SMALL_MODEL):
        raise BaseModelError(
            f"the weights of {what} do not fit its config.json: it describes a model of {size} numbers, the files have "
            f"{given} bytes; {ADVICE}"
        )


def _most(counts: Any) -> int:
    return max(map(_most, counts)) if isinstance(counts, (list, tuple)) else counts
