"""The world: seeded scenes, their pictures and captions. Picture i of seed s is the same on every machine and run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tav_sdk.training.pocket.backgrounds import BACKGROUND_NAMES, paint_background
from tav_sdk.training.pocket.captions import caption
from tav_sdk.training.pocket.styles import STYLE_NAMES, STYLES, apply_style
from tav_sdk.training.pocket.subjects import COLORS, SUBJECTS, sprite

OVERSAMPLING = 2


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that a picture shows. Lengths and places are fractions of the picture's width.

    ``x`` is the column of the subject's middle, ``y`` the row of its feet, ``length`` its longer side, ``lift`` its
    height above the ground, ``tilt`` its rotation in degrees, ``pan`` the camera's place.
    """

    subject: str
    background: str
    style: str = "plain"
    color: str | None = None
    facing: str = "right"
    x: float = 0.5
    y: float = 0.85
    length: float = 0.55
    horizon: float = 0.5
    lift: float = 0.0
    tilt: float = 0.0
    squash: float = 1.0
    pan: float = 0.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One picture ``(h, w, 3) uint8`` with its caption and scene."""

    picture: np.ndarray
    caption: str
    scene: Scene


def sample_scene(rng: np.random.Generator) -> Scene:
    """A random scene; subject, background, style and colour are drawn independently."""
    subject = SUBJECTS[int(rng.integers(len(SUBJECTS)))]
    background = BACKGROUND_NAMES[int(rng.integers(len(BACKGROUND_NAMES)))]
    style = STYLE_NAMES[int(rng.choice(len(STYLES), p=[style.share for style in STYLES]))]
    color = None
    if subject.body_hue is not None and style != "pencil sketch" and rng.random() < 0.75:
        color = tuple(COLORS)[int(rng.integers(len(COLORS)))]
    length = float(rng.uniform(0.46, 0.66)) * subject.scale
    horizon = float(rng.uniform(0.36, 0.56))
    return Scene(
        subject=subject.name,
        background=background,
        style=style,
        color=color,
        facing="left" if rng.random() < 0.5 else "right",
        x=float(rng.uniform(0.46 * length, 1 - 0.46 * length)),
        y=float(rng.uniform(max(horizon + 0.12, 0.7), 0.95)),
        length=length,
        horizon=horizon,
        lift=float(rng.uniform(0.0, 0.12)) if rng.random() < 0.25 else 0.0,
        tilt=float(rng.normal(0.0, 3.0)),
        squash=float(rng.uniform(0.95, 1.05)),
        seed=int(rng.integers(2**31)),
    )


def subject_box(scene: Scene, size: int) -> tuple[float, float, float, float]:
    """The subject's upright box (left, top, right, bottom) in pixels of a picture ``size`` wide."""
    picture = sprite(scene.subject, scene.color, scene.facing)
    scale = scene.length * size / max(picture.size)
    width, height = picture.width * scale, picture.height * scale * scene.squash
    bottom = (scene.y - scene.lift) * size
    return scene.x * size - width / 2, bottom - height, scene.x * size + width / 2, bottom


def subject_center(scene: Scene) -> tuple[float, float]:
    """Middle of the subject's box (x, y) as fractions of the picture."""
    left, top, right, bottom = subject_box(scene, 1)
    return (left + right) / 2, (top + bottom) / 2


def render(scene: Scene, size: int = 64) -> np.ndarray:
    """The scene's picture ``(size, size, 3) uint8``."""
    large = size * OVERSAMPLING
    picture = paint_background(scene.background, size=large, horizon=scene.horizon, seed=scene.seed, pan=scene.pan)
    left, top, right, bottom = subject_box(scene, large)
    width, height = max(round(right - left), 2), max(round(bottom - top), 2)
    half, ground = width * 0.42 * (1 - scene.lift), scene.y * large
    shadow = Image.new("L", (large, large), 0)
    middle = (left + right) / 2
    ImageDraw.Draw(shadow).ellipse(
        (middle - half, ground - 0.03 * large, middle + half, ground + 0.02 * large), fill=85
    )
    picture.paste((20, 20, 30), (0, 0), shadow.filter(ImageFilter.GaussianBlur(large / 64)))
    body = sprite(scene.subject, scene.color, scene.facing).resize((width, height), Image.Resampling.BILINEAR)
    if scene.tilt:
        body = body.rotate(scene.tilt, Image.Resampling.BILINEAR, expand=True)
    corner = (round(middle - body.width / 2), round((top + bottom) / 2 - body.height / 2))
    picture.paste(body, corner, body)
    return np.asarray(apply_style(scene.style, picture.reduce(OVERSAMPLING)))


def scene_of(seed: int, index: int) -> tuple[Scene, str]:
    """Scene and caption number ``index`` of the endless stream ``seed``; cheap, nothing is rendered."""
    rng = np.random.default_rng((seed, index))
    scene = sample_scene(rng)
    words = caption(subject=scene.subject, background=scene.background, style=scene.style, color=scene.color, rng=rng)
    return scene, words


def sample(seed: int, index: int, size: int = 64) -> Sample:
    """Picture number ``index`` of the endless stream ``seed``."""
    scene, words = scene_of(seed, index)
    return Sample(picture=render(scene, size), caption=words, scene=scene)
