"""DDIM inversion of a clip on a tuned model (paper, section 4.3)."""

from __future__ import annotations

import numpy as np

from tav_sdk.diffusion.inversion import Inversion, ddim_invert, direct_offsets, multistep_invert
from tav_sdk.pipeline.controlnet import Control
from tav_sdk.pipeline.facts import inversion_facts
from tav_sdk.pipeline.inversion_cache import InversionFacts
from tav_sdk.pipeline.model import TunedModel
from tav_sdk.pipeline.resume import resumed
from tav_sdk.pipeline.windows import LoopReport
from tav_sdk.progress import Callback, Stage, StepProgress, UNet, report
from tav_sdk.request.bundle_checks import check_clip
from tav_sdk.request.settings import InvertSettings
from tav_sdk.video.clip import Clip


def invert(
    model: TunedModel,
    clip: Clip,
    settings: InvertSettings,
    *,
    source_latents: np.ndarray | None = None,
    control: Control | None = None,
    callback: Callback | None = None,
) -> Inversion:
    """The inversion of a clip, from the cache if it was made before; see :meth:`tav_sdk.Pipeline.invert`.

    Args:
        model: what inverts.
        clip: of the model's size.
        settings: how.
        source_latents: the clip's latents ``(1, c, f, h / s, w / s)`` float32 if they are known; spares encoding it.
        control: what steers the U-Net.
        callback: called after each step; ``False`` cancels.
    """
    check_clip(clip, model.manifest, exact_long_video=model.unet.exact_long_video)
    model.unet.over(clip.num_frames, control)  # its errors before the clip is hashed and encoded
    kept, facts = model.inversions, None
    if kept is not None:  # the clip is hashed for it
        unet = model.unet.graph_name(clip.num_frames)
        facts = inversion_facts(model.engines, model.schedule, clip, settings, unet=unet, control=control)
    steps = settings.num_inversion_steps
    if kept and facts and (found := kept.find(facts, fps=clip.fps)):
        report(callback, StepProgress("inversion", steps, steps, resumed="cache"))
        return found
    source = source_latents
    if source is None:
        source = model.vae.encode(clip, posterior_seed=settings.posterior_seed, callback=callback)
    states = model.encode_prompt(settings.prompt)
    latents, offsets = _latents(model, source, states, settings, facts, control, callback)
    inversion = Inversion(
        latents=latents,
        source_latents=source,
        fps=clip.fps,
        prompt=settings.prompt,
        num_inversion_steps=steps,
        correction=settings.correction,
        offsets=offsets,
        start_timestep=settings.start_timestep,
    )
    if kept and facts:
        kept.keep(facts, inversion)
    return inversion


def _latents(
    model: TunedModel,
    source: np.ndarray,
    states: np.ndarray,
    settings: InvertSettings,
    facts: InversionFacts | None,
    control: Control | None,
    callback: Callback | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Inverted latents ``(1, c, f, h, w)``, and the offsets of the correction ``direct``."""
    steps, schedule, num_frames = settings.num_inversion_steps, model.schedule, source.shape[2]

    def unet(stage: Stage, done: int = 0) -> UNet:
        return model.unet.over(num_frames, control, LoopReport(callback, stage, steps, done))

    if settings.fast:
        usual = model.manifest.num_inference_steps
        return multistep_invert(unet("inversion"), source, states, schedule, steps, usual, callback), None
    if settings.correction == "direct":
        trajectory = [source]

        def record(step: StepProgress) -> bool | None:
            if step.part is None:
                trajectory.append(np.asarray(step.latents))
            return None if callback is None else callback(step)

        latents = ddim_invert(unet("inversion"), source, states, schedule, steps, record)
        path = np.stack(trajectory)  # (n + 1, 1, c, f, h, w)
        return latents, direct_offsets(unet("correction"), path, states, schedule, callback)
    given = None
    if facts is not None and model.resumes(num_frames):
        given = {"stage": "inversion", **facts.to_dict()}
    with resumed(given, source, callback, "inversion", steps) as (done, start, keep):
        return ddim_invert(unet("inversion", done), start, states, schedule, steps, keep, done=done), None
