"""Plain text-to-image sampling with DDIM, for looking at a base while it trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image

from tav_sdk.training.base.model import PretrainedBase
from tav_sdk.training.encode import encode_prompts
from tav_sdk.training.pocket.autoencoder import decode, load_autoencoder
from tav_sdk.training.pocket.config import LATENT_SIZE, TrainingSetting
from tav_sdk.training.pocket.unet import TextStates, build_ddim, load_unet


class Sampler:
    """A base model as a text-to-image pipeline, on the CPU.

    Args:
        unet: the U-Net.
        vae: the autoencoder.
        text: captions to text states ``(b, 77, d)``.
    """

    def __init__(
        self, unet: UNet2DConditionModel, vae: AutoencoderKL, text: Callable[[list[str]], torch.Tensor]
    ) -> None:
        self.unet, self.vae, self.text = unet, vae, text

    @classmethod
    def of_state(cls, setting: TrainingSetting, folder: Path) -> Sampler:
        """The averaged U-Net of a training state, with its text tower and autoencoder."""
        return cls(load_unet(setting, folder)[0], load_autoencoder(setting, folder), TextStates(setting, folder))

    @classmethod
    def of_base(cls, folder: str | Path) -> Sampler:
        """A base in the diffusers layout, such as ``pocket``."""
        base = PretrainedBase(Path(folder))
        encoder, tokenizer = base.load_text_encoder(), base.load_tokenizer()
        return cls(base.load_unet(), base.load_vae(), lambda prompts: encode_prompts(encoder, tokenizer, prompts))

    @torch.no_grad()
    def __call__(
        self, prompts: list[str], *, seed: int = 0, num_inference_steps: int = 50, guidance_scale: float = 3.5
    ) -> np.ndarray:
        """Pictures ``(b, h, w, 3) uint8`` of the prompts; picture k starts from noise number ``seed + k``."""
        noise = [
            torch.randn(1, 4, LATENT_SIZE, LATENT_SIZE, generator=torch.Generator().manual_seed(seed + k))
            for k in range(len(prompts))
        ]
        latents = torch.cat(noise)  # (b, 4, h, w)
        states = self.text(["" for _ in prompts] + prompts)
        scheduler = build_ddim()
        scheduler.set_timesteps(num_inference_steps)
        for t in scheduler.timesteps:
            empty, full = self.unet(torch.cat([latents, latents]), t, states).sample.chunk(2)
            noise_pred = empty + guidance_scale * (full - empty)
            latents = cast(Any, scheduler.step(cast(Any, noise_pred), int(t), cast(Any, latents))).prev_sample
        pixels = decode(self.vae, latents / self.vae.config["scaling_factor"]).clamp(-1, 1)
        return ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def contact_sheet(pictures: np.ndarray, *, columns: int = 8, zoom: int = 3) -> Image.Image:
    """Pictures ``(b, h, w, 3) uint8`` side by side, enlarged without smoothing."""
    rows, (height, width) = -(-len(pictures) // columns), pictures.shape[1:3]
    sheet = np.full((rows * (height + 2), columns * (width + 2), 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // columns * (height + 2), number % columns * (width + 2)
        sheet[top : top + height, left : left + width] = picture
    image = Image.fromarray(sheet)
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
