"""The world's subjects: whole-body emoji pictures, their names, colours and verbs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tav_sdk.errors import BaseModelError

FONT_ENVIRONMENT = "TAV_EMOJI_FONT"
FONT_SIZE = 109  # the only size of the bitmaps in Noto Color Emoji
FONT_PATHS = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",
    "/opt/homebrew/share/fonts/NotoColorEmoji.ttf",
)

# Hues in degrees; a subject is repainted by turning the hue of its saturated pixels to one of these.
COLORS = {"red": 2.0, "yellow": 46.0, "green": 125.0, "blue": 215.0}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One kind of thing that can be drawn.

    ``faces`` is the side that the emoji looks to; ``gait`` says how clips move it; ``body_hue`` is the range of hues,
    in degrees, that a colour name repaints (``None``: this subject is always drawn in its own colours).
    """

    name: str
    emoji: str
    verbs: tuple[str, ...]
    gait: str
    faces: str = "left"
    scale: float = 1.0
    body_hue: tuple[float, float] | None = None


_WALK = ("walking", "running")
_DRIVE = ("moving", "driving")

SUBJECTS = (
    Subject(name="car", emoji="\U0001f697", verbs=_DRIVE, gait="roll", body_hue=(-25.0, 25.0)),
    Subject(name="bus", emoji="\U0001f68c", verbs=_DRIVE, gait="roll", scale=1.05, body_hue=(170.0, 250.0)),
    Subject(name="tractor", emoji="\U0001f69c", verbs=_DRIVE, gait="roll", scale=1.05, body_hue=(80.0, 170.0)),
    Subject(name="duck", emoji="\U0001f986", verbs=_WALK, gait="walk"),
    Subject(name="pig", emoji="\U0001f416", verbs=_WALK, gait="walk"),
    Subject(name="elephant", emoji="\U0001f418", verbs=_WALK, gait="walk", scale=1.1),
    Subject(name="horse", emoji="\U0001f40e", verbs=_WALK, gait="jump", scale=1.1),
    Subject(name="cat", emoji="\U0001f408", verbs=_WALK, gait="walk", body_hue=(15.0, 60.0)),
    Subject(name="turtle", emoji="\U0001f422", verbs=_WALK, gait="walk"),
    Subject(name="penguin", emoji="\U0001f427", verbs=_WALK, gait="jump", faces="right"),
)
SUBJECT_NAMES = tuple(subject.name for subject in SUBJECTS)


def find_font() -> Path:
    """Path of the emoji font: the environment variable ``TAV_EMOJI_FONT``, or where systems put it."""
    named = os.environ.get(FONT_ENVIRONMENT)
    for candidate in (named,) if named else FONT_PATHS:
        if Path(candidate).is_file():
            return Path(candidate)
    raise BaseModelError(
        "Pocket's pictures are rendered from the font Noto Color Emoji, which was not found"
        + (f" at {FONT_ENVIRONMENT}={named}. " if named else ". ")
        + "Install it (Debian: apt-get install fonts-noto-color-emoji) or set "
        f"{FONT_ENVIRONMENT} to the path of NotoColorEmoji.ttf."
    )


@lru_cache(maxsize=64)
def draw_emoji(emoji: str) -> Image.Image:
    """The emoji as an RGBA picture, cropped to its ink (about 128 pixels wide)."""
    font = ImageFont.truetype(str(find_font()), FONT_SIZE)
    canvas = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((10, 10), emoji, font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        raise BaseModelError(
            f"The font {find_font()} has no colour picture for U+{ord(emoji[0]):X}; use NotoColorEmoji.ttf."
        )
    return canvas.crop(box)


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
    picture = draw_emoji(subject.emoji)
    if color is not None and subject.body_hue is not None:
        picture = repaint(picture, COLORS[color], subject.body_hue)
    if facing != subject.faces:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return picture
