"""The drawings that the world is made of, and what is drawn with them."""

from __future__ import annotations

import hashlib
import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tav_sdk.errors import BaseModelError
from tav_sdk.training.pocket import subjects
from tav_sdk.training.pocket.backgrounds import BACKGROUND_NAMES
from tav_sdk.training.pocket.clips import SAMPLE_CLIPS, render_clip
from tav_sdk.training.pocket.styles import STYLE_NAMES
from tav_sdk.training.pocket.subjects import COLORS, DRAWINGS, SUBJECTS, drawing, sprite
from tav_sdk.training.pocket.world import Scene, render

DATA = Path(__file__).resolve().parents[2] / "data"
SPRITES = [
    (subject.name, color, facing)
    for subject in SUBJECTS
    for color, facing in product((None, *COLORS) if subject.body_hue else (None,), ("left", "right"))
]
WHERE = [*product(BACKGROUND_NAMES, STYLE_NAMES)]
TILE, COLUMNS = 48, 13


def digest(picture: Image.Image) -> str:
    """A hash of the pixels, not of the file, so that it is the same with every version of every encoder."""
    return hashlib.sha256(f"{picture.mode} {picture.size}".encode() + picture.tobytes()).hexdigest()


def scenes() -> list[Scene]:
    """Every sprite once, in places and styles by turns; sizes, tilt and lift change as well."""
    return [
        Scene(
            subject=name,
            color=color,
            facing=facing,
            background=WHERE[5 * index % len(WHERE)][0],
            style=WHERE[5 * index % len(WHERE)][1],
            length=0.45 + 0.04 * (index % 6),
            tilt=2.0 * (index % 3),
            lift=0.05 * (index % 2),
            pan=0.1 * (index % 4),
            seed=index,
        )
        for index, (name, color, facing) in enumerate(SPRITES)
    ]


def render_sheet() -> np.ndarray:
    """All scenes, then the first and last frame of every sample clip: ``(h, w, 3) uint8``."""
    tiles = [render(scene, TILE) for scene in scenes()]
    clips = [render_clip(**arguments, size=TILE) for arguments in SAMPLE_CLIPS.values()]  # type: ignore[arg-type]
    tiles += [clip.frames[end] for clip in clips for end in (0, -1)]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % COLUMNS)
    rows = [np.concatenate(tiles[start : start + COLUMNS], axis=1) for start in range(0, len(tiles), COLUMNS)]
    return np.concatenate(rows)


def test_the_drawings_are_those_that_pocket_was_trained_on():
    """Repainting goes through floating point, so it is held by the sheet of scenes, not bit for bit."""
    known = json.loads((DATA / "pocket_drawings.json").read_text(encoding="utf-8"))
    found = {
        subject.name: [digest(sprite(subject.name, None, way)) for way in ("left", "right")] for subject in SUBJECTS
    }
    assert found == known


def test_scenes_and_clips_look_as_they_did():
    """Within rounding: curves and resizing may differ by a level between processors and versions of Pillow."""
    known = np.asarray(Image.open(DATA / "pocket_world.png").convert("RGB")).astype(int)
    found = render_sheet().astype(int)
    assert found.shape == known.shape
    off = np.abs(found - known).max(axis=-1)
    tiles = off.reshape(off.shape[0] // TILE, TILE, -1, TILE).swapaxes(1, 2)  # (rows, columns, TILE, TILE)
    assert (tiles > 3).mean(axis=(2, 3)).max() < 0.01


def test_every_style_place_and_subject_is_in_the_sheet():
    drawn = scenes()
    assert {(scene.background, scene.style) for scene in drawn} == set(WHERE)
    assert {scene.subject for scene in drawn} == {subject.name for subject in SUBJECTS}


def test_each_drawing_is_listed_with_its_glyph_beside_the_licence():
    listed = re.findall(
        r"^\| `(\w+)\.png` \| U\+1F[0-9A-F]{3} \| (\d+)x(\d+) \|$", (DRAWINGS / "README.md").read_text(), re.M
    )
    assert {name: (int(width), int(height)) for name, width, height in listed} == {
        path.stem: Image.open(path).size for path in DRAWINGS.glob("*.png")
    }
    assert {name for name, _, _ in listed} == {subject.name for subject in SUBJECTS}
    assert "SIL OPEN FONT LICENSE Version 1.1" in (DRAWINGS / "OFL.txt").read_text(encoding="utf-8")


def test_a_missing_drawing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subjects, "DRAWINGS", tmp_path)
    drawing.cache_clear()
    with pytest.raises(BaseModelError, match=r"The drawing of the car cannot be read: .*install tav-sdk again"):
        drawing("car")
