"""A request resolved against a bundle: the one place where a default becomes a number, and the two are compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tav_sdk.bundle.layout import WINDOWED_UNET
from tav_sdk.bundle.manifest import Manifest
from tav_sdk.diffusion.inversion import Correction, Inversion
from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.errors import BundleError, InputError
from tav_sdk.request.bundle_checks import check_inversion, check_takes_control, check_window
from tav_sdk.request.edit_request import EditRequest, FileFormat, GenerateRequest
from tav_sdk.request.frames import FrameSelection
from tav_sdk.request.options import (
    ControlOptions,
    InvertOptions,
    SampleOptions,
    check_no_negative_prompt,
    check_steps,
)


def fast_steps(num_inference_steps: int) -> tuple[int, int]:
    """Steps of a fast inversion, and of sampling from it, where ``num_inference_steps`` of DDIM each are usual."""
    return max(num_inference_steps // 2, 2), max(num_inference_steps // 3, 1)


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """:class:`SampleOptions` with numbers.

    Attributes:
        negative_prompt: what the video is not to show.
        num_inference_steps: DDIM steps, in [1, T].
        guidance_scale: at most 1 is none.
    """

    negative_prompt: str
    num_inference_steps: int
    guidance_scale: float

    @classmethod
    def of(
        cls,
        options: SampleOptions,
        manifest: Manifest,
        schedule: DDIMSchedule,
        *,
        correction: Correction = "none",
        fast: bool = False,
        num_inversion_steps: int | None = None,
    ) -> SampleSettings:
        """Fill in what was left open.

        Args:
            options: what was asked for.
            manifest: of the bundle.
            schedule: of the bundle.
            correction: of the inversion that is sampled from.
            fast: whether that is a fast one.
            num_inversion_steps: its steps, if they are known.

        Raises:
            InputError: more steps than the schedule has, not as many as the correction ``direct`` needs, or no
                guidance with the correction ``negative-prompt``.
        """
        steps = options.num_inference_steps
        if steps is None and correction == "direct":
            steps = num_inversion_steps
        if steps is None:
            usual = manifest.num_inference_steps
            steps = fast_steps(usual)[1] if fast else usual
        check_steps("sample.num_inference_steps", steps, schedule.num_train_timesteps)
        if correction == "direct" and num_inversion_steps not in (None, steps):
            raise InputError(
                f"must be {num_inversion_steps} with the correction direct, as many steps as of inversion, got {steps}",
                field="sample.num_inference_steps",
            )
        scale = manifest.guidance_scale if options.guidance_scale is None else float(options.guidance_scale)
        if correction == "negative-prompt" and scale <= 1:
            raise InputError(
                f"must be above 1 with the correction negative-prompt, got {scale:g}: that correction acts through "
                "guidance; raise it, or choose another correction",
                field="sample.guidance_scale",
            )
        return cls(negative_prompt=options.negative_prompt, num_inference_steps=steps, guidance_scale=scale)

    @classmethod
    def from_inversion(
        cls, options: SampleOptions, manifest: Manifest, schedule: DDIMSchedule, inversion: Inversion
    ) -> SampleSettings:
        """Fill in what was left open for sampling from an inversion, whose correction counts.

        Raises:
            InputError: as :meth:`of`; or it is no inversion, or there is a negative prompt with the correction
                ``negative-prompt``.
        """
        check_inversion(inversion)
        settings = cls.of(
            options,
            manifest,
            schedule,
            correction=inversion.correction,
            fast=inversion.start_timestep is not None,
            num_inversion_steps=inversion.num_inversion_steps,
        )
        if inversion.correction == "negative-prompt":
            check_no_negative_prompt(options.negative_prompt)
        return settings


@dataclass(frozen=True, kw_only=True)
class InvertSettings:
    """:class:`InvertOptions` with numbers.

    Attributes:
        prompt: what to invert with; may be empty.
        num_inversion_steps: U-Net evaluations, in [1, T].
        correction, fast, posterior_seed: as in the options.
        start_timestep: where a fast inversion ends; ``None`` of one by DDIM.
    """

    prompt: str
    num_inversion_steps: int
    correction: Correction
    fast: bool
    posterior_seed: int | None
    start_timestep: int | None

    @classmethod
    def of(
        cls,
        options: InvertOptions,
        manifest: Manifest,
        schedule: DDIMSchedule,
        *,
        num_inference_steps: int | None = None,
    ) -> InvertSettings:
        """Fill in what was left open.

        Args:
            options: what was asked for.
            manifest: of the bundle.
            schedule: of the bundle.
            num_inference_steps: steps of the sampling to come; ``None``: the base's.

        Raises:
            InputError: more steps than the schedule has, or the correction ``negative-prompt`` has no caption.
        """
        usual, steps = manifest.num_inference_steps, options.num_inversion_steps
        if steps is None:
            steps = fast_steps(usual)[0] if options.fast else num_inference_steps or usual
        check_steps("invert.num_inversion_steps", steps, schedule.num_train_timesteps)
        prompt = options.prompt
        if prompt is None:
            prompt = manifest.prompt if options.correction == "negative-prompt" else manifest.inversion_prompt
        if options.correction == "negative-prompt" and not prompt.strip():
            raise InputError(
                "must say what the clip shows for the correction negative-prompt, since the bundle has no caption",
                field="invert.prompt",
            )
        return cls(
            prompt=prompt,
            num_inversion_steps=steps,
            correction=options.correction,
            fast=options.fast,
            posterior_seed=options.posterior_seed,
            start_timestep=int(schedule.timesteps(usual)[0]) if options.fast else None,
        )


@dataclass(frozen=True, kw_only=True)
class EditSettings:
    """An :class:`EditRequest` with numbers: what ``edits.json`` and a job record, and what results follow from.

    Attributes:
        prompts: what each video shows.
        frames: which frames of the clip; ``num_frames`` is a number or ``"all"``.
        size: ``(height, width)`` in pixels.
        invert, sample: with numbers.
        control, adapter_scale, stream, reconstruct, fps, file_format: as in the request.
    """

    prompts: tuple[str, ...]
    frames: FrameSelection
    size: tuple[int, int]
    invert: InvertSettings
    sample: SampleSettings
    control: ControlOptions | None
    adapter_scale: float
    stream: bool
    reconstruct: bool
    fps: float | None
    file_format: FileFormat

    @classmethod
    def of(cls, request: EditRequest, manifest: Manifest, schedule: DDIMSchedule) -> EditSettings:
        """Fill in what a request leaves open, and judge it against a bundle.

        Raises:
            InputError: a number is out of the bundle's range, or not the bundle's.
            BundleError: the bundle cannot stream, or takes no control.
        """
        check_window(request.window, manifest)
        if request.stream and WINDOWED_UNET not in manifest.graphs:
            raise BundleError(
                "the bundle cannot be streamed: it has no windowed U-Net; edit the clip without streaming, or export "
                "its run again"
            )
        if request.control is not None:
            check_takes_control(manifest)
        sample = SampleSettings.of(
            request.sample,
            manifest,
            schedule,
            correction=request.invert.correction,
            fast=request.invert.fast,
            num_inversion_steps=request.invert.num_inversion_steps,
        )
        invert = InvertSettings.of(request.invert, manifest, schedule, num_inference_steps=sample.num_inference_steps)
        asked, tuned = request.frames, manifest.clip
        return cls(
            prompts=request.prompts,
            frames=FrameSelection(
                num_frames=manifest.num_frames if asked.num_frames is None else asked.num_frames,
                start=tuned.start if asked.start is None else asked.start,
                stride=tuned.stride if asked.stride is None else asked.stride,
            ),
            size=(manifest.height, manifest.width),
            invert=invert,
            sample=sample,
            control=request.control,
            adapter_scale=request.adapter_scale,
            stream=request.stream,
            reconstruct=request.reconstruct,
            fps=request.fps,
            file_format=request.file_format,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, flat, as ``edits.json`` has them; prompts and files left out."""
        return {
            "negative_prompt": self.sample.negative_prompt,
            "num_inference_steps": self.sample.num_inference_steps,
            "num_inversion_steps": self.invert.num_inversion_steps,
            "guidance_scale": self.sample.guidance_scale,
            "fast": self.invert.fast,
            "inversion_prompt": self.invert.prompt,
            "correction": self.invert.correction,
            "adapter_scale": self.adapter_scale,
            "posterior_seed": self.invert.posterior_seed,
            "start": self.frames.start,
            "stride": self.frames.stride,
            "stream": self.stream,
            **({} if self.control is None else _control_facts(self.control)),
        }


