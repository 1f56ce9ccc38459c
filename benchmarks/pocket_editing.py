"""One-shot editing of Pocket's sample clips: what is asked for, how it is made, and how it is judged."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image

from benchmarks.pocket_classifier import Verdict, classify, load_classifier
from tav_sdk.bundle.manifest import InvertWith
from tav_sdk.diffusion.inversion import ddim_invert
from tav_sdk.diffusion.sampling import ddim_sample
from tav_sdk.evaluation.evaluate import clip_frame, clip_text
from tav_sdk.evaluation.trajectory import motion
from tav_sdk.pocket import CLIP, SampleClip
from tav_sdk.progress import UNet
from tav_sdk.training import InflationOptions, PretrainedBase, TuneConfig, VideoUNet, inflate, tune
from tav_sdk.training.clip_scorer import ClipScorer
from tav_sdk.training.encode import encode_clip, encode_prompts
from tav_sdk.training.pocket.backgrounds import BACKGROUND_NAMES
from tav_sdk.training.pocket.captions import caption
from tav_sdk.training.pocket.clips import SAMPLE_CLIPS
from tav_sdk.training.pocket.subjects import COLORS, SUBJECTS
from tav_sdk.training.tune_step import Tuner
from tav_sdk.video.clip import read_video
from tav_sdk.video.frames import to_frames

KINDS = ("subject", "background", "color", "style")
CLASSIFIER = Path(__file__).with_name("pocket_classifier.safetensors")
NUM_FRAMES, SIZE = 8, 64
PROMPTS_A_BATCH = 4  # 8 videos a U-Net call, guidance included
BODY, SATURATED, HUE_WIDTH = 0.1, 90, 30.0  # half side of the body's region, of 255, degrees
AROUND = 0.33  # half side of the square around a subject that is not background
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
        given = {} if num_train_steps is None else {"num_train_steps": num_train_steps}
        tune(TuneConfig(base="pocket", video=str(sample.path), prompt=sample.caption, out=str(run), **given))
    return run


def settings_of(base: PretrainedBase, options: argparse.Namespace) -> dict[str, Any]:
    """What decides the edits of any clip; what the options leave open is what the base recommends."""
    settings = {"base_sha256": base.sha256}
    for name in RECOMMENDED:
        given = getattr(options, name)
        settings[name] = getattr(base.recommended, name) if given is None else given
    return settings


def as_unet(model: VideoUNet) -> UNet:
    """The model as the numpy callable that the SDK's loops take."""
    model.eval()

    def unet(sample: np.ndarray, timestep: np.ndarray, encoder_hidden_states: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            arrays = (np.ascontiguousarray(sample), timestep, encoder_hidden_states)
            return model(*(torch.as_tensor(array) for array in arrays)).numpy()

    return unet


class ClipEditor:
    """A sample clip with its latents and the text states of its edits, computed once for any number of models."""

    def __init__(self, base: PretrainedBase, sample: SampleClip, edits: Sequence[Edit]) -> None:
        self.base, self.sample, self.edits = base, sample, list(edits)
        self.clip = read_video(sample.path, num_frames=NUM_FRAMES, size=(SIZE, SIZE))
        self.vae = base.load_vae().requires_grad_(False)
        self.latents = encode_clip(self.vae, self.clip, base.scaling_factor)
        prompts = [sample.caption, "", *(edit.prompt for edit in self.edits)]
        states = encode_prompts(base.load_text_encoder(), base.load_tokenizer(), prompts)  # (2 + edits, s, d)
        self.caption_states, self.empty, self.states = states[:1], states[1:2].numpy(), states[2:].numpy()

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
        return Tuner(model, self.latents, self.caption_states, self.base.schedule, config, CPU)

    def invert(self, unet: UNet, num_inference_steps: int, invert_with: str = "empty") -> np.ndarray:
        """The clip's noise ``(1, c, f, h, w)``, with one of :data:`INVERT_WITH`."""
        states = self.caption_states.numpy() if invert_with == "caption" else self.empty  # (1, s, d)
        return ddim_invert(unet, self.latents.mean.numpy(), states, self.base.schedule, num_inference_steps)

    def noise(self, seed: int) -> np.ndarray:
        """Random noise of the clip's shape, as the SDK draws it."""
        return np.random.default_rng(seed).standard_normal(self.latents.mean.shape, dtype=np.float32)

    def edit(self, unet: UNet, noise: np.ndarray, num_inference_steps: int, guidance_scale: float) -> np.ndarray:
        """All edits from the same noise: frames ``(edits, f, h, w, 3)`` uint8."""
        videos = []
        for first in range(0, len(self.edits), PROMPTS_A_BATCH):
            states = self.states[first : first + PROMPTS_A_BATCH]  # (b, s, d)
            b = len(states)
            latents, empty = np.repeat(noise, b, axis=0), np.repeat(self.empty, b, axis=0)
            latents = ddim_sample(
                unet, latents, states, empty, self.base.schedule, num_inference_steps, guidance_scale
            )  # (b, c, f, h, w)
            videos += [self.decode(video) for video in latents]
        return np.stack(videos)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Latents ``(c, f, h, w)`` of one video to frames ``(f, h, w, 3)`` uint8."""
        with torch.inference_mode():
            folded = torch.from_numpy(np.ascontiguousarray(latents.swapaxes(0, 1)))  # (f, c, h, w)
            return to_frames(self.vae.decode(folded / self.base.scaling_factor).sample.numpy())


# -- judging ---------------------------------------------------------------------------------------------------------


class Judge:
    """The independent classifier, a hue check, the trajectory, and Pocket's own CLIP."""

    def __init__(self) -> None:
        self.classifier = load_classifier(CLASSIFIER)
        self.clip = ClipScorer(CLIP, device="cpu")

    def __call__(self, frames: np.ndarray, edit: Edit, centers: np.ndarray) -> dict[str, float | None]:
        """Scores of one edit.

        Args:
            frames: ``(f, 64, 64, 3)`` uint8.
            edit: what they should show.
            centers: ``(f, 2)`` true middles of the source's subject.

        Returns:
            ``subject``, ``background``, ``style``, ``all``: share of frames where the judge sees what was asked;
            ``color``: likewise, ``None`` where the prompt names none; ``trajectory``: see
            :func:`tav_sdk.evaluation.trajectory.motion`, of the judged middles; ``flicker``: see :func:`flicker`;
            ``clip_text``, ``clip_frame``: see :mod:`tav_sdk.evaluation.evaluate`.
        """
        verdicts = classify(self.classifier, frames)
        found = np.asarray(
            [[getattr(v, part) == getattr(edit, part) for part in ("subject", "background", "style")] for v in verdicts]
        )  # (f, 3)
        colors = [body_color(frame, verdict) == edit.color for frame, verdict in zip(frames, verdicts, strict=True)]
        embedded = self.clip.embed_frames(frames)  # (f, d)
        return {
            **dict(zip(("subject", "background", "style"), found.mean(0).tolist(), strict=True)),
            "all": float(found.all(1).mean()),
            "color": float(np.mean(colors)) if edit.color else None,
            "trajectory": motion(places := np.asarray([verdict.center for verdict in verdicts]), centers),
            "flicker": flicker(frames, places),
            "clip_text": clip_text(embedded, self.clip.embed_text([edit.prompt])[0]),
            "clip_frame": clip_frame(embedded),
        }


def flicker(frames: np.ndarray, places: np.ndarray) -> float:
    """How much the background changes from frame to frame, of 255; 0.1 to 0.5 in a clip whose camera stands still.

    The mean absolute difference of adjacent frames, over the pixels that are far from the subject in both. Pocket's
    CLIP gives nearly the same embedding to all pictures of one caption, so ``clip_frame`` hardly sees this.

    Args:
        frames: ``(f, h, w, 3)`` uint8.
        places: ``(f, 2)`` the subject's middle (x, y) as fractions.
    """
    height, width = frames.shape[1:3]
    xs, ys = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    far = (abs(xs - places[:, :1]) > AROUND)[:, None, :] | (abs(ys - places[:, 1:]) > AROUND)[:, :, None]  # (f, h, w)
    change = abs(frames[1:].astype(np.float64) - frames[:-1]).mean(axis=-1)  # (f - 1, h, w)
    return float(change[far[1:] & far[:-1]].mean())


def body_color(frame: np.ndarray, verdict: Verdict) -> str | None:
    """The named colour of most saturated pixels around the judged middle; ``None`` where there are none.

    The region is small enough to lie within the body: on rendered pictures of the world the vote is never wrong.
    """
    size = frame.shape[0]
    left, top = (max(int((place - BODY) * size), 0) for place in verdict.center)
    right, bottom = (int((place + BODY) * size) + 1 for place in verdict.center)
    hsv = np.asarray(Image.fromarray(frame).convert("HSV"), dtype=np.float64)[top:bottom, left:right].reshape(-1, 3)
    degrees = hsv[hsv[:, 1] >= SATURATED, 0] * (360 / 255)
    votes = {name: (abs((degrees - hue + 180) % 360 - 180) < HUE_WIDTH).sum() for name, hue in COLORS.items()}
    best = max(votes, key=lambda name: votes[name])
    return best if votes[best] else None
