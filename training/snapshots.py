"""Edits by the snapshots of a run, side by side, so that over-tuning is seen. In PyTorch: nothing is exported."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tav_sdk.bundle.tuned_weights import check_adapter_scale, scale_tensors
from tav_sdk.errors import InputError, PromptError, VideoError
from tav_sdk.progress import Callback, Item, labelled
from tav_sdk.request.options import InvertOptions
from tav_sdk.request.settings import InvertSettings
from tav_sdk.training.base.model import PretrainedBase
from tav_sdk.training.checkpoint import load_tuned_weights, untuned_weights
from tav_sdk.training.run_base import base_of_run
from tav_sdk.training.run_folder import Run
from tav_sdk.training.torch_pipeline import torch_pipeline
from tav_sdk.training.unet.inflation import inflate, trainable_parameters
from tav_sdk.video.clip import Video, read_video


def compare_snapshots(
    run: Run,
    prompts: Sequence[str],
    *,
    steps: Sequence[int] | None = None,
    video: str | Path | None = None,
    base: PretrainedBase | None = None,
    adapter_scale: float = 1.0,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    device: str | torch.device = "cpu",
    callback: Callback | None = None,
) -> dict[str, Video]:
    """Invert the clip and edit it with the tuned weights of each step.

    Args:
        run: a finished run.
        prompts: what the edits show.
        steps: of tuning, by default all in :attr:`~tav_sdk.training.run_folder.Run.steps`.
        video: the clip, by default the one that was tuned on; it is read as for tuning.
        base: the run's base, by default as recorded.
        adapter_scale: how much of the tuning is used, see :mod:`tav_sdk.bundle.tuned_weights`.
        num_inference_steps: DDIM steps of inversion and sampling; by default what the base does best with, as for the
            guidance scale and the prompt of the inversion.
        guidance_scale: at most 1 is none.
        device: where the U-Net runs.
        callback: called after each step of encoding, inversion, sampling and decoding; ``False`` cancels.

    Returns:
        By label, the clip first, then a video for each prompt and step, those of a prompt one after the other.

    Raises:
        CheckpointError: there is no snapshot of a step, or it is damaged.
        PromptError: there is no prompt.
        InputError: the adapter's or the guidance's scale, or the number of DDIM steps, is out of range.
        BaseModelError: the base is missing, or not the run's.
        VideoError: the clip cannot be read.
        CancelledError: the callback returned ``False``.
    """
    if not prompts:
        raise PromptError("the list of prompts is empty; give at least one")
    scale, config = check_adapter_scale(adapter_scale), run.config
    runs = [run.at(step) for step in sorted(set(run.steps if steps is None else steps))]
    clip = _clip(run, video)
    base = base or base_of_run(run)
    n = base.recommended.num_inference_steps if num_inference_steps is None else num_inference_steps
    guidance = base.recommended.guidance_scale if guidance_scale is None else guidance_scale
    base.schedule.timesteps(n)  # before the work: is there such a number of steps?
    if not math.isfinite(guidance):
        raise InputError(f"guidance_scale must be a finite number, got {guidance}")
    model = inflate(base.load_unet(), config.inflation, config.num_frames).eval()
    untuned = {name: tensor.numpy() for name, tensor in untuned_weights(model).items()}
    size = {"height": config.height, "width": config.width}
    videos: dict[tuple[int, int], Video] = {}
    with torch_pipeline(base, model.to(device), prompt=config.prompt, fps=clip.fps, **size) as pipeline:
        inverted_as = InvertSettings.of(InvertOptions(num_inversion_steps=n), pipeline.manifest, pipeline.schedule)
        source = pipeline.encode(clip, callback=callback)  # tuning leaves the VAE alone
        for number, one in enumerate(runs):
            step = one.config.num_train_steps
            told = labelled(callback, Item(kind="snapshot", index=number + 1, count=len(runs), name=f"step {step}"))
            load_tuned_weights(model, one.tuned_path)
            if scale != 1:
                _scale(model, untuned, scale)
            inversion = pipeline.invert_with(clip, inverted_as, source_latents=source, callback=told)
            for index, words in enumerate(prompts):
                videos[index, step] = pipeline.edit(
                    words, inversion, num_inference_steps=n, guidance_scale=guidance, callback=told
                )
    rows, scaled = {f"source: {config.prompt}": clip}, "" if scale == 1 else f", scale {scale:g}"
    return rows | {f"step {step}{scaled}: {prompts[index]}": videos[index, step] for index, step in sorted(videos)}


def _clip(run: Run, video: str | Path | None) -> Video:
    """A clip, read as for tuning; the one that was tuned on has to be the same still."""
    config = run.config
    try:
        clip = read_video(
            video or config.video,
            num_frames=config.num_frames,
            start=config.start,
            stride=config.stride,
            size=(config.height, config.width),
        )
    except VideoError as error:
        raise (error if video else VideoError(f"{error}; give the run's clip as video")) from error
    recorded = run.record["clip"].get("sha256")
    if video is None and recorded != clip.content_hash and recorded != _former_hash(clip):
        raise VideoError(f"{config.video} is not the clip that the run was tuned on; give that one as video")
    return clip


def _scale(model: nn.Module, untuned: dict[str, np.ndarray], scale: float) -> None:
    """Scale the tuning that was loaded into a model."""
    tuned = trainable_parameters(model)
    arrays = {name: parameter.detach().cpu().numpy() for name, parameter in tuned.items()}
    for name, array in scale_tensors(arrays, untuned, scale).items():
        tuned[name].data.copy_(torch.from_numpy(array))


def _former_hash(clip: Video) -> str:
    """A clip's hash as runs of format 1 recorded it: the shape before the frames."""
    shape = repr(tuple(clip.frames.shape)).encode()
    return hashlib.sha256(shape + np.ascontiguousarray(clip.frames).tobytes()).hexdigest()
