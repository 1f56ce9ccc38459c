"""Models with random weights for the benchmarks: sizes are what matters for time and memory, not pictures."""

# diffusers and transformers annotate loosely:
# pyright: reportArgumentType=false

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.training import InflationOptions, VideoUNet, inflate, make_tiny_base
from tav_sdk.training.base.tiny import SCHEDULER

NUM_TOKENS = 77


@dataclass(frozen=True, kw_only=True)
class Size:
    """Widths and depths of a base model, and the clip that it is measured with.

    Attributes:
        unet_channels: one number per level; attention at all levels but the last.
        heads: attention heads.
        norm_groups: of the U-Net's and the VAE's group norms.
        layers_per_block: of the U-Net and the VAE.
        text_width: width of the text states.
        text_layers: depth of the text encoder.
        text_heads: its attention heads.
        vocabulary: its number of tokens.
        vae_channels: one number per level; the VAE's factor is 2^(number - 1).
        num_frames: of the clip.
        latent_size: height and width of the latents.
    """

    unet_channels: tuple[int, ...]
    heads: int
    norm_groups: int
    layers_per_block: int
    text_width: int
    text_layers: int
    text_heads: int
    vocabulary: int
    vae_channels: tuple[int, ...]
    num_frames: int
    latent_size: int

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent along one side."""
        return 2 ** (len(self.vae_channels) - 1)

    @property
    def pixels(self) -> int:
        """Height and width of the clip."""
        return self.latent_size * self.vae_scale_factor


FULL = Size(
    unet_channels=(320, 640, 1280, 1280),
    heads=8,
    norm_groups=32,
    layers_per_block=2,
    text_width=768,
    text_layers=12,
    text_heads=12,
    vocabulary=49408,
    vae_channels=(128, 256, 512, 512),
    num_frames=8,
    latent_size=32,
)
"""Stable Diffusion 1.4's, with a clip of 8 frames of 256x256 pixels."""

MID = Size(**{**vars(FULL), "unet_channels": (128, 256, 512)})
"""A smaller U-Net beside Stable Diffusion 1.4's own VAE and text encoder, and the same clip."""

TINY = Size(
    unet_channels=(16, 32),
    heads=4,
    norm_groups=4,
    layers_per_block=1,
    text_width=32,
    text_layers=2,
    text_heads=4,
    vocabulary=600,
    vae_channels=(8, 8, 16, 16),
    num_frames=2,
    latent_size=8,
)
"""Shows that a benchmark runs; its numbers mean nothing."""

SIZES = {"tiny": TINY, "mid": MID, "full": FULL}


def make_unet(size: Size, *, seed: int = 0) -> UNet2DConditionModel:
    """An image U-Net."""
    cross = len(size.unet_channels) - 1
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=size.latent_size,
        in_channels=4,
        out_channels=4,
        layers_per_block=size.layers_per_block,
        block_out_channels=size.unet_channels,
        down_block_types=("CrossAttnDownBlock2D",) * cross + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * cross,
        norm_num_groups=size.norm_groups,
        cross_attention_dim=size.text_width,
        attention_head_dim=size.heads,  # the number of heads: the name is diffusers' own mistake
    )


def make_video_unet(size: Size, options: InflationOptions | None = None, *, seed: int = 0) -> VideoUNet:
    """An inflated U-Net whose temporal attention does something: its output projections are random, not zero."""
    model = inflate(make_unet(size, seed=seed), options, size.num_frames, seed=seed)
    for name, parameter in model.named_parameters():
        if name.endswith("attn_temp.to_out.0.weight"):
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def make_vae(size: Size, *, seed: int = 0) -> AutoencoderKL:
    """An autoencoder, in evaluation mode."""
    levels = len(size.vae_channels)
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        layers_per_block=size.layers_per_block,
        block_out_channels=size.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=size.norm_groups,
        sample_size=size.pixels,
        scaling_factor=0.18215,
    )
    return vae.eval()


def make_text_encoder(size: Size, *, bos: int = 0, eos: int = 1, seed: int = 0) -> CLIPTextModel:
    """A CLIP text encoder, in evaluation mode."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.text_width,
        intermediate_size=4 * size.text_width,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.text_heads,
        max_position_embeddings=NUM_TOKENS,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    return CLIPTextModel(config).eval()


def make_schedule() -> DDIMSchedule:
    """Stable Diffusion 1.4's."""
    return DDIMSchedule.from_config(SCHEDULER)


def write_base(size: Size, folder: Path, *, seed: int = 0) -> Path:
    """A base model in the diffusers layout; one part is in memory at a time."""
    make_tiny_base(folder, overwrite=True)  # tokenizer, scheduler, index
    tokens = json.loads((folder / "text_encoder" / "config.json").read_text())
    make_text_encoder(size, bos=tokens["bos_token_id"], eos=tokens["eos_token_id"], seed=seed).save_pretrained(
        folder / "text_encoder"
    )
    make_vae(size, seed=seed).save_pretrained(folder / "vae")
    make_unet(size, seed=seed).save_pretrained(folder / "unet")
    return folder
