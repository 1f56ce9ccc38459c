"""Pocket, the base model that ships with the package, and its sample clips. See ``README.md`` beside this file.

The folder is a base model in the diffusers layout, with the whole CLIP for evaluation in ``clip/`` and the samples in
``samples/``. How it was made: ``tav_sdk.training.pocket``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tav_sdk.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "CLIP",
    "CONTROLNET",
    "POCKET",
    "SAMPLES",
    "SampleClip",
    "find_base",
    "find_controlnet",
    "sample_clip",
    "sample_clips",
]

POCKET = "pocket"
"""What ``--base`` calls this base."""
FOLDER = Path(__file__).parent
CLIP = FOLDER / "clip"
"""Pocket's own CLIP, both towers, in the transformers format."""
CONTROLNET = FOLDER / "controlnet"
"""A ControlNet for Pocket that follows Canny edges, in the diffusers format."""
SAMPLES = "samples"
SAMPLES_FILE = "samples.json"


@dataclass(frozen=True, kw_only=True)
class SampleClip:
    """A short clip that ships with the package.

    Attributes:
        name: such as ``car-road``.
        caption: what it shows, in the words that Pocket knows.
        edits: kind of edit (``subject``, ``background``, ``attribute``, ``style``) to a prompt.
        path: an mp4 file.
        centers: ``(f, 2)`` float64: middle (x, y) of the subject's box in every frame, as fractions of width and
            height. It is known, not found: the clip was rendered.
    """

    name: str
    caption: str
    edits: dict[str, str]
    path: Path
    centers: NDArray[np.float64]


def sample_clips() -> dict[str, SampleClip]:
    """All sample clips by name."""
    entries = json.loads((FOLDER / SAMPLES / SAMPLES_FILE).read_text(encoding="utf-8"))
    return {
        name: SampleClip(
            name=name,
            caption=entry["caption"],
            edits=entry["edits"],
            path=FOLDER / SAMPLES / f"{name}.mp4",
            centers=np.asarray(entry["centers"], dtype=np.float64),
        )
        for name, entry in entries.items()
    }


def sample_clip(name: str) -> SampleClip:
    """One sample clip.

    Raises:
        InputError: there is none of that name.
    """
    clips = sample_clips()
    if name not in clips:
        raise InputError(f"there is no sample clip {name!r}; there are: {', '.join(clips)}")
    return clips[name]


def find_base(base: str | Path) -> Path:
    """The folder of a base model: ``pocket`` is the one in the package, unless a base of that name lies here.

    Raises:
        InputError: ``base`` is empty.
    """
    if not str(base).strip():
        raise InputError(
            "the base model is empty; give a folder, a .safetensors file, a Hugging Face id, or 'pocket', the base in "
            "the package"
        )
    folder = Path(base)
    return FOLDER if str(base) == POCKET and not (folder / "unet").is_dir() else folder


def find_controlnet(controlnet: str | Path) -> Path:
    """The folder of a ControlNet: ``pocket`` is the one for Canny edges in the package, unless one lies here."""
    folder = Path(controlnet)
    return CONTROLNET if str(controlnet) == POCKET and not folder.is_dir() else folder
