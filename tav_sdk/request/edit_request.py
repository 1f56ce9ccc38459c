"""One request for every caller: the command line, Python, the demo and a server."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as default
from typing import Literal, get_args

from tav_sdk.bundle.tuned_weights import check_adapter_scale
from tav_sdk.errors import InputError
from tav_sdk.request.frames import FrameSelection, check_whole
from tav_sdk.request.kinds import check_kind, check_switch
from tav_sdk.request.options import (
    MAX_SEED,
    ControlOptions,
    InvertOptions,
    SampleOptions,
    check_no_negative_prompt,
    check_prompts,
)
from tav_sdk.video.writer import check_fps
from tav_sdk.words import brief

FileFormat = Literal["mp4", "gif", "webp"]
FORMATS: tuple[str, ...] = get_args(FileFormat)


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """An edit of one clip with one prompt or several, which share its inversion.

    Attributes:
        prompts: what each new video shows; one text is taken as a list of one.
        frames: which frames of the clip.
        invert: how it is inverted.
        sample: how each video is sampled.
        control: what steers the edit beside its prompt.
        adapter_scale: how much of the tuning is used, 0 (the base) to 2; 1 as it was tuned.
        window: the frames of a window that are expected; ``None``: whatever the bundle has.
        stream: finish each window before the next begins, so that the first frames come first.
        reconstruct: also sample with the clip's own caption, without guidance.
        fps: frames per second of the videos, 0.01 to 1000; ``None``: the clip's.
        file_format: ``mp4``, ``gif`` or ``webp``.

    Raises:
        InputError: a value is out of range, or two do not go together; ``field`` names it.
        PromptError: there is no prompt, or one is empty.
    """

    prompts: tuple[str, ...]
    frames: FrameSelection = default(default_factory=FrameSelection)
    invert: InvertOptions = default(default_factory=InvertOptions)
    sample: SampleOptions = default(default_factory=SampleOptions)
    control: ControlOptions | None = None
    adapter_scale: float = 1.0
    window: int | None = None
    stream: bool = False
    reconstruct: bool = False
    fps: float | None = None
    file_format: FileFormat = "mp4"

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", check_prompts(self.prompts))
        for name, kind in (("frames", FrameSelection), ("invert", InvertOptions), ("sample", SampleOptions)):
            check_kind(name, getattr(self, name), kind)
        if self.control is not None:
            check_kind("control", self.control, ControlOptions)
        check_switch("stream", self.stream)
        check_switch("reconstruct", self.reconstruct)
        check_output(self.fps, self.file_format)
        check_adapter_scale(self.adapter_scale)
        if self.window is not None:
            check_whole("window", self.window, 1)
        if self.invert.correction == "negative-prompt":
            check_no_negative_prompt(self.sample.negative_prompt)
        if self.control is not None and self.frames.num_frames is not None:
            raise InputError(
                f"must be left out with a control, got {self.frames.num_frames}: control steers videos of as many "
                "frames as the bundle sees at a time",
                field="frames.num_frames",
            )
        if self.stream:
            self._check_stream()

    def _check_stream(self) -> None:
        """What does not go with windows that are finished one after the other."""
        if len(self.prompts) > 1:
            raise InputError(
                f"must be one with streaming, got {len(self.prompts)}; make one request for each", field="prompts"
            )
        if self.file_format != "mp4":
            raise InputError(
                f"must be mp4 with streaming, got {self.file_format}: only mp4 is written as its frames come",
                field="file_format",
            )
        given = {
            "a correction": self.invert.correction != "none",
            "a fast inversion": self.invert.fast,
            "a reconstruction": self.reconstruct,
            "a control": self.control is not None,
        }
        if names := [name for name, is_given in given.items() if is_given]:
            raise InputError(f"does not go with {', '.join(names)}; leave one of them out", field="stream")


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """Videos from noise: the tuned clip's motion, but not its layout.

    Attributes:
        prompts: what each video shows; one text is taken as a list of one.
        num_frames: of each video; ``None``: as many as the bundle sees at a time.
        sample: how each video is sampled.
        seed: of the noise, 0 to 2^63 - 1: the same seed gives the same video.
        adapter_scale, window, fps, file_format: as in :class:`EditRequest`.

    Raises:
        InputError: a value is out of range; ``field`` names it.
        PromptError: there is no prompt, or one is empty.
    """

    prompts: tuple[str, ...]
    num_frames: int | None = None
    sample: SampleOptions = default(default_factory=SampleOptions)
    seed: int = 0
    adapter_scale: float = 1.0
    window: int | None = None
    fps: float | None = None
    file_format: FileFormat = "mp4"

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", check_prompts(self.prompts))
        if self.num_frames is not None:
            check_whole("num_frames", self.num_frames, 1)
        check_kind("sample", self.sample, SampleOptions)
        check_whole("seed", self.seed, 0, MAX_SEED)
        check_output(self.fps, self.file_format)
        check_adapter_scale(self.adapter_scale)
        if self.window is not None:
            check_whole("window", self.window, 1)


def check_output(fps: float | None, file_format: str) -> None:
    """Check how videos are written.

    Raises:
        InputError: the frame rate is out of range, or the format unknown.
    """
    if fps is not None:
        check_fps(fps)
    if not isinstance(file_format, str) or file_format not in FORMATS:
        raise InputError(f"must be mp4, gif or webp, got {brief(file_format)}", field="file_format")
