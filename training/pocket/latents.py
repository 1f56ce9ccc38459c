"""The latent cache on disk: shard k holds the latents of pictures k * shard to (k + 1) * shard of the stream."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from tav_sdk.training.pocket.autoencoder import autocast, encode, load_autoencoder, picture_batch, place
from tav_sdk.training.pocket.config import LATENT_SIZE, TrainingSetting
from tav_sdk.training.pocket.loop import write_state
from tav_sdk.training.pocket.world import scene_of


@torch.no_grad()
def measure_scaling(setting: TrainingSetting, folder: Path, count: int = 512) -> float:
    """1 / standard deviation of the mean latents over ``count`` pictures; written to ``scaling.pt`` once."""
    path = folder / "scaling.pt"
    if not path.is_file():
        model = load_autoencoder(setting, folder)
        pixels, _ = picture_batch(setting.seed + 4, 0, count)
        means = torch.cat([encode(model, part).mean for part in pixels.split(64)])
        write_state(path, {"scaling_factor": round(1.0 / float(means.std()), 5)})
    return float(torch.load(path, weights_only=True)["scaling_factor"])


class LatentCache:
    """Scaled mean latents ``(4, 16, 16)`` float16 and captions by picture number; shards are made when needed."""

    def __init__(self, setting: TrainingSetting, folder: Path) -> None:
        self.setting = setting
        self.folder = folder / "latents"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.scaling = measure_scaling(setting, folder)
        self.model: AutoencoderKL = place(load_autoencoder(setting, folder, decoder=False), setting)
        self.latents = np.zeros((0, 4, LATENT_SIZE, LATENT_SIZE), np.float16)
        self.captions: list[str] = []
        self.shards: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.shards) * self.setting.shard

    def grow(self, shards: int) -> None:
        """Have at least that many shards in memory, making the missing ones."""
        while len(self.shards) < shards:
            number = len(self.shards)
            path = self.folder / f"{number:05d}.npy"
            self.shards.append(np.load(path) if path.is_file() else self._make(path, number))
            first = number * self.setting.shard
            self.captions += [scene_of(self.setting.seed, first + k)[1] for k in range(self.setting.shard)]

    @torch.no_grad()
    def _make(self, path: Path, number: int) -> np.ndarray:
        setting, parts = self.setting, []
        for first in range(number * setting.shard, (number + 1) * setting.shard, 64):
            count = min(64, (number + 1) * setting.shard - first)
            pixels, _ = picture_batch(setting.seed, first, count)
            pixels = pixels.to(setting.device, memory_format=torch.channels_last)
            with autocast(setting):
                mean = encode(self.model, pixels).mean
            parts.append((mean.float() * self.scaling).cpu().numpy().astype(np.float16))
        shard = np.concatenate(parts)
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, shard)
        os.replace(temporary, path)
        return shard

    def pick(self, indices: torch.Tensor) -> tuple[torch.Tensor, list[str]]:
        """Latents ``(b, 4, 16, 16)`` float32 and captions of the pictures with these numbers."""
        size = self.setting.shard
        rows = [self.shards[int(i) // size][int(i) % size] for i in indices]
        return torch.from_numpy(np.stack(rows)).float(), [self.captions[int(i)] for i in indices]
