"""The world's backgrounds: procedural places, painted with an optional camera offset so that clips can pan."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Color = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Background:
    """One kind of place: its name, how captions say it, and its painter."""

    name: str
    phrases: tuple[str, ...]
    paint: Callable[[Image.Image, np.random.Generator, float, float], None]


def _jitter(rng: np.random.Generator, color: Color, amount: int = 12) -> Color:
    """The colour, a little lighter or darker."""
    shift = rng.integers(-amount, amount + 1, 3)
    return tuple(int(np.clip(c + s, 0, 255)) for c, s in zip(color, shift, strict=True))  # type: ignore[return-value]


def _gradient(picture: Image.Image, top: int, bottom: int, above: Color, below: Color) -> None:
    """Fill rows ``top`` to ``bottom`` (pixels) with a vertical gradient."""
    rows = max(bottom - top, 1)
    t = np.linspace(0.0, 1.0, rows)[:, None]
    band = np.asarray(above) * (1 - t) + np.asarray(below) * t  # (rows, 3)
    strip = Image.fromarray(band.round().astype(np.uint8)[:, None, :]).resize((picture.width, rows))
    picture.paste(strip, (0, top))


def _ridge(
    picture: Image.Image, rng: np.random.Generator, base: float, height: float, color: Color, pan: float
) -> None:
    """Soft hills: a sum of two waves above row ``base`` (pixels), moving with ``pan`` (pixels)."""
    size = picture.width
    phase, pitch = rng.uniform(0, 2 * math.pi, 2), rng.uniform(0.7, 1.6)
    x = np.arange(0, size + 4, 4)
    u = 2 * math.pi * (x + pan) / size
    y = base - height * (0.55 + 0.3 * np.sin(pitch * u + phase[0]) + 0.15 * np.sin(2.3 * pitch * u + phase[1]))
    points = [(int(a), float(b)) for a, b in zip(x, y, strict=True)]
    ImageDraw.Draw(picture).polygon([(0, base), *points, (size + 4, base)], fill=color)


def _spots(size: int, rng: np.random.Generator, count: int, pan: float, margin: float = 0.15) -> list[float]:
    """Columns (pixels) of ``count`` props, spread over a world wider than the picture, that move with ``pan``."""
    period = size * (1.0 + 2 * margin)
    start = rng.uniform(0, 1)
    slots = (np.arange(count) + rng.uniform(0.1, 0.9, count)) / max(count, 1)
    return [float(((slot + start) * period - pan) % period - margin * size) for slot in slots]


def _grass(picture: Image.Image, rng: np.random.Generator, horizon: float, pan: float) -> None:
    size, row = picture.width, int(horizon)
    _gradient(picture, 0, row, _jitter(rng, (120, 190, 245)), _jitter(rng, (205, 232, 252)))
    _ridge(picture, rng, row, size * 0.16, _jitter(rng, (110, 175, 105)), pan * 0.3)
    _gradient(picture, row, size, _jitter(rng, (120, 195, 75)), _jitter(rng, (70, 150, 50)))
    draw = ImageDraw.Draw(picture)
    crown, radius = _jitter(rng, (45, 125, 55)), size * rng.uniform(0.07, 0.11)
    for x in _spots(size, rng, int(rng.integers(1, 4)), pan * 0.6):
        draw.rectangle((x - size * 0.015, row - size * 0.1, x + size * 0.015, row + size * 0.02), fill=(110, 80, 50))
        draw.ellipse((x - radius, row - size * 0.1 - 2 * radius, x + radius, row - size * 0.08), fill=crown)


def _road(picture: Image.Image, rng: np.random.Generator, horizon: float, pan: float) -> None:
    size, row = picture.width, int(horizon)
    _gradient(picture, 0, row, _jitter(rng, (150, 200, 240)), _jitter(rng, (220, 235, 245)))
    draw = ImageDraw.Draw(picture)
    wall = _jitter(rng, (165, 150, 150))
    for x in _spots(size, rng, 4, pan * 0.5, 0.25):
        tall, wide = size * rng.uniform(0.1, 0.26), size * rng.uniform(0.08, 0.12)
        draw.rectangle((x - wide, row - tall, x + wide, row), fill=_jitter(rng, wall, 20))
    kerb = size * 0.05
    draw.rectangle((0, row, size, row + kerb), fill=_jitter(rng, (190, 188, 180)))
    _gradient(picture, int(row + kerb), size, _jitter(rng, (105, 105, 112), 8), _jitter(rng, (78, 78, 85), 8))
    middle = row + 0.55 * (size - row)
    dash = size * 0.2
    start = rng.uniform(0, 2 * dash)
    for k in range(-2, 5):
        x = (start - pan) % (2 * dash) + 2 * dash * k
        draw.rectangle((x, middle, x + dash, middle + size * 0.03), fill=(240, 235, 215))


def _snow(picture: Image.Image, rng: np.random.Generator, horizon: float, pan: float) -> None:
    size, row = picture.width, int(horizon)
    _gradient(picture, 0, row, _jitter(rng, (165, 190, 220)), _jitter(rng, (215, 225, 238)))
    _ridge(picture, rng, row, size * 0.24, _jitter(rng, (190, 205, 228), 6), pan * 0.25)
    _gradient(picture, row, size, (250, 252, 255), _jitter(rng, (218, 228, 242), 6))
    draw = ImageDraw.Draw(picture)
    green, tall = _jitter(rng, (50, 105, 90)), size * rng.uniform(0.2, 0.28)
    for x in _spots(size, rng, int(rng.integers(1, 4)), pan * 0.6):
        half = tall * 0.34
        draw.polygon([(x - half, row + 2), (x + half, row + 2), (x, row - tall)], fill=green)
        draw.polygon(
            [(x - half * 0.45, row - tall * 0.55), (x + half * 0.45, row - tall * 0.55), (x, row - tall)],
            fill=(245, 248, 252),
        )


def _desert(picture: Image.Image, rng: np.random.Generator, horizon: float, pan: float) -> None:
    size, row = picture.width, int(horizon)
    _gradient(picture, 0, row, _jitter(rng, (250, 190, 120)), _jitter(rng, (255, 228, 175)))
    _ridge(picture, rng, row, size * 0.2, _jitter(rng, (222, 150, 90)), pan * 0.25)
    _gradient(picture, row, size, _jitter(rng, (240, 200, 130)), _jitter(rng, (215, 160, 90)))
    draw = ImageDraw.Draw(picture)
    green, tall, wide = _jitter(rng, (75, 135, 75)), size * rng.uniform(0.16, 0.22), size * 0.028
    for x in _spots(size, rng, int(rng.integers(1, 3)), pan * 0.6):
        draw.rounded_rectangle((x - wide, row - tall, x + wide, row + 3), wide, fill=green)
        draw.rounded_rectangle((x - 3.2 * wide, row - 0.7 * tall, x - 1.6 * wide, row - 0.3 * tall), wide, fill=green)
        draw.rectangle((x - 2.4 * wide, row - 0.45 * tall, x, row - 0.3 * tall), fill=green)


def _beach(picture: Image.Image, rng: np.random.Generator, horizon: float, pan: float) -> None:
    size, row = picture.width, int(horizon)
    sea = int(row - size * rng.uniform(0.14, 0.2))
    _gradient(picture, 0, sea, _jitter(rng, (105, 190, 250)), _jitter(rng, (200, 235, 255)))
    _gradient(picture, sea, row, _jitter(rng, (20, 115, 190)), _jitter(rng, (60, 185, 210)))
    _gradient(picture, row, size, _jitter(rng, (250, 232, 185), 8), _jitter(rng, (240, 212, 150), 8))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, row - size * 0.02, size, row + size * 0.015), fill=(245, 250, 250))
    x = rng.uniform(0.1, 0.9) * size - pan * 0.15
    radius = size * 0.06
    draw.ellipse((x - radius, size * 0.05, x + radius, size * 0.05 + 2 * radius), fill=(255, 235, 120))


def _night(picture: Image.Image, rng: np.random.Generator, horizon: float, pan: float) -> None:
    size, row = picture.width, int(horizon)
    _gradient(picture, 0, row, _jitter(rng, (12, 16, 55), 8), _jitter(rng, (45, 45, 105), 8))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(6, 12))):
        x, y, r = (rng.uniform(0, 1) * size - pan * 0.1) % size, rng.uniform(0, 0.75) * row, size * 0.012
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(235, 235, 210))
    x, radius = rng.uniform(0.1, 0.9) * size - pan * 0.1, size * rng.uniform(0.06, 0.08)
    draw.ellipse((x - radius, size * 0.05, x + radius, size * 0.05 + 2 * radius), fill=(250, 245, 205))
    _ridge(picture, rng, row, size * 0.16, _jitter(rng, (28, 28, 70), 6), pan * 0.3)
    _gradient(picture, row, size, _jitter(rng, (52, 58, 98), 8), _jitter(rng, (34, 38, 72), 8))


BACKGROUNDS = (
    Background(name="grass", phrases=("on the grass", "in a green meadow"), paint=_grass),
    Background(name="road", phrases=("on the road", "on a city street"), paint=_road),
    Background(name="snow", phrases=("in the snow", "on the snow"), paint=_snow),
    Background(name="desert", phrases=("in the desert",), paint=_desert),
    Background(name="beach", phrases=("on the beach", "at the beach"), paint=_beach),
    Background(name="night", phrases=("at night", "under the stars at night"), paint=_night),
)
BACKGROUND_NAMES = tuple(background.name for background in BACKGROUNDS)


def paint_background(name: str, *, size: int, horizon: float, seed: int, pan: float = 0.0) -> Image.Image:
    """An RGB picture of the place, ``size`` pixels wide and high, with its horizon at that fraction of the height.

    ``pan`` moves the camera to the right by that fraction of the width; near things move more than far ones.
    """
    picture = Image.new("RGB", (size, size))
    painter = BACKGROUNDS[BACKGROUND_NAMES.index(name)].paint
    painter(picture, np.random.default_rng(seed), horizon * size, pan * size)
    return picture
