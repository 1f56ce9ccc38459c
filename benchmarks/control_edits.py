"""Does a ControlNet steer edits? Pocket's sample clips, edited with and without the edges of the source as control.

    python -m benchmarks.control_edits --out FOLDER [--clips 3]

The control map is the source's Canny edges. It is compared with the map recomputed from every edit (F-measure of edge
pixels, one pixel's tolerance), over the whole picture and around the subject's true place. Writes
``control_edits.json`` and a contact sheet per clip; what an earlier call finished is not made again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.edit_study import EditStudy, Rows, StudyClip, means_of
from benchmarks.pocket_judge import around
from benchmarks.result_table import Column
from tav_sdk.export import export_controlnet
from tav_sdk.pipeline.controlnet import Control, ControlNet
from tav_sdk.pipeline.pipeline import load
from tav_sdk.pocket import CONTROLNET
from tav_sdk.video.clip import Video, read_video
from tav_sdk.video.edges import agreement, canny

STARTS = ("inverted", "noise")
SCALES = (0.0, 0.5, 1.0)
SCORES = ("edges", "edges_subject", "subject", "background", "style", "trajectory", "clip_text")
LABELS = {"edges": "edges agree", "edges_subject": "around the subject"}


def near(maps: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """A map ``(f, h, w, 3)`` without what is far from the subject's middles ``(f, 2)``, fractions (x, y)."""
    return maps * around(centers, *maps.shape[1:3])[..., None]


def edit_clip(clip: StudyClip) -> tuple[list[dict[str, Any]], Rows]:
    """Make and judge one clip's edits: subjects, backgrounds and colours, whose edges may be the source's."""
    sample, net = clip.sample, clip.options.out / "controlnet"
    bundle = clip.bundle(sample.name, control=True)
    if not net.exists():
        export_controlnet(CONTROLNET, net, bundle=bundle)
    entries: list[dict[str, Any]] = []
    with load(bundle, cache=False) as pipeline, ControlNet(net) as controlnet:
        source = read_video(sample.path, num_frames=pipeline.manifest.num_frames, size=(64, 64))
        edges = canny(source.frames)
        rows: Rows = {"source": source.frames, "control": edges}
        inversion = pipeline.invert(source)
        for start in STARTS:
            for scale in SCALES:
                control = Control(video=Video(frames=edges, fps=source.fps), controlnet=controlnet, scale=scale)
                made = []
                for edit in clip.edits:
                    if start == "inverted":
                        frames = pipeline.edit(edit.prompt, inversion, control=control).frames
                    else:
                        frames = pipeline.generate(edit.prompt, seed=33, control=control).frames
                    entry = clip.entry(edit, frames, start=start, scale=scale)
                    entry["scores"] |= edges_met(frames, edges, sample.centers)
                    made.append(entry)
                    if edit in clip.edits[::2]:
                        met = entry["scores"]["edges"]
                        rows[f"{start}, scale {scale:g}: {edit.prompt} (edges {met:.2f})"] = frames
                clip.say(f"{start}, scale {scale:g}", made, "edges")
                entries += made
    return entries, rows


def edges_met(frames: np.ndarray, edges: np.ndarray, centers: np.ndarray) -> dict[str, float]:
    """How well an edit's own edges agree with the control map, everywhere and around the subject."""
    found = canny(frames)
    return {"edges": agreement(found, edges), "edges_subject": agreement(near(found, centers), near(edges, centers))}


def summary(clips: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, float | None]]:
    """Mean of every score, by where edits start and how much the control counts."""
    entries = [entry for clip in clips for entry in clip]
    return {
        f"{start}, {scale:g}": means_of([e for e in entries if (e["start"], e["scale"]) == (start, scale)], SCORES)
        for start in STARTS
        for scale in SCALES
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    EditStudy(
        name="control_edits",
        about=__doc__,
        edit_clip=edit_clip,
        summary=summary,
        first="start, control scale",
        columns=[Column(LABELS.get(score, score), score) for score in SCORES],
        clips=3,
        kinds=("subject", "background", "color"),
    ).main(arguments)


if __name__ == "__main__":
    main()
