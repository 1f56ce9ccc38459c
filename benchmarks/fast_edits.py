"""What speed costs in edits: ``--fast`` and bfloat16 against the default, on Pocket's sample clips, each tuned once.

    python -m benchmarks.fast_edits --out FOLDER [--clips 3]

Every clip is inverted and edited by all candidates in turn; seconds are of inversion and sampling, video files and VAE
left out. Writes ``fast_edits.json`` and a contact sheet a clip; what is there of an earlier call is not made again.
Runs and bundles lie where ``benchmarks/precision_edits.py`` has them, so that both can share a folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from benchmarks import progress, table, write_json
from benchmarks.pocket_editing import Judge, edits_of, tuned_run
from tav_sdk.evaluation.evaluate import reconstruction_psnr
from tav_sdk.export import ExportOptions, export_bundle
from tav_sdk.export.bench.edit import Stopwatch, stage_of
from tav_sdk.files import new_file, write_text
from tav_sdk.pipeline.pipeline import load
from tav_sdk.pocket import SampleClip, sample_clips
from tav_sdk.training import load_run
from tav_sdk.video.clip import read_video
from tav_sdk.video.contact_sheet import contact_sheet

CANDIDATES = {"default": ("fp32", False), "fast": ("fp32", True), "bf16": ("bf16", False), "bf16, fast": ("bf16", True)}
"""Precision of the bundle, and whether edits are fast."""
SCORES = ("subject", "background", "style", "all", "trajectory", "flicker", "clip_text", "clip_frame")
SHOWN = 3


def edit_clip(
    sample: SampleClip, folder: Path, engine: str, *, num_train_steps: int | None, num_edits: int | None
) -> None:
    """Make one clip's edits by all candidates, and judge them."""
    run = tuned_run(sample, folder, num_train_steps)
    for precision in ("fp32", "bf16"):
        if not (bundle := folder / "bundles" / f"{sample.name}-{precision}").exists():
            export_bundle(load_run(run), bundle, ExportOptions(precision=precision, quality=False, windows=False))
    edits, judge, result = edits_of(sample.name)[:num_edits], Judge(), {}
    rows: dict[str, np.ndarray] = {}
    with contextlib.ExitStack() as stack:
        pipelines = {
            precision: stack.enter_context(
                load(folder / "bundles" / f"{sample.name}-{precision}", engine=engine, cache=False)
            )
            for precision in ("fp32", "bf16")
        }
        manifest = pipelines["fp32"].manifest
        clip = read_video(sample.path, num_frames=manifest.num_frames, size=(manifest.height, manifest.width))
        for pipeline in pipelines.values():  # opens the engines
            pipeline.edit(sample.caption, pipeline.invert(clip, num_inversion_steps=1), num_inference_steps=1)
        rows[f"source: {sample.caption}"] = clip.frames
        for name, (precision, fast) in CANDIDATES.items():
            pipeline, watch, entries = pipelines[precision], Stopwatch(), []

            def seen(step: Any, watch: Stopwatch = watch) -> None:
                watch.lap(stage_of(step.stage))

            inversion = pipeline.invert(clip, fast=fast, callback=seen)
            for edit in edits:
                watch.lap()
                frames = pipeline.edit(edit.prompt, inversion, callback=seen).frames
                entries.append(
                    {"kind": edit.kind, "prompt": edit.prompt, "scores": dict(judge(frames, edit, sample.centers))}
                )
                if edit in edits[: 2 * SHOWN : 2]:
                    rows[f"{name}: {edit.prompt}"] = frames
            again = pipeline.edit(sample.caption, inversion, guidance_scale=1.0).frames
            result[name] = {
                "inversion": watch.seconds["inversion"],
                "sampling": watch.seconds["sampling"] / len(edits),
                "reconstruction_psnr": reconstruction_psnr(clip.frames, again),
                "edits": entries,
            }
            mean = statistics.fmean(entry["scores"]["all"] for entry in entries)
            progress(f"{sample.name}, {name}: all {mean:.2f}")
    order = [f"source: {sample.caption}"]
    order += [f"{name}: {edit.prompt}" for edit in edits[: 2 * SHOWN : 2] for name in CANDIDATES]
    with new_file(folder / f"{sample.name}.fast.png") as path:
        Image.fromarray(contact_sheet({name: rows[name] for name in order}, scale=2)).save(path, "PNG")
    write_text(folder / f"{sample.name}.fast.json", json.dumps(result, indent=2) + "\n")


def summary(clips: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Of every candidate: the mean of every score, and seconds of an inversion and of an edit."""
    result = {}
    for name in CANDIDATES:
        entries = [edit["scores"] for clip in clips for edit in clip[name]["edits"]]
        scores = {
            score: statistics.fmean(entry[score] for entry in entries if score in entry)
            for score in SCORES
            if any(score in entry for entry in entries)
        }
        times = {key: statistics.fmean(clip[name][key] for clip in clips) for key in ("inversion", "sampling")}
        psnr = statistics.fmean(clip[name]["reconstruction_psnr"] for clip in clips)
        result[name] = {**scores, "reconstruction": psnr, **times}
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--clips", type=int, default=3, metavar="N", choices=range(1, 9), help="the first N sample clips (default: 3)"
    )
    parser.add_argument("--edits", type=int, metavar="N", help="the first N of a clip's eight edits")
    parser.add_argument("--num-train-steps", type=int, help="default: what the base recommends")
    parser.add_argument("--engine", default="openvino-cpu", help="default: openvino-cpu, which has bf16 on the CPU")
    options = parser.parse_args(arguments)
    clips = []
    for sample in list(sample_clips().values())[: options.clips]:
        path = options.out / f"{sample.name}.fast.json"
        if not path.exists():
            edit_clip(
                sample,
                options.out,
                options.engine,
                num_train_steps=options.num_train_steps,
                num_edits=options.edits,
            )
        clips.append(json.loads(path.read_text()))
    result = summary(clips)
    write_json(str(options.out / "fast_edits.json"), {"benchmark": "fast_edits", "summary": result})
    whole = {name: scores["inversion"] + scores["sampling"] for name, scores in result.items()}
    rows = [
        (
            name,
            *(f"{scores[score]:.3g}" if score in scores else "-" for score in (*SCORES, "reconstruction")),
            f"{scores['inversion']:.2f}",
            f"{scores['sampling']:.2f}",
            f"{whole['default'] / whole[name]:.2f}",
        )
        for name, scores in result.items()
    ]
    head = ("candidate", *SCORES, "reconstruction dB", "inversion s", "sampling s", "times faster")
    print(table(head, rows))


if __name__ == "__main__":
    main()
