"""Long videos on Pocket: what they cost, and whether they hold together.

    python -m benchmarks.long_video --out FOLDER [--part cost | edit]

``cost``  edits of 8, 32, 128 and 512 frames, each in a process of its own, in turn: peak memory, seconds per frame.
``edit``  a clip of 128 frames, edited window by window, and by windows that know nothing of each other: differences of
          adjacent frames at the seams and elsewhere, and scores over time. Writes the videos and a contact sheet.

The long clips continue the sample clip ``car-road``: the car turns at the side of the picture and comes back.
The model is tuned on the eight frames of the sample clip alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import progress, table, write_json
from tav_sdk.export.bench.edit import peak_bytes
from tav_sdk.pocket import sample_clip
from tav_sdk.training.pocket.captions import caption
from tav_sdk.training.pocket.clips import SAMPLE_CLIPS, render_clip
from tav_sdk.video.clip import Video, read_video
from tav_sdk.video.file import VideoFile
from tav_sdk.video.writer import VideoWriter

SAMPLE = "car-road"
LENGTHS = (8, 32, 128, 512)
CROSSING = 11
"""Frames from side to side: not the window's 8, or the car would turn at seams only."""
CHANGED = {"subject": {"subject": "bus"}, "background": {"background": "beach"}}
SHOWN = 16


def shown(kind: str) -> dict[str, Any]:
    """What an edit of a kind shows."""
    return {**{key: SAMPLE_CLIPS[SAMPLE].get(key) for key in ("subject", "background", "color")}, **CHANGED[kind]}


PROMPTS = {kind: caption(**shown(kind)) for kind in CHANGED}


