"""Seconds per tuning step: the SDK's loop against a straightforward one of the released kind.

    python -m benchmarks.tune_step --size mid --steps 5 --json tune_step.json

Three candidates step in turn, each on its own copy of one model, on the same clip and the same random numbers:

``sdk``       training/tuning.py: latents and text states computed once, fused attention, gradients of the tuned
              parameters only.
``released``  VAE and text encoder in every step, attention by explicit matrix products with the whole softmax in
              memory, gradients of ALL U-Net parameters, AdamW over all of them.
``frozen``    the same, but with gradients of the tuned parameters only. That is what the released code really asks
              autograd for, so this is the ratio that a user of it sees.

All three compute the same loss, which is checked before anything is timed.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTextModel

from benchmarks import interleave, progress, spread, table, write_json
from benchmarks.demo_clip import render_clip
from benchmarks.models import NUM_TOKENS, SIZES, Size, make_schedule, make_text_encoder, make_vae, make_video_unet
from tav_sdk.export.bench.peers import explicit_products
from tav_sdk.training import InflationOptions, TuneConfig, VideoUNet
from tav_sdk.training.encode import encode_clip
from tav_sdk.training.tune_step import Tuner
from tav_sdk.training.unet.inflation import freeze_all_but_tuned
from tav_sdk.video.frames import to_pixels


class ReleasedLoop:
    """A plain one-shot tuning loop that encodes clip and caption anew in every step.

    Args:
        model: an inflated U-Net.
        vae: encodes ``pixels`` in every step.
        text_encoder: encodes ``input_ids`` in every step.
        pixels: ``(f, 3, h, w)`` in [-1, 1].
        input_ids: ``(1, s)``.
        config: learning rate and the like.
        all_gradients: take gradients of all parameters; otherwise of the tuned weights only.
    """

    def __init__(
        self,
        model: VideoUNet,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        pixels: Tensor,
        input_ids: Tensor,
        config: TuneConfig,
        *,
        all_gradients: bool,
    ) -> None:
        self.model, self.vae, self.text_encoder, self.pixels, self.input_ids = (
            model,
            vae,
            text_encoder,
            pixels,
            input_ids,
        )
        self.config = config
        self.alphas_cumprod = torch.from_numpy(make_schedule().alphas_cumprod)
        vae.requires_grad_(False)
        text_encoder.requires_grad_(False)
        if all_gradients:
            model.requires_grad_(True)
        else:
            freeze_all_but_tuned(model)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=1e-2)
        self.steps_done = 0

    def step(self) -> float:
        """One update; returns the loss."""
        # The SDK's random numbers: one generator per step, posterior first.
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.steps_done)
        posterior = self.vae.encode(self.pixels).latent_dist  # (f, c, h, w)  # pyright: ignore[reportAttributeAccessIssue]
        mean, std = (x.transpose(0, 1)[None] for x in (posterior.mean, posterior.std))  # (1, c, f, h, w)
        latents = (mean + std * torch.randn(mean.shape, generator=generator)) * self.vae.config["scaling_factor"]
        noise = torch.randn(latents.shape, generator=generator)
        timestep = torch.randint(len(self.alphas_cumprod), (), generator=generator)
        alpha = self.alphas_cumprod[timestep]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        states = self.text_encoder(self.input_ids)[0]
        with explicit_products():
            predicted = self.model(noisy, timestep, states)
        loss = F.mse_loss(predicted, noise)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps_done += 1
        return loss.item()


def run(size: Size, *, steps: int, preset: str = "default", tolerance: float = 1e-3) -> dict[str, Any]:
    """Measure ``steps`` steps of every candidate.

    Raises:
        RuntimeError: the candidates' first losses differ, so they do not do the same work.
    """
    options = InflationOptions(preset=preset)  # type: ignore[arg-type]
    config = TuneConfig(base="-", video="-", prompt="-", out="-", mixed_precision="no", inflation=options)
    progress("making the models")
    model, vae, text_encoder = make_video_unet(size, options), make_vae(size), make_text_encoder(size)
    clip = render_clip(num_frames=size.num_frames, height=size.pixels, width=size.pixels)
    input_ids = torch.randint(size.vocabulary, (1, NUM_TOKENS), generator=torch.Generator().manual_seed(0))

    began = time.perf_counter()
    latents = encode_clip(vae, clip, vae.config["scaling_factor"])
    vae_seconds = time.perf_counter() - began
    began = time.perf_counter()
    with torch.no_grad():
        states = text_encoder(input_ids)[0]
    text_seconds = time.perf_counter() - began

    loop = (vae, text_encoder, torch.from_numpy(to_pixels(clip.frames)), input_ids, config)
    released = ReleasedLoop(copy.deepcopy(model), *loop, all_gradients=True)
    frozen = ReleasedLoop(copy.deepcopy(model), *loop, all_gradients=False)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tuner = Tuner(model, latents, states, make_schedule(), config, torch.device("cpu"))

    losses = {"sdk": tuner.step()["loss"], "released": released.step(), "frozen": frozen.step()}
    if max(losses.values()) - min(losses.values()) > tolerance * losses["sdk"]:
        raise RuntimeError(f"the candidates compute different losses: {losses}")
    # That first step was also the warm-up.
    seconds = interleave({"released": released.step, "sdk": tuner.step, "frozen": frozen.step}, steps, warmup=0)
    return {
        "benchmark": "tune_step",
        "preset": preset,
        "parameters": parameters,
        "tuned": sum(parameter.numel() for parameter in tuner.tuned.values()),
        "num_frames": size.num_frames,
        "latent_size": size.latent_size,
        "threads": torch.get_num_threads(),
        "once": {"vae": vae_seconds, "text": text_seconds},
        "first_loss": losses,
        "seconds": seconds,
        "summary": {name: spread(values) for name, values in seconds.items()},
        "ratio": {
            name: spread(seconds[name])["median"] / spread(seconds["sdk"])["median"] for name in ("released", "frozen")
        },
    }


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "mid"), default="mid", help="of the models (default: mid)")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="timed steps of each candidate (default: 5)")
    parser.add_argument(
        "--preset", choices=("default", "original"), default="default", help="how the U-Net is inflated"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    options = parser.parse_args(arguments)
    result = run(SIZES[options.size], steps=options.steps, preset=options.preset)
    rows = [
        (name, *(f"{values[key]:.2f}" for key in ("median", "min", "max")), f"{result['ratio'].get(name, 1.0):.2f}")
        for name, values in result["summary"].items()
    ]
    print(table(("loop", "median s/step", "min", "max", "times the SDK's"), rows))
    once = result["once"]
    print(
        f"{result['parameters'] / 1e6:.1f} M parameters, {result['tuned'] / 1e6:.1f} M tuned; "
        f"the SDK's loop computes once: VAE {once['vae']:.2f} s, text encoder {once['text']:.2f} s"
    )
    write_json(options.json, result, options)


if __name__ == "__main__":
    main()
