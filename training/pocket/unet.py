"""The U-Net stage: epsilon prediction on cached latents, with caption dropout, EMA and the schedule of SD 1.4."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from tav_sdk.training.pocket.autoencoder import autocast, place
from tav_sdk.training.pocket.clip_model import load_text_encoder
from tav_sdk.training.pocket.config import LATENT_SIZE, TrainingSetting
from tav_sdk.training.pocket.latents import LatentCache
from tav_sdk.training.pocket.loop import Schedule, ThreadChoice, read_state, run_stage
from tav_sdk.training.pocket.text import build_tokenizer, tokenize

STAGE = "unet"
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "set_alpha_to_one": False,
}


def build_scheduler() -> PNDMScheduler:
    """The scheduler that Stable Diffusion 1.4 ships."""
    return PNDMScheduler(**SCHEDULE, skip_prk_steps=True)


def build_ddim() -> DDIMScheduler:
    """DDIM with the same schedule."""
    return DDIMScheduler(**SCHEDULE, clip_sample=False)


def build_unet(setting: TrainingSetting) -> UNet2DConditionModel:
    """A fresh U-Net: attention at 16x16 and 8x8, and in the middle (4x4)."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=4,
        out_channels=4,
        block_out_channels=setting.unet_channels,
        layers_per_block=setting.unet_layers,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=setting.clip_width,
        attention_head_dim=setting.unet_heads,
        norm_num_groups=16,
    )


class TextStates:
    """Text states ``(b, 77, d)`` of captions, each computed once."""

    def __init__(self, setting: TrainingSetting, folder: Path) -> None:
        self.encoder = place(load_text_encoder(setting, folder), setting)
        self.tokenizer = build_tokenizer()
        self.known: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> torch.Tensor:
        new = sorted(set(captions) - self.known.keys())
        if new:
            ids = tokenize(self.tokenizer, new).to(self.encoder.device)
            states = self.encoder(ids).last_hidden_state.half().cpu()  # (n, 77, d)
            self.known.update(zip(new, states, strict=True))
        return torch.stack([self.known[c] for c in captions]).float()


def train_unet(
    setting: TrainingSetting,
    folder: Path,
    *,
    finish: int | None = None,
    max_steps: int | None = None,
    threads: ThreadChoice | None = None,
) -> None:
    """Train at a constant rate into ``unet.pt``; ``finish`` decays to zero in ``unet_finish.pt``."""
    torch.manual_seed(setting.seed)
    model = place(build_unet(setting), setting)
    if setting.device == "cpu":
        model.set_attn_processor(AttnProcessor())  # twice as fast to train here as the fused CPU kernel
    cache, text = LatentCache(setting, folder), TextStates(setting, folder)
    alphas = build_ddim().alphas_cumprod
    snr = alphas / (1 - alphas)
    weights = snr.clamp(max=setting.min_snr_gamma) / snr

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        cache.grow(min(setting.first_shards + step // setting.steps_per_shard, setting.max_shards))
        batch = setting.unet_batch
        latents, captions = cache.pick(torch.randint(len(cache), (batch,), generator=generator))
        dropped = torch.rand(batch, generator=generator) < setting.caption_dropout
        states = text(["" if d else c for c, d in zip(captions, dropped.tolist(), strict=True)])
        t = torch.randint(1000, (batch,), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        alpha = alphas[t][:, None, None, None]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        noisy = noisy.to(setting.device, memory_format=torch.channels_last)
        with autocast(setting):
            noise_pred = model(noisy, t.to(setting.device), states.to(setting.device)).sample
        error = F.mse_loss(noise_pred.float(), noise.to(setting.device), reduction="none").mean(dim=(1, 2, 3))
        return (error * weights[t].to(setting.device)).mean()

    path, schedule = (
        folder / "unet.pt",
        Schedule(lr=setting.unet_lr, steps=setting.unet_steps, warmup=setting.unet_warmup),
    )
    if finish is not None:
        start = int(read_state(path)["step"])
        path = folder / "unet_finish.pt"
        mark = folder / "unet_finish_from.txt"
        if not (path.is_file() and mark.is_file() and int(mark.read_text()) == start):
            shutil.copyfile(folder / "unet.pt", path)
            mark.write_text(str(start))
        schedule = Schedule(lr=setting.unet_lr, steps=start + finish, warmup=setting.unet_warmup, decay_from=start)
    run_stage(
        stage=STAGE,
        model=model,
        loss_of=loss_of,
        state_path=path,
        log_path=folder / "log.jsonl",
        schedule=schedule,
        seed=setting.seed,
        ema_decay=setting.unet_ema,
        save_seconds=setting.save_seconds,
        max_steps=max_steps,
        threads=threads,
    )


def load_unet(setting: TrainingSetting, folder: Path) -> tuple[UNet2DConditionModel, int]:
    """The averaged U-Net in float32 and its step: the furthest of the constant and the finished state."""
    states = [read_state(p) for p in (folder / "unet.pt", folder / "unet_finish.pt") if p.is_file()]
    if not states:
        read_state(folder / "unet.pt")
    state = max(states, key=lambda s: int(s["step"]))
    model = build_unet(setting)
    model.load_state_dict(state["ema"])
    return model.eval().requires_grad_(False), int(state["step"])
