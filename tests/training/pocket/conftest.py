from __future__ import annotations

from dataclasses import replace

import pytest

from tav_sdk.training.pocket.config import SMALL, TrainingSetting


@pytest.fixture(scope="session")
def micro() -> TrainingSetting:
    """The recipe with tiny models: every stage takes a second."""
    return replace(
        SMALL,
        name="micro",
        bf16=False,
        clip_width=16,
        clip_layers=1,
        clip_heads=2,
        clip_patch=32,
        clip_batch=4,
        clip_steps=4,
        vae_channels=(8, 8, 8),
        vae_batch=2,
        vae_steps=4,
        decoder_steps=2,
        unet_channels=(16, 16, 16),
        unet_batch=2,
        unet_steps=4,
        finish_steps=2,
        control_batch=2,
        control_steps=3,
        control_shards=1,
        unet_warmup=2,
        shard=4,
        first_shards=1,
        max_shards=3,
        steps_per_shard=2,
    )
