"""Write the sample clips of the package: ``python -m tav_sdk.training.pocket.samples --out FOLDER``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tav_sdk.files import new_folder
from tav_sdk.pocket import SAMPLES_FILE
from tav_sdk.training.pocket.captions import caption
from tav_sdk.training.pocket.clips import SAMPLE_CLIPS, render_clip
from tav_sdk.video.clip import Video

FPS = 8.0

# What each kind of edit (the paper's figure 7) changes in a clip. Only cars, buses, tractors and cats have colours, so
# a colour comes with one of these where the clip's subject is another.
EDITS: dict[str, dict[str, dict[str, str]]] = {
    "car-road": {
        "subject": {"subject": "bus"},
        "background": {"background": "snow"},
        "attribute": {"color": "yellow"},
        "style": {"style": "pixel art"},
    },
    "bus-beach": {
        "subject": {"subject": "tractor"},
        "background": {"background": "grass"},
        "attribute": {"color": "green"},
        "style": {"style": "pencil sketch"},
    },
    "pig-grass": {
        "subject": {"subject": "elephant"},
        "background": {"background": "desert"},
        "attribute": {"subject": "cat", "color": "blue"},
        "style": {"style": "pixel art"},
    },
    "elephant-desert": {
        "subject": {"subject": "turtle"},
        "background": {"background": "grass"},
        "attribute": {"subject": "tractor", "color": "green"},
        "style": {"style": "pencil sketch"},
    },
    "horse-snow": {
        "subject": {"subject": "duck"},
        "background": {"background": "beach"},
        "attribute": {"subject": "cat", "color": "yellow"},
        "style": {"style": "pixel art"},
    },
    "penguin-snow": {
        "subject": {"subject": "duck"},
        "background": {"background": "road"},
        "attribute": {"subject": "cat", "color": "red"},
        "style": {"style": "pixel art"},
    },
    "tractor-grass": {
        "subject": {"subject": "car"},
        "background": {"background": "night"},
        "attribute": {"color": "red"},
        "style": {"style": "pencil sketch"},
    },
    "cat-night": {
        "subject": {"subject": "penguin"},
        "background": {"background": "beach"},
        "attribute": {"color": "blue"},
        "style": {"style": "pixel art"},
    },
}


def edit_prompts(name: str) -> dict[str, str]:
    """One prompt of each kind for a sample clip."""
    how: dict[str, Any] = SAMPLE_CLIPS[name]
    scene = {"subject": how["subject"], "background": how["background"], "color": how.get("color")}
    return {kind: caption(**{**scene, **change}) for kind, change in EDITS[name].items()}


def write_samples(out: Path) -> None:
    """Render every sample clip to ``NAME.mp4``, with captions, edits and true places in ``samples.json``."""
    with new_folder(out, overwrite=True) as folder:
        entries = {}
        for name, how in SAMPLE_CLIPS.items():
            arguments: dict[str, Any] = dict(how)
            clip = render_clip(**arguments)
            Video(frames=clip.frames, fps=FPS).save(folder / f"{name}.mp4")
            entries[name] = {
                "caption": clip.caption,
                "edits": edit_prompts(name),
                "centers": clip.centers.round(4).tolist(),
            }
        (folder / SAMPLES_FILE).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="tav_sdk.training.pocket.samples", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    write_samples(parser.parse_args(arguments).out)


if __name__ == "__main__":
    main()
