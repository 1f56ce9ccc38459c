"""A video job's parameters as a request of the SDK, and the other way round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tav_sdk.bundle.manifest import Manifest
from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.request import EditRequest, FrameSelection, GenerateRequest, InvertOptions, SampleOptions
from tav_sdk.request.settings import EditSettings, GenerateSettings

PARAMS = {
    "prompts": "prompt",
    "sample.negative_prompt": "negative_prompt",
    "sample.num_inference_steps": "num_inference_steps",
    "sample.guidance_scale": "guidance_scale",
    "invert.prompt": "extra_params.inversion_prompt",
    "invert.num_inversion_steps": "extra_params.num_inversion_steps",
    "invert.correction": "extra_params.correction",
    "invert.fast": "extra_params.fast",
    "invert.posterior_seed": "seed",
    "frames.num_frames": "num_frames",
    "frames.start": "extra_params.start",
    "frames.stride": "extra_params.stride",
    "adapter_scale": "extra_params.adapter_scale",
}
"""The API's name of a request's field; the others have the same."""


def request_of(params: Mapping[str, Any]) -> EditRequest | GenerateRequest:
    """The request that a job's parameters stand for.

    Args:
        params: ``prompt``, ``mode`` (``edit`` or ``generate``), and what else was given, see the contract; what is
            missing or ``None`` is left to the model.

    Raises:
        InputError: a value is out of range, or two do not go together.
    """
    more = params.get("extra_params") or {}
    sample = SampleOptions(
        negative_prompt=params.get("negative_prompt") or "",
        num_inference_steps=params.get("num_inference_steps"),
        guidance_scale=params.get("guidance_scale"),
    )
    scale = 1.0 if more.get("adapter_scale") is None else more["adapter_scale"]
    if params["mode"] == "generate":
        return GenerateRequest(
            prompts=(params["prompt"],),
            num_frames=params.get("num_frames"),
            sample=sample,
            seed=params.get("seed") or 0,
            adapter_scale=scale,
            fps=params.get("fps"),
        )
    return EditRequest(
        prompts=(params["prompt"],),
        frames=FrameSelection(num_frames=params.get("num_frames"), start=more.get("start"), stride=more.get("stride")),
        invert=InvertOptions(
            prompt=more.get("inversion_prompt"),
            num_inversion_steps=more.get("num_inversion_steps"),
            correction=more.get("correction") or "none",
            fast=bool(more.get("fast")),
            posterior_seed=params.get("seed"),
        ),
        sample=sample,
        adapter_scale=scale,
        fps=params.get("fps"),
    )


def resolved(params: Mapping[str, Any], manifest: Manifest, schedule: DDIMSchedule) -> dict[str, Any]:
    """The same parameters with every default filled in, as the model has them.

    Raises:
        InputError: a value is out of the model's range.
        BundleError: the model cannot do it.
    """
    request = request_of(params)
    common = {**params, "width": manifest.width, "height": manifest.height}
    if isinstance(request, GenerateRequest):
        made = GenerateSettings.of(request, manifest, schedule)
        return {
            **common,
            "num_frames": made.num_frames,
            "fps": made.fps,
            "seed": made.seed,
            "negative_prompt": made.sample.negative_prompt,
            "num_inference_steps": made.sample.num_inference_steps,
            "guidance_scale": made.sample.guidance_scale,
            "extra_params": {"adapter_scale": made.adapter_scale, "preview": _preview(params)},
        }
    edit = EditSettings.of(request, manifest, schedule)
    return {
        **common,
        "num_frames": edit.frames.num_frames,
        "negative_prompt": edit.sample.negative_prompt,
        "num_inference_steps": edit.sample.num_inference_steps,
        "guidance_scale": edit.sample.guidance_scale,
        "extra_params": {
            "num_inversion_steps": edit.invert.num_inversion_steps,
            "inversion_prompt": edit.invert.prompt,
            "correction": edit.invert.correction,
            "fast": edit.invert.fast,
            "adapter_scale": edit.adapter_scale,
            "start": edit.frames.start,
            "stride": edit.frames.stride,
            "preview": _preview(params),
        },
    }


def _preview(params: Mapping[str, Any]) -> bool:
    return bool((params.get("extra_params") or {}).get("preview"))
