"""One-shot editing of Pocket's sample clips: what is asked for, and how it is made."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from tav_sdk.bundle.manifest import InvertWith
from tav_sdk.diffusion.inversion import Inversion
from tav_sdk.pipeline.pipeline import Pipeline
from tav_sdk.pocket import SampleClip
from tav_sdk.training import InflationOptions, PretrainedBase, TuneConfig, VideoUNet, inflate, tune
from tav_sdk.training.encode import prepare
from tav_sdk.training.pocket.backgrounds import BACKGROUND_NAMES
from tav_sdk.training.pocket.captions import caption
from tav_sdk.training.pocket.clips import SAMPLE_CLIPS
from tav_sdk.training.pocket.subjects import COLORS, SUBJECTS
from tav_sdk.training.torch_pipeline import torch_pipeline
from tav_sdk.training.tune_step import Tuner
from tav_sdk.video.clip import read_video

KINDS = ("subject", "background", "color", "style")
NUM_FRAMES, SIZE = 8, 64
CPU = torch.device("cpu")
INVERT_WITH = get_args(InvertWith)
RECOMMENDED = ("num_train_steps", "learning_rate", "num_inference_steps", "guidance_scale", "invert_with")


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One edit of a clip: its kind, the prompt, and what the prompt says that every frame shows."""

    kind: str
    prompt: str
    subject: str
    background: str
    style: str
    color: str | None

    @classmethod
    def of(cls, kind: str, **shown: str | None) -> Edit:
        """The edit whose prompt is the world's caption of ``shown``. A pencil sketch has no colours."""
        shown = {"style": "plain", "color": None, **shown}
        if shown["style"] == "pencil sketch":
            shown["color"] = None
        return cls(kind=kind, prompt=caption(**shown), **shown)  # type: ignore[arg-type]


def edits_of(name: str) -> list[Edit]:
    """Eight edits of a sample clip, two of each kind; the same ones every time.

    Subject edits go to one subject of the same family (vehicles, animals) and one of the other. Only car, bus, tractor
    and cat come in colours: a clip of another subject gets a coloured subject with its colour edits.
    """
    shown = {key: SAMPLE_CLIPS[name].get(key) for key in ("subject", "background", "color")}
    names = [subject.name for subject in SUBJECTS]
    place = names.index(str(shown["subject"]))
    turned = SUBJECTS[place + 1 :] + SUBJECTS[:place]
    kin = next(s.name for s in turned if s.verbs == SUBJECTS[place].verbs)
    stranger = next(s.name for s in turned[len(turned) // 2 :] + turned if s.verbs != SUBJECTS[place].verbs)
    paintable = [s.name for s in SUBJECTS if s.body_hue is not None]
    others = [color for color in COLORS if color != shown["color"]]
    at = BACKGROUND_NAMES.index(str(shown["background"]))
    edits = [Edit.of("subject", **{**shown, "subject": subject, "color": None}) for subject in (kin, stranger)]
    for step in (1, 3):
        there = BACKGROUND_NAMES[(at + step) % len(BACKGROUND_NAMES)]
        edits.append(Edit.of("background", **{**shown, "background": there}))
    for index, color in enumerate((others[place % len(others)], others[(place + 1) % len(others)])):
        subject = shown["subject"] if shown["subject"] in paintable else paintable[(place + index) % len(paintable)]
        edits.append(Edit.of("color", **{**shown, "subject": subject, "color": color}))
    return edits + [Edit.of("style", **{**shown, "style": style}) for style in ("pixel art", "pencil sketch")]


# -- making ----------------------------------------------------------------------------------------------------------


def tuned_run(sample: SampleClip, folder: Path, num_train_steps: int | None) -> Path:
    """A sample clip's run below a benchmark's folder, tuned if it is not there; by default as Pocket recommends."""
    run = folder / "runs" / sample.name
    if not run.exists():
        given: dict[str, Any] = {} if num_train_steps is None else {"num_train_steps": num_train_steps}
        tune(TuneConfig(base="pocket", video=str(sample.path), prompt=sample.caption, out=str(run), **given))
    return run


def settings_of(base: PretrainedBase, options: argparse.Namespace) -> dict[str, Any]:
    """What decides the edits of any clip; what the options leave open is what the base recommends."""
    settings = {"base_sha256": base.sha256}
    for name in RECOMMENDED:
        given = getattr(options, name)
        settings[name] = getattr(base.recommended, name) if given is None else given
    return settings


class ClipEditor:
    """A sample clip and its edits, for any number of models that are tuned on it; what tuning needs is computed once.

    Attributes:
        base: what is tuned.
        sample: the clip in the package.
        edits: what it is to become.
        clip: its frames.
    """

    def __init__(self, base: PretrainedBase, sample: SampleClip, edits: Sequence[Edit]) -> None:
        self.base, self.sample, self.edits = base, sample, list(edits)
        self.clip = read_video(sample.path, num_frames=NUM_FRAMES, size=(SIZE, SIZE))
        self._latents, self._caption_states = prepare(base, self.clip, sample.caption, CPU)

    def model(
        self, options: InflationOptions, *, num_train_steps: int, learning_rate: float, seed: int
    ) -> tuple[VideoUNet, float]:
        """The base, inflated and tuned on the clip, and the seconds of tuning; 0 steps leave it untuned."""
        model = inflate(self.base.load_unet(), options, NUM_FRAMES, seed=seed)
        if num_train_steps < 1:
            return model, 0.0
        tuner = self.tuner(model, options, num_train_steps=num_train_steps, learning_rate=learning_rate, seed=seed)
        began = time.perf_counter()
        for _ in range(num_train_steps):
            tuner.step()
        return model, time.perf_counter() - began

    def tuner(
        self, model: VideoUNet, options: InflationOptions, *, num_train_steps: int, learning_rate: float, seed: int
    ) -> Tuner:
        """The tuning loop of this clip."""
        config = TuneConfig(
            base=str(self.base.path),
            video=str(self.sample.path),
            prompt=self.sample.caption,
            out="-",
            height=SIZE,
            width=SIZE,
            num_train_steps=num_train_steps,
            learning_rate=learning_rate,
            seed=seed,
            mixed_precision="no",
            inflation=options,
        )
        return Tuner(model, self._latents, self._caption_states, self.base.schedule, config, CPU)

    def pipeline(self, model: VideoUNet) -> contextlib.AbstractContextManager[Pipeline]:
        """The SDK's pipeline with a model of this clip, in PyTorch."""
        return torch_pipeline(self.base, model, prompt=self.sample.caption, height=SIZE, width=SIZE, fps=self.clip.fps)

    def invert(self, pipeline: Pipeline, num_inference_steps: int, invert_with: str = "empty") -> Inversion:
        """The clip's inversion, with one of :data:`INVERT_WITH`."""
        prompt = self.sample.caption if invert_with == "caption" else ""
        return pipeline.invert(self.clip, prompt=prompt, num_inversion_steps=num_inference_steps)

    def edit(
        self, pipeline: Pipeline, start: Inversion | int, num_inference_steps: int, guidance_scale: float
    ) -> np.ndarray:
        """All edits from an inversion, or from the noise of a seed: frames ``(edits, f, h, w, 3)`` uint8."""
        how: dict[str, Any] = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        if isinstance(start, int):
            videos = [pipeline.generate(edit.prompt, seed=start, **how) for edit in self.edits]
        else:
            videos = [pipeline.edit(edit.prompt, start, **how) for edit in self.edits]
        return np.stack([video.frames for video in videos])
