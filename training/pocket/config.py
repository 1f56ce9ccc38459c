"""The two settings that Pocket is trained with: ``small`` on two CPU cores, ``large`` on one data-centre GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tav_sdk.errors import ConfigError

PICTURE_SIZE = 64  # pixels
LATENT_SIZE = 16
SEED = 20260  # the training stream's; every evaluation uses other seeds
RECOMMENDED = {
    "num_train_steps": 150,
    "learning_rate": 5e-4,
    "num_inference_steps": 25,
    "guidance_scale": 3.5,
    "invert_with": "caption",
}


@dataclass(frozen=True, kw_only=True)
class TrainingSetting:
    """Sizes and lengths of all stages. One *step* is one optimiser step over ``*_batch`` pictures."""

    name: str
    device: Literal["cpu", "cuda"] = "cpu"
    bf16: bool = True
    seed: int = SEED
    save_seconds: float = 60.0

    clip_width: int = 128
    clip_layers: int = 4
    clip_heads: int = 4
    clip_patch: int = 8
    clip_batch: int = 128
    clip_steps: int = 450
    clip_lr: float = 1e-3

    vae_channels: tuple[int, ...] = (24, 48, 64)
    vae_batch: int = 16
    vae_steps: int = 2600
    vae_lr: float = 1.5e-3
    vae_kl: float = 1e-6
    vae_subject_weight: float = 3.0
    decoder_steps: int = 1500
    decoder_lr: float = 6e-4

    unet_channels: tuple[int, ...] = (64, 128, 192)
    unet_layers: int = 1
    unet_heads: int = 2
    unet_batch: int = 64
    unet_steps: int = 3400
    finish_steps: int = 1500
    unet_lr: float = 5e-4
    unet_warmup: int = 200
    unet_ema: float = 0.999
    caption_dropout: float = 0.1
    min_snr_gamma: float = 5.0
    control_batch: int = 32
    control_steps: int = 2400
    control_lr: float = 5e-4
    control_caption_dropout: float = 0.3
    control_shards: int = 80
    shard: int = 512
    first_shards: int = 40
    max_shards: int = 240
    steps_per_shard: int = 40

    def __post_init__(self) -> None:
        batches = ("clip_batch", "vae_batch", "unet_batch", "control_batch")
        for field in (*batches, "shard", "first_shards", "steps_per_shard"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} must be 1 or more, got {getattr(self, field)}.")
        if not 0.0 <= self.caption_dropout < 1.0:
            raise ConfigError(f"caption_dropout must lie in [0, 1), got {self.caption_dropout}.")


SMALL = TrainingSetting(name="small")
LARGE = replace(
    SMALL,
    name="large",
    device="cuda",
    clip_batch=512,
    clip_steps=1500,
    vae_batch=128,
    vae_steps=4000,
    decoder_steps=4000,
    unet_batch=512,
    first_shards=200,
    max_shards=600,
    steps_per_shard=100,
    unet_steps=12_000,
    control_batch=256,
    control_steps=6000,
    control_shards=400,
    finish_steps=4000,
)
SETTINGS = {setting.name: setting for setting in (SMALL, LARGE)}


def find_setting(name: str) -> TrainingSetting:
    """The setting of that name."""
    if name not in SETTINGS:
        raise ConfigError(f"Unknown setting '{name}'; there are: {', '.join(SETTINGS)}.")
    return SETTINGS[name]
