"""DDIM sampling with classifier-free guidance (Ho and Salimans, 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.errors import InputError
from tav_sdk.progress import Callback, StepProgress, UNet, report

if TYPE_CHECKING:
    pass


def ddim_sample(
    unet: UNet,
    latents: np.ndarray,
    encoder_hidden_states: np.ndarray,
    negative_encoder_hidden_states: np.ndarray | None,
    schedule: DDIMSchedule,
    num_inference_steps: int,
    guidance_scale: float,
    callback: Callback | None = None,
    *,
    offsets: np.ndarray | None = None,
    start_timestep: int | None = None,
    done: int = 0,
) -> np.ndarray:
    """Run the deterministic DDIM process (eta 0) from noise to clean latents.

    With ``guidance_scale`` above 1 each step is one batch of two, unconditional half first, and
    ``noise_pred = uncond + guidance_scale * (cond - uncond)``; at 1 or below it is a single conditional evaluation.

    Args:
        unet: ``unet(sample, timestep, encoder_hidden_states) -> noise_pred``; float32 arrays ``(b, c, f, h, w)``,
            0-dimensional int64, ``(b, s, d)``.
        latents: ``(b, c, f, h, w)`` float32, standard normal noise or inverted latents.
        encoder_hidden_states: ``(b, s, d)`` float32, text states of the prompt.
        negative_encoder_hidden_states: ``(b, s, d)`` float32, text states of the negative (or empty) prompt; not
            used, and may be ``None``, without guidance.
        schedule: the base model's schedule.
        num_inference_steps: number of steps, in [1, T].
        guidance_scale: 7.5 to 12.5 is usual for Stable Diffusion; at most 1 switches guidance off.
        callback: called after every step with a :class:`~tav_sdk.progress.StepProgress`; ``False`` cancels.
        offsets: ``(num_inference_steps, b, c, f, h, w)`` float32, added to the latents after each step, see
            :func:`~tav_sdk.diffusion.inversion.direct_offsets`.
        start_timestep: where ``latents`` are, if not at the first timestep of ``num_inference_steps``; steps are then
            even from there.
        done: steps of an interrupted call, after which ``latents`` are.

    Returns:
        Clean latents ``(b, c, f, h, w)`` float32, still times the VAE's scaling factor.

    Raises:
        InputError: ``num_inference_steps`` is out of range, negative text states are missing, or there is not one
            offset per step.
        CancelledError: the callback returned ``False``.
    """
    latents = np.asarray(latents, dtype=np.float32)
    guided = guidance_scale > 1.0
    states = encoder_hidden_states
    if guided:
        if negative_encoder_hidden_states is None:
            raise InputError("guidance_scale above 1 needs negative_encoder_hidden_states: those of the empty prompt")
        states = np.concatenate([negative_encoder_hidden_states, encoder_hidden_states])  # (2 b, s, d)
    timesteps = schedule.timesteps(num_inference_steps)
    if start_timestep is not None:
        timesteps = schedule.timesteps_between(start_timestep, int(timesteps[-1]), num_inference_steps)
    if offsets is not None and len(offsets) != len(timesteps):
        raise InputError(
            f"num_inference_steps must be {len(offsets)}, as many as the clip was inverted with, got {len(timesteps)}: "
            "the direct correction has an offset for each step of its inversion"
        )
    for index, timestep in enumerate(timesteps[done:], start=done):
        if guided:
            both = unet(np.concatenate([latents, latents]), np.asarray(timestep), states)  # (2 b, c, f, h, w)
            uncond, cond = np.split(both, 2)
            noise_pred = uncond + guidance_scale * (cond - uncond)
        else:
            noise_pred = unet(latents, np.asarray(timestep), states)
        if start_timestep is None:
            latents = schedule.step(noise_pred, timestep, latents, num_inference_steps)
        else:
            target = -1 if index + 1 == len(timesteps) else timesteps[index + 1]
            latents = schedule.move(noise_pred, latents, timestep, target)
        if offsets is not None:
            latents = latents + offsets[index]
        report(callback, StepProgress("sampling", index + 1, len(timesteps), int(timestep), latents))
    return latents


def random_generator(seed: int) -> np.random.Generator:
    if seed < 0:
        raise InputError(f"seed must not be negative, got {seed}")
    return np.random.default_rng(seed)


def draw_noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Standard normal noise, float32.

    Raises:
        InputError: the seed is negative.
    """
    return random_generator(seed).standard_normal(shape, dtype=np.float32)
