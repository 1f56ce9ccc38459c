"""DDIM inversion: from a clip's latents to the noise that samples back to them (paper, section 4.3)."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import numpy as np

from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.errors import InputError
from tav_sdk.progress import Callback, StepProgress, UNet, report

Correction = Literal["none", "negative-prompt", "direct"]
"""How edits of an inverted clip are kept near it, see :class:`Inversion`."""


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
        offsets: what the correction ``direct`` adds, see :func:`direct_offsets`.
        start_timestep: where sampling starts after a fast inversion (:func:`multistep_invert`), whatever the number of
            its steps; ``None`` after DDIM inversion, when sampling visits the timesteps of its own number of steps.
    """

    latents: np.ndarray = field(repr=False)
    source_latents: np.ndarray = field(repr=False)
    fps: float
    prompt: str
    num_inversion_steps: int
    correction: Correction = "none"
    offsets: np.ndarray | None = field(default=None, repr=False)
    start_timestep: int | None = None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to one ``.safetensors`` file; see :func:`~tav_sdk.diffusion.inversion_file.save_inversion`.

        Raises:
            InputError: another suffix.
            OutputError: the file cannot be written.
        """
        from tav_sdk.diffusion.inversion_file import save_inversion

        values = {one.name: getattr(self, one.name) for one in fields(self)}
        arrays = {name: values.pop(name) for name in ("latents", "source_latents", "offsets")}
        return save_inversion(path, {name: array for name, array in arrays.items() if array is not None}, values)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Inversion:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: there is no such file, or it holds no inversion.
        """
        from tav_sdk.diffusion.inversion_file import load_inversion

        return Inversion(**load_inversion(path))


def ddim_invert(
    unet: UNet,
    latents: np.ndarray,
    encoder_hidden_states: np.ndarray,
    schedule: DDIMSchedule,
    num_inference_steps: int,
    callback: Callback | None = None,
    *,
    done: int = 0,
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
        done: steps of an interrupted call, after which ``latents`` are.

    Returns:
        Latents ``(b, c, f, h, w)`` float32 at the noise level where sampling with as many steps starts.

    Raises:
        InputError: ``num_inference_steps`` is out of range.
        CancelledError: the callback returned ``False``.
    """
    latents = np.asarray(latents, dtype=np.float32)
    timesteps = schedule.inversion_timesteps(num_inference_steps)
    for index, timestep in enumerate(timesteps[done:], start=done):
        noise_pred = unet(latents, np.asarray(timestep), encoder_hidden_states)
        latents = schedule.inverse_step(noise_pred, timestep, latents, num_inference_steps)
        report(callback, StepProgress("inversion", index + 1, len(timesteps), int(timestep), latents))
    return latents


def multistep_invert(
    unet: UNet,
    latents: np.ndarray,
    encoder_hidden_states: np.ndarray,
    schedule: DDIMSchedule,
    num_inference_steps: int,
    usual_steps: int,
    callback: Callback | None = None,
) -> np.ndarray:
    """Invert with fewer evaluations than :func:`ddim_invert`, to nearly the same noise.

    With ``y = latents / sqrt(alpha)`` and ``s = sqrt((1 - alpha) / alpha)`` DDIM is Euler's method for
    ``dy/ds = noise`` (Song et al., 2021, equation 14). This is Adams and Bashforth's method of second order for it,
    which needs one evaluation per step as well. DDIM inversion asks the U-Net for the noise at the timestep that a step
    goes to, not at the one that the latents are at. Because of this lead edits keep the clip's layout, so it stays: the
    U-Net is asked one usual step ahead.

    Args:
        unet: as in :func:`ddim_invert`.
        latents: ``(b, c, f, h, w)`` float32, the VAE's latents times its scaling factor.
        encoder_hidden_states: ``(b, s, d)`` float32.
        schedule: the base model's schedule.
        num_inference_steps: number of U-Net evaluations, in [1, T).
        usual_steps: steps of the DDIM inversion that this one stands for; they decide where it ends, and the lead.
        callback: called after every step with the stage ``inversion``; ``False`` cancels.

    Returns:
        Latents ``(b, c, f, h, w)`` float32 at the first timestep of ``usual_steps`` DDIM steps.

    Raises:
        InputError: a number of steps is out of range, or the last level is nothing but noise.
        CancelledError: the callback returned ``False``.
    """
    usual = schedule.timesteps(usual_steps)
    timesteps = schedule.timesteps_between(int(usual[0]), int(usual[-1]), num_inference_steps + 1)[::-1]
    lead = schedule.num_train_timesteps // usual_steps
    places = [-1, *map(int, timesteps[1:])]  # the clean latents are before the chain
    alphas = [schedule.alpha_cumprod(place) for place in places]
    if alphas[-1] == 0.0:
        raise InputError(
            "a fast inversion cannot go to a level that is nothing but noise, as this base's schedule does with "
            f"timestep_spacing {schedule.timestep_spacing!r}; invert by DDIM"
        )
    levels = [math.sqrt((1 - alpha) / alpha) for alpha in alphas]
    latents = np.asarray(latents, np.float32)
    scaled, former = latents / np.float32(math.sqrt(alphas[0])), None
    for index in range(num_inference_steps):
        asked = min(int(timesteps[index]) + lead, schedule.num_train_timesteps - 1)
        predicted = unet(latents, np.asarray(asked), encoder_hidden_states)
        noise = schedule.noise_ahead(predicted, latents, places[index], asked)
        step, slope = levels[index + 1] - levels[index], noise
        if former is not None:
            slope = noise + np.float32(step / (2 * (levels[index] - levels[index - 1]))) * (noise - former)
        scaled, former = scaled + np.float32(step) * slope, noise
        latents = (scaled * np.float32(math.sqrt(alphas[index + 1]))).astype(np.float32)
        report(callback, StepProgress("inversion", index + 1, num_inference_steps, places[index + 1], latents))
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
    (:func:`~tav_sdk.diffusion.sampling.ddim_sample`) goes back over the inversion's latents to the clip's own, to
    rounding. They do not depend on the prompt of an edit, so that they are computed once for any number of edits. The
    inversion's own predictions do not give them: those are of the latents BEFORE each of its steps.

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
