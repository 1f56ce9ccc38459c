"""Edits by the snapshots of a run, side by side, so that over-tuning is seen. In PyTorch: nothing is exported."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tav_sdk.bundle.tuned_weights import check_adapter_scale, scale_tensors
from tav_sdk.diffusion.inversion import ddim_invert
from tav_sdk.diffusion.sampling import ddim_sample
from tav_sdk.engines.base import TensorSpec
from tav_sdk.errors import InputError, PromptError, VideoError
from tav_sdk.progress import Callback, UNet
from tav_sdk.training.base.model import PretrainedBase
from tav_sdk.training.checkpoint import load_tuned_weights, untuned_weights
from tav_sdk.training.encode import encode_clip, encode_prompts
from tav_sdk.training.run_base import base_of_run
from tav_sdk.training.run_folder import Run
from tav_sdk.training.torch_engine import TorchEngine
from tav_sdk.training.unet.inflation import inflate, trainable_parameters
from tav_sdk.video.clip import Video, read_video
from tav_sdk.video.frames import VAE_CHUNK, to_frames


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
        callback: called after each step of inversion and sampling; ``False`` cancels.

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
    vae = base.load_vae().requires_grad_(False)
    source = encode_clip(vae, clip, base.scaling_factor).mean.numpy()  # (1, c, f, h, w)
    caption = config.prompt if base.recommended.invert_with == "caption" else ""
    texts = encode_prompts(base.load_text_encoder(), base.load_tokenizer(), [caption, "", *prompts])
    inverted_with, empty, *states = texts.numpy()[:, None]  # (1, s, d) each
    model = inflate(base.load_unet(), config.inflation, config.num_frames).eval()
    untuned = {name: tensor.numpy() for name, tensor in untuned_weights(model).items()}
    unet = _unet(model.to(device), source.shape, texts.shape)
    videos: dict[tuple[int, int], Video] = {}
    for one in runs:
        step = one.config.num_train_steps
        load_tuned_weights(model, one.tuned_path)
        if scale != 1:
            _scale(model, untuned, scale)
        noise = ddim_invert(unet, source, inverted_with, base.schedule, n, _of(callback, f"at {step}"))
        for index, prompt_states in enumerate(states):
            which = _of(callback, f"at {step}, {index + 1}/{len(states)}")
            latents = ddim_sample(unet, noise, prompt_states, empty, base.schedule, n, guidance, which)
            frames = _decoded(vae, latents / np.float32(base.scaling_factor))
            videos[index, step] = Video(frames=frames, fps=clip.fps)
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
        raise (error if video else VideoError(f"{error}; give the run's clip with --video")) from error
    if video is None and clip.content_hash != run.record["clip"].get("sha256"):
        raise VideoError(f"{config.video} is another clip than the run was tuned on; give that one with --video")
    return clip


def _unet(model: nn.Module, latents: tuple[int, ...], states: tuple[int, ...]) -> UNet:
    """The model as the SDK's loops call it, with an engine's checks."""
    sample = TensorSpec("sample", "float32", ("batch", *latents[1:]))
    inputs = (
        sample,
        TensorSpec("timestep", "int64", ()),
        TensorSpec("encoder_hidden_states", "float32", ("batch", *states[1:])),
    )
    engine = TorchEngine(model, "unet", inputs, [dataclasses.replace(sample, name="out_sample")])

    def unet(sample: np.ndarray, timestep: np.ndarray, encoder_hidden_states: np.ndarray) -> np.ndarray:
        feeds = {"sample": sample, "timestep": timestep, "encoder_hidden_states": encoder_hidden_states}
        return engine.run(feeds)["out_sample"]

    return unet


def _scale(model: nn.Module, untuned: dict[str, np.ndarray], scale: float) -> None:
    """Scale the tuning that was loaded into a model."""
    tuned = trainable_parameters(model)
    arrays = {name: parameter.detach().cpu().numpy() for name, parameter in tuned.items()}
    for name, array in scale_tensors(arrays, untuned, scale).items():
        tuned[name].data.copy_(torch.from_numpy(array))


@torch.inference_mode()
def _decoded(vae: Any, latents: np.ndarray) -> np.ndarray:
    """Latents ``(1, c, f, h, w)`` to frames ``(f, h, w, 3)`` uint8."""
    folded = torch.from_numpy(np.ascontiguousarray(latents[0].swapaxes(0, 1)))  # (f, c, h, w)
    return np.concatenate([to_frames(vae.decode(part).sample.numpy()) for part in folded.split(VAE_CHUNK)])


def _of(callback: Callback | None, which: str) -> Callback | None:
    """A callback that says which of several videos a step is of."""
    if callback is None:
        return None
    return lambda step: callback(dataclasses.replace(step, stage=f"{step.stage} {which}"))
