"""What the configurations of a CLIP in the transformers format may hold. Without PyTorch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from tav_sdk.training.base.part_configs import PartConfig, Side, TextConfig, TowerConfig, Width

Pixels = Side | dict[str, Side] | Annotated[list[Side], Field(min_length=1, max_length=2)]
Channels = Annotated[list[Annotated[float, Field(ge=-1e6, le=1e6)]], Field(min_length=1, max_length=4)]


class VisionConfig(TowerConfig):
    """The tower of pictures."""

    image_size: Annotated[int, Field(ge=1, le=2048)] = 224
    patch_size: Annotated[int, Field(ge=1, le=2048)] = 32
    num_channels: Annotated[int, Field(ge=1, le=16)] = 3

    @property
    def num_embeddings(self) -> int:
        """Places of the picture, and about as much for what a patch is multiplied by."""
        return (self.image_size // self.patch_size) ** 2 + 1 + self.num_channels * self.patch_size**2

    @model_validator(mode="after")
    def _of_few_patches(self) -> VisionConfig:
        if (patches := (self.image_size // self.patch_size) ** 2) > 65_536:
            raise ValueError(f"a picture has {patches} patches, expected at most 65536")
        return self


class ClipConfig(PartConfig):
    """Both towers; old files left out what is a CLIP ViT-B/32's."""

    text_config: TextConfig | None = None
    vision_config: VisionConfig | None = None
    projection_dim: Width | None = None

    @property
    def size(self) -> int:
        """About how many numbers the model has."""
        return (self.text_config or TextConfig()).size + (self.vision_config or VisionConfig(hidden_size=768)).size


class ImageProcessorConfig(PartConfig):
    """How a CLIP prepares pictures."""

    size: Pixels | None = None
    crop_size: Pixels | None = None
    image_mean: Channels | None = None
    image_std: Channels | None = None
    rescale_factor: Annotated[float, Field(gt=0, le=1e6)] | None = None
    resample: Annotated[int, Field(ge=0, le=5)] | None = None
    image_processor: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _nested(self) -> ImageProcessorConfig:
        if self.image_processor is not None:  # processor_config.json has it within
            ImageProcessorConfig.model_validate(self.image_processor)
        return self
