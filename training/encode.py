"""The clip and its caption as the U-Net sees them, computed once before tuning."""

# diffusers and transformers annotate loosely:
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from tav_sdk.bundle.tokenizer import Tokenizer
from tav_sdk.training.base.model import PretrainedBase
from tav_sdk.video.clip import Video
from tav_sdk.video.frames import to_pixels


@dataclass(frozen=True)
class ClipLatents:
    """The VAE's posterior of a clip, times the scaling factor: ``(1, c, f, h/s, w/s)`` float32 each."""

    mean: Tensor
    std: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """One draw from the posterior, as the released code takes in every step."""
        noise = torch.randn(self.mean.shape, generator=generator)
        return self.mean + self.std * noise


@torch.no_grad()
def encode_clip(vae: AutoencoderKL, clip: Video, scaling_factor: float, *, chunk: int = 4) -> ClipLatents:
    """Encode a clip, ``chunk`` frames at a time."""
    device, dtype = next(vae.parameters()).device, next(vae.parameters()).dtype
    pixels = torch.from_numpy(to_pixels(clip.frames))  # (f, 3, h, w)
    posteriors = [vae.encode(part.to(device, dtype)).latent_dist for part in pixels.split(chunk)]
    mean, std = (
        torch.cat([getattr(posterior, name) for posterior in posteriors])  # (f, c, h, w)
        .float()
        .cpu()
        .mul(scaling_factor)
        .transpose(0, 1)[None]  # (1, c, f, h, w)
        .contiguous()
        for name in ("mean", "std")
    )
    return ClipLatents(mean, std)


@torch.no_grad()
def encode_prompts(text_encoder: torch.nn.Module, tokenizer: Tokenizer, prompts: list[str]) -> Tensor:
    """The text encoder's last hidden states, final layer norm included: ``(b, s, d)`` float32 on the CPU."""
    device = next(text_encoder.parameters()).device
    ids = torch.from_numpy(tokenizer(prompts)).to(device)
    return text_encoder(ids)[0].float().cpu()


def prepare(base: PretrainedBase, clip: Video, prompt: str, device: torch.device) -> tuple[ClipLatents, Tensor]:
    """Latents and text states of a clip; the VAE and the text encoder are released before this returns."""
    tokenizer = base.load_tokenizer()
    states = encode_prompts(base.load_text_encoder().to(device), tokenizer, [prompt])
    latents = encode_clip(base.load_vae().to(device), clip, base.scaling_factor)
    return latents, states
