"""Clips: the same world in motion, with the subject's true place in every frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from tav_sdk.errors import InputError
from tav_sdk.training.pocket.captions import caption
from tav_sdk.training.pocket.subjects import SUBJECT_NAMES, SUBJECTS
from tav_sdk.training.pocket.world import Scene, render, subject_center


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Frames ``(f, h, w, 3) uint8``, their caption, the scene of each frame, and the subject's place.

    ``centers (f, 2) float64`` holds the middle (x, y) of the subject's box as fractions of the picture.
    """

    frames: np.ndarray
    caption: str
    scenes: tuple[Scene, ...]
    centers: np.ndarray


def _move(scene: Scene, gait: str, phase: float) -> Scene:
    """The scene with the gait's small motion; ``phase`` counts strides."""
    swing = math.sin(2 * math.pi * phase)
    if gait == "jump":
        return replace(scene, lift=0.12 * abs(math.sin(math.pi * phase)), tilt=4.0 * swing)
    if gait == "walk":
        return replace(scene, lift=0.015 * abs(swing), tilt=4.0 * swing)
    return replace(scene, lift=0.008 * abs(swing))


def render_clip(
    *,
    subject: str,
    background: str,
    style: str = "plain",
    color: str | None = None,
    num_frames: int = 8,
    start: float = 0.2,
    end: float = 0.8,
    pan: float = 0.0,
    strides: float = 2.0,
    size: int = 64,
    seed: int = 0,
) -> Clip:
    """The subject crosses the picture from column ``start`` to ``end`` (fractions), looking where it goes.

    ``pan`` is the way of the camera over the clip, in picture widths: the background moves against it.
    """
    if num_frames < 2:
        raise InputError(f"A clip needs 2 frames or more, got num_frames={num_frames}.")
    if subject not in SUBJECT_NAMES:
        raise InputError(f"Unknown subject '{subject}'; there are: {', '.join(SUBJECT_NAMES)}.")
    thing = SUBJECTS[SUBJECT_NAMES.index(subject)]
    rng = np.random.default_rng((seed, 77))
    first = Scene(
        subject=subject,
        background=background,
        style=style,
        color=color,
        facing="right" if end >= start else "left",
        length=0.52 * thing.scale,
        horizon=float(rng.uniform(0.42, 0.52)),
        y=float(rng.uniform(0.82, 0.9)),
        seed=seed,
    )
    scenes = tuple(
        _move(replace(first, x=start + (end - start) * t, pan=pan * t), thing.gait, strides * t)
        for t in np.linspace(0.0, 1.0, num_frames).tolist()
    )
    return Clip(
        frames=np.stack([render(scene, size) for scene in scenes]),
        caption=caption(subject=subject, background=background, style=style, color=color),
        scenes=scenes,
        centers=np.asarray([subject_center(scene) for scene in scenes]),
    )


# The clips that ship as samples, each crossing half the picture or more.
SAMPLE_CLIPS: dict[str, dict[str, object]] = {
    "car-road": {"subject": "car", "background": "road", "color": "red", "start": 0.24, "end": 0.78, "seed": 1},
    "bus-beach": {"subject": "bus", "background": "beach", "color": "blue", "start": 0.78, "end": 0.24, "seed": 2},
    "pig-grass": {"subject": "pig", "background": "grass", "start": 0.78, "end": 0.24, "seed": 3},
    "elephant-desert": {"subject": "elephant", "background": "desert", "start": 0.25, "end": 0.75, "seed": 4},
    "horse-snow": {"subject": "horse", "background": "snow", "start": 0.24, "end": 0.77, "strides": 3.0, "seed": 5},
    "penguin-snow": {"subject": "penguin", "background": "snow", "start": 0.8, "end": 0.2, "strides": 4.0, "seed": 6},
    "tractor-grass": {
        "subject": "tractor",
        "background": "grass",
        "color": "green",
        "start": 0.25,
        "end": 0.75,
        "pan": 0.3,
        "seed": 7,
    },
    "cat-night": {"subject": "cat", "background": "night", "start": 0.78, "end": 0.24, "seed": 8},
}