@dataclass(frozen=True, kw_only=True)
class GenerateSettings:
    """A :class:`GenerateRequest` with numbers.

    Attributes:
        num_frames: of each video.
        fps: frames per second of the videos.
        prompts, sample, seed, adapter_scale, file_format: as in the request.
    """

    prompts: tuple[str, ...]
    num_frames: int
    sample: SampleSettings
    seed: int
    adapter_scale: float
    fps: float
    file_format: FileFormat

    @classmethod
    def of(cls, request: GenerateRequest, manifest: Manifest, schedule: DDIMSchedule) -> GenerateSettings:
        """Fill in what a request leaves open, and judge it against a bundle.

        Raises:
            InputError: a number is out of the bundle's range, or not the bundle's.
        """
        check_window(request.window, manifest)
        return cls(
            prompts=request.prompts,
            num_frames=manifest.num_frames if request.num_frames is None else request.num_frames,
            sample=SampleSettings.of(request.sample, manifest, schedule),
            seed=request.seed,
            adapter_scale=request.adapter_scale,
            fps=manifest.clip.fps if request.fps is None else request.fps,
            file_format=request.file_format,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, flat, as ``edits.json`` has them; prompts and files left out."""
        return {
            "negative_prompt": self.sample.negative_prompt,
            "num_inference_steps": self.sample.num_inference_steps,
            "guidance_scale": self.sample.guidance_scale,
            "adapter_scale": self.adapter_scale,
            "seed": self.seed,
            "num_frames": self.num_frames,
        }


def _control_facts(control: ControlOptions) -> dict[str, Any]:
    return {
        "control": Path(control.video).name,
        "controlnet": Path(control.controlnet).name,
        "control_scale": float(control.scale),
        "control_inversion": control.inversion,
    }
