"""DDIM inversion: from a clip's latents to the noise that samples back to them (paper, section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from tav_sdk.errors import InputError
from tav_sdk.progress import Callback, StepProgress, UNet, report
from tav_sdk.schedule import DDIMSchedule

InvertWith = Literal["empty", "caption"]
"""The prompt of an inversion: none, or the clip's caption."""
Correction = Literal["none", "negative-prompt", "direct"]
"""How edits of an inverted clip are kept near it, see :class:`Inversion`."""
CORRECTIONS: tuple[str, ...] = get_args(Correction)


def check_correction(correction: str) -> None:
    """Check the name of a correction.

    Raises:
        InputError: it is unknown; lists those that are known.
    """
    if correction not in CORRECTIONS:
        raise InputError(f"there is no correction {correction!r}; choose one of {', '.join(CORRECTIONS)}")


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """A clip's way back to noise, ready to be edited any number of times.

    Attributes:
        latents: ``(1, c, f, h, w)`` float32 at the highest noise level.
        source_latents: ``(1, c, f, h, w)`` float32, the clip's own.
        fps: the clip's frame rate.
        prompt: what it was inverted with.
        num_inversion_steps: steps of the inversion, each one U-Net evaluation.
        correction: what keeps edits near the clip. Inversion follows a curve that sampling does not quite come back
            on, and guidance leads further away from it. ``negative-prompt`` has the inversion's prompt in the empty
            one's place, so that guidance changes only what the new prompt changes (Miyake et al., 2023). ``direct``
            adds in every step what sampling with the inversion's prompt is away from the curve (after Ju et al., 2024).
        offsets: of ``direct``, see :func:`direct_offsets`.
    """

    latents: np.ndarray = field(repr=False)
    source_latents: np.ndarray = field(repr=False)
    fps: float
    prompt: str
    num_inversion_steps: int
    correction: Correction = "none"
    offsets: np.ndarray | None = field(default=None, repr=False)


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


def direct_offsets(
    unet: UNet,
    trajectory: np.ndarray,
    encoder_hidden_states: np.ndarray,
    schedule: DDIMSchedule,
    callback: Callback | None = None,
) -> np.ndarray:
    """How far a sampling step from each latent of an inversion ends from the latent that it came from.

    Sampling with the inversion's text states, without guidance, that adds them after its steps
    (:func:`~tav_sdk.sampling.ddim_sample`) goes back over the inversion's latents to the clip's own, to rounding. They
    do not depend on the prompt of an edit, so that they are computed once for any number of edits. The inversion's own
    predictions do not give them: those are of the latents BEFORE each of its steps.

    Args:
        unet: as in :func:`ddim_invert`.
        trajectory: ``(n + 1, b, c, f, h, w)`` float32, the clean latents, then those after each of n inversion steps.
        encoder_hidden_states: ``(b, s, d)`` float32, text states of the inversion.
        schedule: the base model's schedule.
        callback: called after every step with the stage ``correction``; ``False`` cancels.

    Returns:
        ``(n, b, c, f, h, w)`` float32, the first for the first step of sampling.

    Raises:
        InputError: n is out of range.
        CancelledError: the callback returned ``False``.
    """
    n = len(trajectory) - 1
    offsets = np.empty_like(trajectory[1:])
    for index, timestep in enumerate(schedule.timesteps(n)):
        latents, target = trajectory[n - index], trajectory[n - index - 1]  # (b, c, f, h, w)
        noise_pred = unet(latents, np.asarray(timestep), encoder_hidden_states)
        offsets[index] = target - schedule.step(noise_pred, timestep, latents, n)
        report(callback, StepProgress("correction", index + 1, n, int(timestep)))
    return offsets
