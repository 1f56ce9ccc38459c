"""The autoencoder stage: an ``AutoencoderKL`` of factor 4, sharp and nearly deterministic."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import nn

from tav_sdk.training.pocket.config import PICTURE_SIZE, TrainingSetting
from tav_sdk.training.pocket.loop import Schedule, ThreadChoice, read_state, run_stage
from tav_sdk.training.pocket.world import sample, scene_of, subject_box

STAGE = "vae"
_Module = TypeVar("_Module", bound=nn.Module)


def place(model: _Module, setting: TrainingSetting) -> _Module:
    """The model on the setting's device, its convolutions channels-last."""
    cast(Any, model).to(device=setting.device, memory_format=torch.channels_last)
    return model


def encode(model: AutoencoderKL, pixels: torch.Tensor) -> DiagonalGaussianDistribution:
    """Posterior over the unscaled latents ``(b, 4, h/4, w/4)`` of pixels ``(b, 3, h, w)``."""
    return cast(Any, model).encode(pixels).latent_dist


def decode(model: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Pixels ``(b, 3, h, w)`` of unscaled latents."""
    return cast(Any, model).decode(latents).sample


def build_autoencoder(setting: TrainingSetting, scaling_factor: float = 1.0) -> AutoencoderKL:
    """A fresh autoencoder with Stable Diffusion's configuration keys."""
    levels = len(setting.vae_channels)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=cast(Any, ("DownEncoderBlock2D",) * levels),
        up_block_types=cast(Any, ("UpDecoderBlock2D",) * levels),
        block_out_channels=cast(Any, setting.vae_channels),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=PICTURE_SIZE,
        scaling_factor=scaling_factor,
    )


def to_pixels(pictures: np.ndarray) -> torch.Tensor:
    """``(b, h, w, 3) uint8`` to ``(b, 3, h, w)`` float32 in [-1, 1]."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1.0


def picture_batch(seed: int, first: int, count: int) -> tuple[torch.Tensor, list[str]]:
    """Pixels ``(b, 3, h, w)`` and captions of pictures ``first`` to ``first + count`` of the stream."""
    samples = [sample(seed, index, PICTURE_SIZE) for index in range(first, first + count)]
    return to_pixels(np.stack([s.picture for s in samples])), [s.caption for s in samples]


def subject_weights(setting: TrainingSetting, seed: int, first: int, count: int) -> torch.Tensor:
    """Weights ``(b, 1, h, w)`` of the pixels: more inside the subject's box, where blur hurts most."""
    weights = torch.ones(count, 1, PICTURE_SIZE, PICTURE_SIZE)
    for row in range(count):
        box = subject_box(scene_of(seed, first + row)[0], PICTURE_SIZE)
        left, top, right, bottom = (min(max(round(edge), 0), PICTURE_SIZE) for edge in box)
        weights[row, :, top:bottom, left:right] = setting.vae_subject_weight
    return weights.to(setting.device)


