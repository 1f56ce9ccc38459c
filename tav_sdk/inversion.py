"""DDIM inversion: from a clip's latents to the noise that samples back to them (paper, section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tav_sdk.progress import Callback, StepProgress, UNet, report
from tav_sdk.schedule import DDIMSchedule

InvertWith = Literal["empty", "caption"]
"""The prompt of an inversion: none, or the clip's caption."""


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """A clip's way back to noise, ready to be edited any number of times.

    Attributes:
        latents: ``(1, c, f, h, w)`` float32 at the highest noise level.
        source_latents: ``(1, c, f, h, w)`` float32, the clip's own.
        fps: the clip's frame rate.
        prompt: what it was inverted with.
        num_inversion_steps: U-Net evaluations it took.
    """

    latents: np.ndarray = field(repr=False)
    source_latents: np.ndarray = field(repr=False)
    fps: float
    prompt: str
    num_inversion_steps: int


def ddim_invert(
    unet: UNet,
    latents: np.ndarray,
    encoder_hidden_states: np.ndarray,
    schedule: DDIMSchedule,
    num_inference_steps: int,
    callback: Callback | None = None,
) -> np.ndarray:
    """Run the deterministic DDIM process backwards, from clean latents to noise.

    Each step evaluates the U-Net at the DESTINATION timestep with the source's latents, without guidance.

    Args:
        unet: ``unet(sample, timestep, encoder_hidden_states) -> noise_pred``; float32 arrays ``(b, c, f, h, w)``,
            0-dimensional int64, ``(b, s, d)``; any callable, so an engine as well as a model.
        latents: ``(b, c, f, h, w)`` float32, the VAE's latents times its scaling factor.
        encoder_hidden_states: ``(b, s, d)`` float32, text states of the empty prompt or of the clip's own.
        schedule: the base model's schedule.
        num_inference_steps: number of U-Net evaluations, in [1, T].
        callback: called after every step with a :class:`~tav_sdk.progress.StepProgress`; ``False`` cancels.

    Returns:
        Latents ``(b, c, f, h, w)`` float32 at the noise level where sampling with as many steps starts.

    Raises:
        InputError: ``num_inference_steps`` is out of range.
        CancelledError: the callback returned ``False``.
    """
    latents = np.asarray(latents, dtype=np.float32)
    timesteps = schedule.inversion_timesteps(num_inference_steps)
    for index, timestep in enumerate(timesteps):
        noise_pred = unet(latents, np.asarray(timestep), encoder_hidden_states)
        latents = schedule.inverse_step(noise_pred, timestep, latents, num_inference_steps)
        report(callback, StepProgress("inversion", index + 1, len(timesteps), int(timestep), latents))
    return latents
