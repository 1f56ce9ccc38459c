"""Does a ControlNet steer edits? Pocket's sample clips, edited with and without the edges of the source as control.

    python -m benchmarks.control_edits --out FOLDER [--clips 3]

The control map is the source's Canny edges. It is compared with the map recomputed from every edit (F-measure of edge
pixels, one pixel's tolerance), over the whole picture and around the subject's true place. Writes
``control_edits.json`` and a contact sheet a clip; what is there of an earlier call is not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from benchmarks import progress, table, write_json
from benchmarks.pocket_editing import AROUND, Edit, Judge, edits_of, tuned_run
from tav_sdk.export import ExportOptions, export_bundle, export_controlnet
from tav_sdk.files import new_file, write_text
from tav_sdk.pipeline.controlnet import Control, ControlNet
from tav_sdk.pipeline.pipeline import load
from tav_sdk.pocket import CONTROLNET, SampleClip, sample_clips
from tav_sdk.training import load_run
from tav_sdk.video.clip import Video, read_video
from tav_sdk.video.contact_sheet import contact_sheet
from tav_sdk.video.edges import agreement, canny

STARTS = ("inverted", "noise")
SCALES = (0.0, 0.5, 1.0)
SCORES = ("edges", "edges_subject", "subject", "background", "style", "trajectory", "clip_text")
LABELS = {"edges": "edges agree", "edges_subject": "around the subject"}


def near(maps: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """A map ``(f, h, w, 3)`` without what is far from the subject's middles ``(f, 2)``, fractions (x, y)."""
    height, width = maps.shape[1:3]
    xs, ys = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    close = (abs(xs - centers[:, :1]) < AROUND)[:, None, :] & (abs(ys - centers[:, 1:]) < AROUND)[:, :, None]
    return maps * close[..., None]


def prepare(sample: SampleClip, folder: Path, num_train_steps: int | None) -> tuple[Path, Path]:
    """The clip's bundle, and the ControlNet exported for it."""
    run = tuned_run(sample, folder, num_train_steps)
    bundle, net = folder / "bundles" / sample.name, folder / "controlnet"
    if not bundle.exists():
        export_bundle(load_run(run), bundle, ExportOptions(control=True, windows=False))
    if not net.exists():
        export_controlnet(CONTROLNET, net, bundle=bundle)
    return bundle, net


def edit_clip(sample: SampleClip, folder: Path, *, num_train_steps: int | None, num_edits: int | None) -> None:
    """Make and judge one clip's edits: subjects, backgrounds and colours, whose edges may be the source's."""
    bundle, net = prepare(sample, folder, num_train_steps)
    edits = [edit for edit in edits_of(sample.name) if edit.kind != "style"][:num_edits]
    judge, entries = Judge(), []
    with load(bundle, cache=False) as pipeline, ControlNet(net) as controlnet:
        clip = read_video(sample.path, num_frames=pipeline.manifest.num_frames, size=(64, 64))
        edges = canny(clip.frames)
        rows: dict[str, Any] = {"source": clip.frames, "control": edges}
        inversion = pipeline.invert(clip)
        for start in STARTS:
            for scale in SCALES:
                control = Control(video=Video(frames=edges, fps=clip.fps), controlnet=controlnet, scale=scale)
                for edit in edits:
                    if start == "inverted":
                        frames = pipeline.edit(edit.prompt, inversion, control=control).frames
                    else:
                        frames = pipeline.generate(edit.prompt, seed=33, control=control).frames
                    scores = _scores(judge, frames, edit, sample, edges)
                    entries.append(
                        {"start": start, "scale": scale, "kind": edit.kind, "prompt": edit.prompt, "scores": scores}
                    )
                    if edit in edits[::2]:
                        rows[f"{start}, scale {scale:g}: {edit.prompt} (edges {scores['edges']:.2f})"] = frames
                mean = statistics.fmean(
                    e["scores"]["edges"] for e in entries if (e["start"], e["scale"]) == (start, scale)
                )
                progress(f"{sample.name}, {start}, scale {scale:g}: edges agree {mean:.2f}")
    with new_file(folder / f"{sample.name}.png") as path:
        Image.fromarray(contact_sheet(rows, scale=2)).save(path, "PNG")
    write_text(folder / f"{sample.name}.json", json.dumps(entries, indent=2) + "\n")


def _scores(judge: Judge, frames: np.ndarray, edit: Edit, sample: SampleClip, edges: np.ndarray) -> dict[str, Any]:
    found = canny(frames)
    return {
        **judge(frames, edit, sample.centers),
        "edges": agreement(found, edges),
        "edges_subject": agreement(near(found, sample.centers), near(edges, sample.centers)),
    }


def summary(entries: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean of every score, by where edits start and how much the control counts."""
    result = {}
    for start in STARTS:
        for scale in SCALES:
            chosen = [e["scores"] for e in entries if (e["start"], e["scale"]) == (start, scale)]
            result[f"{start}, {scale:g}"] = {name: statistics.fmean(one[name] for one in chosen) for name in SCORES}
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--clips", type=int, default=3, metavar="N", choices=range(1, 9), help="the first N sample clips (default: 3)"
    )
    parser.add_argument("--edits", type=int, metavar="N", help="the first N of a clip's six edits")
    parser.add_argument("--num-train-steps", type=int, help="default: what the base recommends")
    options = parser.parse_args(arguments)
    entries: list[dict[str, Any]] = []
    for sample in list(sample_clips().values())[: options.clips]:
        path = options.out / f"{sample.name}.json"
        if not path.exists():
            edit_clip(sample, options.out, num_train_steps=options.num_train_steps, num_edits=options.edits)
        entries += json.loads(path.read_text())
    result = summary(entries)
    write_json(str(options.out / "control_edits.json"), {"benchmark": "control_edits", "summary": result})
    rows = [(name, *(f"{scores[score]:.3g}" for score in SCORES)) for name, scores in result.items()]
    print(table(("start, control scale", *(LABELS.get(score, score) for score in SCORES)), rows))


if __name__ == "__main__":
    main()