def reconstruction_loss(output: torch.Tensor, pixels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted squared and absolute error, and the absolute error of the differences between neighbours (edges)."""
    error = (output - pixels) * weights.sqrt()
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return 4.0 * error.square().mean() + 0.5 * error.abs().mean() + 0.25 * edges


def autocast(setting: TrainingSetting) -> torch.autocast:
    """bf16 autocast on the setting's device."""
    return torch.autocast(setting.device, torch.bfloat16, enabled=setting.bf16)


def train_autoencoder(
    setting: TrainingSetting, folder: Path, *, max_steps: int | None = None, threads: ThreadChoice | None = None
) -> None:
    """Train encoder and decoder; writes ``vae.pt``."""
    torch.manual_seed(setting.seed)
    model = place(build_autoencoder(setting), setting)

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        pixels, _ = picture_batch(setting.seed + 1, step * setting.vae_batch, setting.vae_batch)
        weights = subject_weights(setting, setting.seed + 1, step * setting.vae_batch, setting.vae_batch)
        pixels = pixels.to(setting.device, memory_format=torch.channels_last)
        with autocast(setting):
            posterior = encode(model, pixels)
        mean, std = posterior.mean.float(), posterior.std.float()
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        with autocast(setting):
            output = decode(model, mean + std * noise)
        divergence = 0.5 * (mean.square() + std.square() - 1.0 - 2.0 * std.log()).sum(dim=(1, 2, 3)).mean()
        return reconstruction_loss(output.float(), pixels, weights) + setting.vae_kl * divergence

    run_stage(
        stage=STAGE,
        model=model,
        loss_of=loss_of,
        state_path=folder / "vae.pt",
        log_path=folder / "log.jsonl",
        schedule=Schedule(lr=setting.vae_lr, steps=setting.vae_steps, decay_from=setting.vae_steps * 2 // 3),
        seed=setting.seed,
        save_seconds=setting.save_seconds,
        max_steps=max_steps,
        threads=threads,
    )


def train_decoder(
    setting: TrainingSetting, folder: Path, *, max_steps: int | None = None, threads: ThreadChoice | None = None
) -> None:
    """Go on with the decoder alone, on the frozen encoder's mean latents; writes ``decoder.pt``.

    Latents, and so a U-Net that was trained on them, stay valid.
    """
    model = place(load_autoencoder(setting, folder, decoder=False), setting)

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        pixels, _ = picture_batch(setting.seed + 3, step * setting.vae_batch, setting.vae_batch)
        weights = subject_weights(setting, setting.seed + 3, step * setting.vae_batch, setting.vae_batch)
        pixels = pixels.to(setting.device, memory_format=torch.channels_last)
        with autocast(setting):
            with torch.no_grad():
                mean = encode(model, pixels).mean.float()
                jitter = torch.randn(mean.shape, generator=generator).to(mean.device)
                latents = mean + 0.03 * mean.std() * jitter
            output = decode(model, latents)
        return reconstruction_loss(output.float(), pixels, weights)

    run_stage(
        stage="decoder",
        model=model,
        loss_of=loss_of,
        state_path=folder / "decoder.pt",
        log_path=folder / "log.jsonl",
        schedule=Schedule(lr=setting.decoder_lr, steps=setting.decoder_steps, decay_from=setting.decoder_steps // 3),
        seed=setting.seed,
        save_seconds=setting.save_seconds,
        max_steps=max_steps,
        threads=threads,
        trainable=lambda name: name.startswith(("decoder.", "post_quant_conv.")),
    )


def load_autoencoder(setting: TrainingSetting, folder: Path, *, decoder: bool = True) -> AutoencoderKL:
    """The trained autoencoder in float32 with the measured scaling factor; ``decoder``: the fine-tuned one, if any."""
    state = read_state(folder / "vae.pt")
    scaling = read_state(folder / "scaling.pt")["scaling_factor"] if (folder / "scaling.pt").is_file() else 1.0
    model = build_autoencoder(setting, float(scaling))
    fine = folder / "decoder.pt"
    model.load_state_dict(read_state(fine)["model"] if decoder and fine.is_file() else state["model"])
    return model.eval().requires_grad_(False)


@torch.no_grad()
def reconstruction_psnr(model: AutoencoderKL, seed: int, count: int = 128) -> dict[str, float]:
    """Mean PSNR in dB of encode (mean), decode over fresh pictures, by style."""
    values: dict[str, list[float]] = {}
    for index in range(count):
        item = sample(seed, index, PICTURE_SIZE)
        pixels = to_pixels(item.picture[None])
        output = decode(model, encode(model, pixels).mean).clamp(-1, 1)
        mse = float(F.mse_loss(output, pixels)) / 4.0  # range 2 to range 1
        values.setdefault(item.scene.style, []).append(-10.0 * float(np.log10(max(mse, 1e-9))))
    return {style: float(np.mean(v)) for style, v in values.items()}
