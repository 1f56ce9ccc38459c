"""The world's subjects: whole-body pictures, their names, colours and verbs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from tav_sdk.errors import BaseModelError

DRAWINGS = Path(__file__).parent / "drawings"

# Hues in degrees; a subject is repainted by turning the hue of its saturated pixels to one of these.
COLORS = {"red": 2.0, "yellow": 46.0, "green": 125.0, "blue": 215.0}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One kind of thing that can be drawn.

    ``faces`` is the side that the drawing looks to; ``gait`` says how clips move it; ``body_hue`` is the range of hues,
    in degrees, that a colour name repaints (``None``: this subject is always drawn in its own colours).
    """

    name: str
    verbs: tuple[str, ...]
    gait: str
    faces: str = "left"
    scale: float = 1.0
    body_hue: tuple[float, float] | None = None


_WALK = ("walking", "running")
_DRIVE = ("moving", "driving")

SUBJECTS = (
    Subject(name="car", verbs=_DRIVE, gait="roll", body_hue=(-25.0, 25.0)),
    Subject(name="bus", verbs=_DRIVE, gait="roll", scale=1.05, body_hue=(170.0, 250.0)),
    Subject(name="tractor", verbs=_DRIVE, gait="roll", scale=1.05, body_hue=(80.0, 170.0)),
    Subject(name="duck", verbs=_WALK, gait="walk"),
    Subject(name="pig", verbs=_WALK, gait="walk"),
    Subject(name="elephant", verbs=_WALK, gait="walk", scale=1.1),
    Subject(name="horse", verbs=_WALK, gait="jump", scale=1.1),
    Subject(name="cat", verbs=_WALK, gait="walk", body_hue=(15.0, 60.0)),
    Subject(name="turtle", verbs=_WALK, gait="walk"),
    Subject(name="penguin", verbs=_WALK, gait="jump", faces="right"),
)
SUBJECT_NAMES = tuple(subject.name for subject in SUBJECTS)


@lru_cache(maxsize=16)
def drawing(name: str) -> Image.Image:
    """The drawing of one subject: an RGBA picture, cropped to its ink (78 to 125 pixels wide).

    Raises:
        BaseModelError: the picture is missing or cannot be read.
    """
    path = DRAWINGS / f"{name}.png"
    try:
        with Image.open(path) as picture:
            return picture.convert("RGBA")
    except OSError as error:
        raise BaseModelError(
            f"The drawing of the {name} cannot be read: {error}. It ships with the package: install tav-sdk again."
        ) from error


def repaint(picture: Image.Image, hue: float, body_hue: tuple[float, float]) -> Image.Image:
    """Turn the body's hue (the saturated pixels within ``body_hue``, degrees) to ``hue``; shading stays."""
    hsv = np.asarray(picture.convert("RGB").convert("HSV")).astype(np.float32)
    degrees = hsv[..., 0] * (360.0 / 255.0)
    low, high = body_hue
    inside = ((degrees - low) % 360.0) <= (high - low)
    body = inside & (hsv[..., 1] > 40.0)
    hsv[..., 0] = np.where(body, hue * (255.0 / 360.0), hsv[..., 0])
    hsv[..., 1] = np.where(body, np.clip(hsv[..., 1] * 1.35 + 45.0, 150.0, 235.0), hsv[..., 1])
    hsv[..., 2] = np.where(body, np.clip(hsv[..., 2], 70.0, 240.0), hsv[..., 2])
    painted = Image.fromarray(hsv.round().astype(np.uint8), "HSV").convert("RGB").convert("RGBA")
    painted.putalpha(picture.getchannel("A"))
    return painted


@lru_cache(maxsize=256)
def sprite(name: str, color: str | None, facing: str) -> Image.Image:
    """The picture of one subject (RGBA), repainted in ``color`` if one is named, looking to ``facing``."""
    subject = SUBJECTS[SUBJECT_NAMES.index(name)]
    picture = drawing(name)
    if color is not None and subject.body_hue is not None:
        picture = repaint(picture, COLORS[color], subject.body_hue)
    if facing != subject.faces:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return picture
