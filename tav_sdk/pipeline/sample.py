"""DDIM sampling on a tuned model, over a whole video or window by window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tav_sdk.diffusion.inversion import ddim_invert
from tav_sdk.diffusion.sampling import ddim_sample
from tav_sdk.errors import BundleError
from tav_sdk.pipeline.controlnet import Control
from tav_sdk.pipeline.facts import sampling_facts
from tav_sdk.pipeline.model import TunedModel
from tav_sdk.pipeline.resume import resumed
from tav_sdk.pipeline.windows import LoopReport, stream_windows
from tav_sdk.progress import Callback, Item, StepProgress, UNet
from tav_sdk.request.bundle_checks import check_clip
from tav_sdk.request.settings import InvertSettings, SampleSettings
from tav_sdk.video.clip import Clip

if TYPE_CHECKING:
    from numpy.typing import NDArray


def sample(
    model: TunedModel,
    prompt: str,
    settings: SampleSettings,
    latents: np.ndarray,
    *,
    offsets: np.ndarray | None = None,
    start_timestep: int | None = None,
    control: Control | None = None,
    callback: Callback | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Check what can be checked now; sample and decode when the first frames are asked for.

    Args:
        model: what samples.
        prompt: what the video is to show.
        settings: how.
        latents: ``(1, c, f, h, w)`` float32, where sampling starts.
        offsets: of the correction ``direct``.
        start_timestep: where a fast inversion ended.
        control: what steers the U-Net.
        callback: called after each step; ``False`` cancels.

    Returns:
        The frames in parts ``(f, h, w, 3)`` uint8 RGB.
    """
    num_frames = latents.shape[2]
    model.unet.over(num_frames, control)

    def frames() -> Iterator[NDArray[np.uint8]]:
        steps, scale = settings.num_inference_steps, settings.guidance_scale
        states = model.encode_prompt(prompt)
        negative = model.encode_prompt(settings.negative_prompt) if scale > 1 else None
        facts = None
        if model.resumes(num_frames):  # latents are hashed for it
            facts = sampling_facts(
                model.engines,
                model.schedule,
                settings,
                unet=model.unet.graph_name(num_frames),
                prompt=prompt,
                latents=latents,
                states=states,
                negative=negative,
                offsets=offsets,
                start_timestep=start_timestep,
            )
        with resumed(facts, latents, callback, "sampling", steps) as (done, start, keep):
            clean = ddim_sample(
                model.unet.over(num_frames, control, LoopReport(callback, "sampling", steps, done)),
                start,
                states,
                negative,
                model.schedule,
                steps,
                scale,
                keep,
                offsets=offsets,
                start_timestep=start_timestep,
                done=done,
            )
        yield from model.vae.decode(clean, callback=callback)

    return frames()


def stream(
    model: TunedModel,
    prompt: str,
    clip: Clip,
    invert: InvertSettings,
    sample: SampleSettings,
    *,
    max_bytes: int,
    callback: Callback | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Invert and edit a clip window by window; see :meth:`tav_sdk.Pipeline.stream`.

    Raises:
        BundleError: the bundle's frames depend on later ones, or it was exported without windows.
        InputError: the clip's size is not the bundle's.
    """
    if not model.unet.exact_long_video:
        raise BundleError(
            f"the bundle {model.bundle.folder} cannot be streamed: {model.unet.long_video_note}; edit the clip "
            "without streaming"
        )
    check_clip(clip, model.manifest, exact_long_video=True)
    states = [model.encode_prompt(words) for words in (invert.prompt, prompt, sample.negative_prompt)]
    graph, schedule = model.unet.window_graph(), model.schedule
    window, num_windows = 0, -(-clip.num_frames // graph.num_frames)

    def seen(step: StepProgress) -> bool | None:
        item = Item(kind="window", index=window, count=num_windows)
        return None if callback is None else callback(replace(step, item=item))

    def inverted(unet: UNet, source: np.ndarray) -> np.ndarray:
        nonlocal window
        window += 1
        return ddim_invert(unet, source, states[0], schedule, invert.num_inversion_steps, seen)

    def sampled(unet: UNet, latents: np.ndarray) -> np.ndarray:
        steps, scale = sample.num_inference_steps, sample.guidance_scale
        return ddim_sample(unet, latents, states[1], states[2], schedule, steps, scale, seen)

    sources = model.vae.latents(clip, graph.num_frames, invert.posterior_seed)
    windows = stream_windows(graph, sources, inverted, sampled, max_bytes=max_bytes)
    return (frames for clean in windows for frames in model.vae.decode(clean))