def long_clip(num_frames: int, path: Path, crossing: int = CROSSING) -> np.ndarray:
    """Write the sample clip, continued; returns the car's middle ``(f, 2)`` in every frame, as fractions."""
    given = SAMPLE_CLIPS[SAMPLE]
    there = render_clip(**given, num_frames=crossing)  # type: ignore[arg-type]
    back = render_clip(**{**given, "start": given["end"], "end": given["start"]}, num_frames=crossing)  # type: ignore[arg-type]
    turns = -(-num_frames // crossing)
    parts = [(there, back)[turn % 2] for turn in range(turns)]
    if not path.exists():
        frames = np.concatenate([part.frames for part in parts])[:num_frames]
        Video(frames=frames, fps=8).save(path)
    return np.concatenate([part.centers for part in parts])[:num_frames]


# -- cost --------------------------------------------------------------------------------------------------------------


def measure(task: dict[str, Any]) -> None:
    """One edit, in this process: seconds and peak memory, as JSON on standard output."""
    from tav_sdk.pipeline.pipeline import load

    with load(task["bundle"], engine=task["engine"], cache=False) as pipeline:
        clip = VideoFile(task["clip"])
        steps = task["steps"]
        few = read_video(task["clip"], num_frames=min(clip.num_frames, 2 * pipeline.manifest.num_frames))
        pipeline.edit("", pipeline.invert(few, num_inversion_steps=1), num_inference_steps=1)  # opens the engines
        began = time.perf_counter()
        if task["stream"]:
            how = {"num_inversion_steps": steps, "num_inference_steps": steps}
            parts = pipeline.stream(PROMPTS["subject"], clip, **how)
        else:
            inversion = pipeline.invert(clip, num_inversion_steps=steps)
            parts = pipeline.edit_frames(PROMPTS["subject"], inversion, num_inference_steps=steps)
        first = None
        with VideoWriter(task["out"], clip.fps) as writer:
            for part in parts:
                first = first or time.perf_counter() - began
                writer.write(part)
        seconds = time.perf_counter() - began
    sys.stdout.write(json.dumps({"seconds": seconds, "first": first, "peak_bytes": peak_bytes()}) + "\n")


def cost(bundle: Path, folder: Path, *, engine: str, steps: int, rounds: int, lengths: Sequence[int]) -> dict[str, Any]:
    """Edits of every length, with and without streaming, in turn."""
    found: dict[str, list[dict[str, float]]] = {}
    for index in range(rounds):
        for stream in (False, True):
            for length in lengths:
                clip, name = folder / f"clip-{length}.mp4", f"{length}{' streamed' * stream}"
                long_clip(length, clip)
                out = folder / "cost.mp4"
                task = {"bundle": str(bundle), "clip": str(clip), "out": str(out), "engine": engine}
                command = [sys.executable, "-m", "benchmarks.long_video", "--out", str(folder), "--measure"]
                given = json.dumps({**task, "steps": steps, "stream": stream})
                done = subprocess.run([*command, given], check=True, capture_output=True, text=True)
                found.setdefault(name, []).append(json.loads(done.stdout.splitlines()[-1]))
                progress(f"round {index + 1}/{rounds}: {name} {found[name][-1]['seconds']:.1f} s")
    return {
        name: {
            "seconds_per_frame": statistics.median(one["seconds"] for one in runs) / int(name.split()[0]),
            "first": statistics.median(one["first"] for one in runs),
            "peak_mb": max(one["peak_bytes"] for one in runs) / 1e6,
        }
        for name, runs in found.items()
    }


# -- an edit -----------------------------------------------------------------------------------------------------------


def seams(frames: np.ndarray, window: int) -> dict[str, float]:
    """Mean absolute difference of adjacent frames, of 255: at the seams of windows, elsewhere, and their ratio."""
    change = np.abs(frames[1:].astype(np.float64) - frames[:-1]).mean(axis=(1, 2, 3))
    at = (np.arange(1, len(frames)) % window) == 0
    there, elsewhere = float(change[at].mean()), float(change[~at].mean())
    return {"at": there, "elsewhere": elsewhere, "ratio": there / elsewhere}


def over_time(frames: np.ndarray, centers: np.ndarray, kind: str, length: int) -> list[dict[str, Any]]:
    """Scores of stretches of so many frames."""
    from benchmarks.pocket_editing import Edit
    from benchmarks.pocket_judge import Judge

    edit, judge = Edit.of(kind, **shown(kind)), Judge()
    return [
        {"from": start, **judge(frames[start : start + length], edit, centers[start : start + length])}
        for start in range(0, len(frames) - length + 1, length)
    ]


def edit(bundle: Path, folder: Path, *, engine: str, num_frames: int, crossing: int, name: str) -> dict[str, Any]:
    """Edit one long clip, window by window and by windows that know nothing of each other."""
    from PIL import Image

    from tav_sdk.pipeline.pipeline import load
    from tav_sdk.video.contact_sheet import contact_sheet

    path = folder / f"{name}.mp4"
    centers = long_clip(num_frames, path, crossing)
    clip = read_video(path)
    result: dict[str, Any] = {}
    rows = {"source": clip}
    with load(bundle, engine=engine) as pipeline:
        window = pipeline.manifest.num_frames
        inversion = pipeline.invert(clip)
        alone = [pipeline.invert(Video(frames=part, fps=clip.fps)) for part in clip.chunks(window)]
        for kind, prompt in PROMPTS.items():
            progress(f"{name}: {prompt}")
            made = pipeline.edit(prompt, inversion).frames
            parts = np.concatenate([pipeline.edit(prompt, one).frames for one in alone])
            for label, frames in ((kind, made), (f"{kind}, windows alone", parts)):
                rows[f"{label}: {prompt}"] = Video(frames=frames, fps=clip.fps)
                result[label] = {"seams": seams(frames, window), "over_time": over_time(frames, centers, kind, 16)}
            rows[f"{kind}: {prompt}"].save(folder / f"{name}-{kind}.mp4")
        result["source"] = {"seams": seams(clip.frames, window)}
    sheet = contact_sheet(rows, num_columns=SHOWN, scale=1.25)
    Image.fromarray(sheet).save(folder / f"{name}.png")
    return result


def show_edit(result: dict[str, Any]) -> str:
    """A table, a row for each edit: seams, then scores of the first and the last stretch, and means over all."""
    rows = []
    for label, entry in result.items():
        row = [label, *(f"{entry['seams'][what]:.2f}" for what in ("at", "elsewhere", "ratio"))]
        for score in ("all", "trajectory", "clip_text", "clip_frame", "flicker"):
            values = [stretch[score] for stretch in entry.get("over_time", []) if stretch[score] is not None]
            row.append(" / ".join(f"{value:.3g}" for value in (*values[:1], *values[-1:])) if values else "-")
            row.append(f"{statistics.fmean(values):.3g}" if values else "-")
        rows.append(row)
    head = ["edit", "at seams", "elsewhere", "ratio"]
    for score in ("all", "trajectory", "clip_text", "clip_frame", "flicker"):
        head += [f"{score}, first / last", "mean"]
    return table(head, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder; what is there is used again")
    parser.add_argument("--part", choices=("cost", "edit", "all"), default="all")
    parser.add_argument("--engine", default="onnxruntime-cpu", help="default: onnxruntime-cpu")
    parser.add_argument(
        "--steps", type=int, default=10, help="of inversion and of sampling, for the cost (default: 10)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="for the cost (default: 3)")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="default: 8 32 128 512")
    parser.add_argument("--num-train-steps", type=int, help="default: what the base recommends")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        measure(json.loads(options.measure))
        return
    from benchmarks.pocket_editing import tuned_run
    from tav_sdk.export import ExportOptions, export_bundle
    from tav_sdk.training import load_run

    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    run, bundle = tuned_run(sample_clip(SAMPLE), folder, options.num_train_steps), folder / "bundle"
    if not bundle.exists():
        export_bundle(load_run(run), bundle, ExportOptions(quality=False))
    result: dict[str, Any] = {"benchmark": "long_video"}
    if options.part in ("cost", "all"):
        how = {"engine": options.engine, "steps": options.steps, "rounds": options.rounds, "lengths": options.lengths}
        result["cost"] = cost(bundle, folder, **how)
        rows = [
            (name, f"{entry['seconds_per_frame']:.3f}", f"{entry['first']:.2f}", f"{entry['peak_mb']:.0f}")
            for name, entry in result["cost"].items()
        ]
        print(table(("frames", "seconds a frame", "first frames after, s", "peak MB"), rows))
    if options.part in ("edit", "all"):
        for name, num_frames, crossing in (("to-and-fro", 128, CROSSING), ("slow", 64, 64)):
            result[name] = edit(
                bundle, folder, engine=options.engine, num_frames=num_frames, crossing=crossing, name=name
            )
            print(f"\n{name}, {num_frames} frames\n\n{show_edit(result[name])}")
    write_json(str(folder / "long_video.json"), result, options)


if __name__ == "__main__":
    main()
