"""A ControlNet for Pocket: Canny edges of the plain picture steer what the U-Net draws, in any style.

The U-Net is frozen. Edges are those of the scene in its plain look, so that edges and style are told apart.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel
from diffusers.models.attention_processor import AttnProcessor

from tav_sdk.training.pocket.autoencoder import autocast, place
from tav_sdk.training.pocket.config import PICTURE_SIZE, TrainingSetting
from tav_sdk.training.pocket.latents import LatentCache
from tav_sdk.training.pocket.loop import Schedule, ThreadChoice, read_state, run_stage
from tav_sdk.training.pocket.unet import TextStates, build_ddim, load_unet
from tav_sdk.training.pocket.world import render, scene_of
from tav_sdk.video.edges import canny

STAGE = "controlnet"


def build_controlnet(setting: TrainingSetting, folder: Path) -> ControlNetModel:
    """A fresh ControlNet: the U-Net's encoder, and zero convolutions."""
    unet, _ = load_unet(setting, folder)
    torch.manual_seed(setting.seed + 6)
    # Two convolutions of stride 2: from pixels to latents.
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 64))


class EdgeCache:
    """Edges ``(64, 64)`` of the stream's pictures, as bits, in shards beside the latents'."""

    def __init__(self, setting: TrainingSetting, folder: Path) -> None:
        self.setting, self.folder = setting, folder / "edges"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shards: dict[int, np.ndarray] = {}

    def pick(self, indices: torch.Tensor) -> torch.Tensor:
        """Control pictures ``(b, 3, 64, 64)`` float32, 0 or 1, of the pictures with these numbers."""
        rows = [self._shard(int(i) // self.setting.shard)[int(i) % self.setting.shard] for i in indices]
        edges = np.unpackbits(np.stack(rows), axis=-1)  # (b, 64, 64)
        return torch.from_numpy(edges).float()[:, None].expand(-1, 3, -1, -1)

    def _shard(self, number: int) -> np.ndarray:
        """``(shard, 64, 8)`` uint8."""
        if number not in self.shards:
            path = self.folder / f"{number:05d}.npy"
            if not path.is_file():
                first = number * self.setting.shard
                scenes = [scene_of(self.setting.seed, first + k)[0] for k in range(self.setting.shard)]
                pictures = np.stack([render(replace(scene, style="plain"), PICTURE_SIZE) for scene in scenes])
                temporary = path.with_suffix(".tmp.npy")
                np.save(temporary, np.packbits(canny(pictures)[..., 0] > 127, axis=-1))
                os.replace(temporary, path)
            self.shards[number] = np.load(path)
        return self.shards[number]


def train_controlnet(
    setting: TrainingSetting, folder: Path, *, max_steps: int | None = None, threads: ThreadChoice | None = None
) -> None:
    """Train into ``controlnet.pt``, the rate falling to zero over the last third."""
    model, (unet, _) = build_controlnet(setting, folder), load_unet(setting, folder)
    model, unet = place(model, setting), place(unet, setting)
    if setting.device == "cpu":
        for net in (model, unet):
            net.set_attn_processor(AttnProcessor())  # twice as fast to train here as the fused CPU kernel
    cache, edges, text = LatentCache(setting, folder), EdgeCache(setting, folder), TextStates(setting, folder)
    alphas = build_ddim().alphas_cumprod
    snr = alphas / (1 - alphas)
    weights = snr.clamp(max=setting.min_snr_gamma) / snr

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        cache.grow(min(8 + step // 20, setting.control_shards))
        batch = setting.control_batch
        picked = torch.randint(len(cache), (batch,), generator=generator)
        latents, captions = cache.pick(picked)
        dropped = torch.rand(batch, generator=generator) < setting.control_caption_dropout
        states = text(["" if d else c for c, d in zip(captions, dropped.tolist(), strict=True)]).to(setting.device)
        t = torch.randint(1000, (batch,), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        alpha = alphas[t][:, None, None, None]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        noisy = noisy.to(setting.device, memory_format=torch.channels_last)
        with autocast(setting):
            at = t.to(setting.device)
            down, mid = model(noisy, at, states, edges.pick(picked).to(setting.device), return_dict=False)
            noise_pred = unet(
                noisy, at, states, down_block_additional_residuals=down, mid_block_additional_residual=mid
            ).sample
        error = F.mse_loss(noise_pred.float(), noise.to(setting.device), reduction="none").mean(dim=(1, 2, 3))
        return (error * weights[t].to(setting.device)).mean()

    run_stage(
        stage=STAGE,
        model=model,
        loss_of=loss_of,
        state_path=folder / "controlnet.pt",
        log_path=folder / "log.jsonl",
        schedule=Schedule(
            lr=setting.control_lr, steps=setting.control_steps, warmup=50, decay_from=setting.control_steps * 2 // 3
        ),
        seed=setting.seed,
        ema_decay=setting.unet_ema,
        save_seconds=setting.save_seconds,
        max_steps=max_steps,
        threads=threads,
    )


def load_controlnet(setting: TrainingSetting, folder: Path) -> tuple[ControlNetModel, int]:
    """The averaged ControlNet in float32 and its step."""
    state = read_state(folder / "controlnet.pt")
    model = build_controlnet(setting, folder)
    model.load_state_dict(state["ema"])
    return model.eval().requires_grad_(False), int(state["step"])
