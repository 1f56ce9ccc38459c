"""The world's styles: how a finished picture is turned into pixel art or a pencil sketch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter


@dataclass(frozen=True, kw_only=True)
class Style:
    """One style: its name, the words that captions end in, its share of the pictures, and its filter."""

    name: str
    phrases: tuple[str, ...]
    share: float
    apply: Callable[[Image.Image], Image.Image]


def _plain(picture: Image.Image) -> Image.Image:
    return picture


def _pixel_art(picture: Image.Image) -> Image.Image:
    """Blocks of 1/32 of the width, six levels per channel, a little more contrast."""
    size = picture.width
    small = np.asarray(picture.resize((32, 32), Image.Resampling.BOX)).astype(np.float32)
    levels = (np.clip((small - 128) * 1.25 + 128, 0, 255) / 51.0).round() * 51.0
    return Image.fromarray(levels.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)


def _pencil_sketch(picture: Image.Image) -> Image.Image:
    """Grey shading on warm paper, with dark soft outlines."""
    soft = np.asarray(picture.convert("L").filter(ImageFilter.GaussianBlur(0.4))).astype(np.float32)
    gx, gy = np.zeros_like(soft), np.zeros_like(soft)
    gx[:, 1:-1] = soft[:, 2:] - soft[:, :-2]
    gy[1:-1] = soft[2:] - soft[:-2]
    edges = np.clip(np.hypot(gx, gy) * 0.8, 0, 110)
    tone = np.clip(95 + soft * (160 / 255) - edges, 15, 255)[..., None] / 255.0
    paper = np.asarray((252.0, 249.0, 240.0))
    return Image.fromarray((tone * paper).round().astype(np.uint8))


STYLES = (
    Style(name="plain", phrases=("",), share=0.6, apply=_plain),
    Style(name="pixel art", phrases=(", pixel art style", ", pixel art"), share=0.2, apply=_pixel_art),
    Style(name="pencil sketch", phrases=(", pencil sketch style", ", pencil sketch"), share=0.2, apply=_pencil_sketch),
)
STYLE_NAMES = tuple(style.name for style in STYLES)


def apply_style(name: str, picture: Image.Image) -> Image.Image:
    """The RGB picture in the named style, at the same size."""
    return STYLES[STYLE_NAMES.index(name)].apply(picture)
