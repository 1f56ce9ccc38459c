"""What one edit is asked to do, part by part, checked as far as that needs no bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from tav_sdk.diffusion.inversion import Correction
from tav_sdk.errors import InputError, PromptError
from tav_sdk.paths import given_path
from tav_sdk.pocket import find_controlnet
from tav_sdk.request.frames import check_whole
from tav_sdk.request.kinds import check_switch, check_text, is_number
from tav_sdk.words import brief

CORRECTIONS: tuple[str, ...] = get_args(Correction)
MAX_STEPS = 1000
"""Most DDIM steps that can be asked for: T of every Stable Diffusion base. A bundle's own T may be less."""
MAX_SEED = 2**63 - 1
MAX_GUIDANCE_SCALE = 1e6
MAX_CONTROL_SCALE = 10.0


@dataclass(frozen=True, kw_only=True)
class InvertOptions:
    """How a clip is inverted (paper, section 4.3).

    Attributes:
        prompt: what to invert with; ``None``: what the base does best with, or the tuned clip's caption with the
            correction ``negative-prompt``.
        num_inversion_steps: U-Net evaluations, 1 to :data:`MAX_STEPS`; ``None``: as many as sampling takes, if ``fast``
            half of the base's.
        correction: ``none``, ``negative-prompt`` or ``direct``.
        fast: an inversion of second order with fewer evaluations; not with the correction ``direct``.
        posterior_seed: draw the clip's latents from the VAE's posterior with this seed; ``None``: its mean.

    Raises:
        InputError: a value is out of range, or two do not go together.
    """

    prompt: str | None = None
    num_inversion_steps: int | None = None
    correction: Correction = "none"
    fast: bool = False
    posterior_seed: int | None = None

    def __post_init__(self) -> None:
        if self.prompt is not None:
            check_text("invert.prompt", self.prompt)
        check_switch("invert.fast", self.fast)
        check_steps("invert.num_inversion_steps", self.num_inversion_steps)
        if self.correction not in CORRECTIONS:
            raise InputError(f"must be {_either(CORRECTIONS)}, got {brief(self.correction)}", field="invert.correction")
        if self.fast and self.correction == "direct":
            raise InputError(
                "cannot be direct with a fast inversion: direct needs the steps of DDIM, and a fast inversion takes "
                "others; leave fast out, or choose none or negative-prompt",
                field="invert.correction",
            )
        if self.correction == "negative-prompt" and self.prompt is not None and not self.prompt.strip():
            raise InputError(
                f"must say what the clip shows for the correction negative-prompt, got {brief(self.prompt)}; leave it "
                "out to invert with the tuned clip's caption",
                field="invert.prompt",
            )
        check_seed("invert.posterior_seed", self.posterior_seed)


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """How a video is sampled.

    Attributes:
        negative_prompt: what the video is not to show.
        num_inference_steps: DDIM steps, 1 to :data:`MAX_STEPS`; ``None``: the base's, after a fast inversion a third of
            them, with the correction ``direct`` as many as the inversion took.
        guidance_scale: classifier-free guidance, of at most :data:`MAX_GUIDANCE_SCALE`; at most 1 switches it off;
            ``None``: the base's.

    Raises:
        InputError: a value is out of range.
    """

    negative_prompt: str = ""
    num_inference_steps: int | None = None
    guidance_scale: float | None = None

    def __post_init__(self) -> None:
        check_text("sample.negative_prompt", self.negative_prompt)
        check_steps("sample.num_inference_steps", self.num_inference_steps)
        scale = self.guidance_scale
        if scale is not None and not is_number(scale):
            raise InputError(f"must be a finite number, got {brief(scale)}", field="sample.guidance_scale")
        if scale is not None and abs(scale) > MAX_GUIDANCE_SCALE:
            raise InputError(
                f"must be from -{MAX_GUIDANCE_SCALE:g} to {MAX_GUIDANCE_SCALE:g}, got {brief(scale)}",
                field="sample.guidance_scale",
            )


@dataclass(frozen=True, kw_only=True)
class ControlOptions:
    """A control video, and the ControlNet that follows it.

    Attributes:
        video: a file, or the name of a detector that computes it from the clip: ``canny`` or ``soft-edges``.
        controlnet: a folder that ``tav export-controlnet`` wrote, or ``pocket``, the one in the package.
        scale: how much the control counts, 0 to 10; 1 as it was trained.
        inversion: whether it steers the inversion as well.

    Raises:
        InputError: one of the two is missing, there is no such file or folder, or the scale is out of range.
    """

    video: str | Path
    controlnet: str | Path
    scale: float = 1.0
    inversion: bool = False

    def __post_init__(self) -> None:
        from tav_sdk.video.edges import DETECTORS

        if str(self.video) not in DETECTORS and not given_path("control.video", self.video).is_file():
            raise InputError(
                f"must be a file, or one of {', '.join(DETECTORS)}; there is no file {self.video}",
                field="control.video",
            )
        if not find_controlnet(given_path("control.controlnet", self.controlnet)).is_dir():
            raise InputError(
                f"must be pocket or a folder that tav export-controlnet wrote; {self.controlnet} is no folder "
                "(ids on the hub are not fetched)",
                field="control.controlnet",
            )
        check_control_scale(self.scale)
        check_switch("control.inversion", self.inversion)


def check_steps(field: str, steps: Any, most: int = MAX_STEPS) -> None:
    """Check a number of DDIM steps; ``None`` is one that is not chosen yet.

    Raises:
        InputError: it is no whole number from 1 to ``most``.
    """
    if steps is not None:
        check_whole(field, steps, 1, most)


def check_seed(field: str, seed: Any) -> None:
    """Check a seed; ``None`` is none.

    Raises:
        InputError: it is no whole number from 0 to 2^63 - 1.
    """
    if seed is not None:
        check_whole(field, seed, 0, MAX_SEED)


def check_prompts(prompts: Any, field: str = "prompts") -> tuple[str, ...]:
    """One prompt or several, as a tuple.

    Raises:
        PromptError: there is none, or one is empty or no text in UTF-8.
    """
    given = (prompts,) if isinstance(prompts, str) else prompts
    if not isinstance(given, Sequence) or not given:
        raise PromptError(f"must be a text or a list of texts, got {brief(prompts)}", field=field)
    for text in given:
        check_text(field, text)
        if not text.strip():
            raise PromptError("must not be empty; say what the new video shows", field=field)
    return tuple(given)


def check_no_negative_prompt(negative_prompt: str) -> None:
    """Check that the negative prompt is free for the correction ``negative-prompt``.

    Raises:
        InputError: it is not.
    """
    if negative_prompt:
        raise InputError(
            f"must be empty with the correction negative-prompt, got {brief(negative_prompt)}: the inversion's prompt "
            "is in its place; leave one of them out",
            field="sample.negative_prompt",
        )


def check_control_scale(scale: Any) -> float:
    """How much a control counts.

    Raises:
        InputError: it is no number from 0 to 10.
    """
    if not (is_number(scale) and 0 <= scale <= MAX_CONTROL_SCALE):
        raise InputError(f"must be from 0 to {MAX_CONTROL_SCALE:g}, got {brief(scale)}", field="control.scale")
    return float(scale)


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
