"""What speed costs in edits: ``--fast`` and bfloat16 against the default, on Pocket's sample clips, each tuned once.

    python -m benchmarks.fast_edits --out FOLDER [--clips 3]

Every clip is inverted and edited by all candidates in turn; seconds are of inversion and sampling, video files and VAE
left out. Writes ``fast_edits.json`` and a contact sheet per clip; what an earlier call finished is not made again.
Runs and bundles lie where ``benchmarks/precision_edits.py`` has them, so that both can share a folder.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.edit_study import EditStudy, Rows, StudyClip, means_of, score_columns
from benchmarks.result_table import Column
from tav_sdk.evaluation.evaluate import reconstruction_psnr
from tav_sdk.export.bench.edit import Stopwatch, stage_of
from tav_sdk.pipeline.pipeline import load
from tav_sdk.progress import StepProgress
from tav_sdk.video.clip import read_video

CANDIDATES = {"default": ("fp32", False), "fast": ("fp32", True), "bf16": ("bf16", False), "bf16, fast": ("bf16", True)}
"""Precision of the bundle, and whether edits are fast."""
SCORES = ("subject", "background", "style", "all", "trajectory", "flicker", "clip_text", "clip_frame")
SHOWN = 3


def edit_clip(clip: StudyClip) -> tuple[dict[str, Any], Rows]:
    """Make one clip's edits by all candidates, and judge them."""
    name = clip.sample.name
    bundles = {
        precision: clip.bundle(f"{name}-{precision}", precision=precision, quality=False)
        for precision in ("fp32", "bf16")
    }
    result: dict[str, Any] = {}
    shown: dict[str, Rows] = {edit.prompt: {} for edit in clip.edits[: 2 * SHOWN : 2]}
    with contextlib.ExitStack() as stack:
        pipelines = {
            precision: stack.enter_context(load(bundle, engine=clip.options.engine, cache=False))
            for precision, bundle in bundles.items()
        }
        manifest = pipelines["fp32"].manifest
        size = (manifest.height, manifest.width)
        source = read_video(clip.sample.path, num_frames=manifest.num_frames, size=size)
        caption = clip.sample.caption
        for pipeline in pipelines.values():  # opens the engines
            pipeline.edit(caption, pipeline.invert(source, num_inversion_steps=1), num_inference_steps=1)
        for candidate, (precision, fast) in CANDIDATES.items():
            pipeline, watch, entries = pipelines[precision], Stopwatch(), []

            def seen(step: StepProgress, watch: Stopwatch = watch) -> None:
                watch.lap(stage_of(step.stage))

            inversion = pipeline.invert(source, fast=fast, callback=seen)
            for edit in clip.edits:
                watch.lap()
                frames = pipeline.edit(edit.prompt, inversion, callback=seen).frames
                entries.append(clip.entry(edit, frames))
                if edit.prompt in shown:
                    shown[edit.prompt][candidate] = frames
            again = pipeline.edit(caption, inversion, guidance_scale=1.0).frames
            result[candidate] = {
                "inversion": watch.seconds["inversion"],
                "sampling": watch.seconds["sampling"] / len(clip.edits),
                "reconstruction_psnr": reconstruction_psnr(source.frames, again),
                "edits": entries,
            }
            clip.say(candidate, entries)
    rows = {f"source: {caption}": source.frames}
    rows |= {f"{name}: {prompt}": frames for prompt, made in shown.items() for name, frames in made.items()}
    return result, rows


def summary(clips: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """The mean of every score, and seconds of an inversion and of an edit, for every candidate."""
    result, whole = {}, {}
    for name in CANDIDATES:
        times = {key: statistics.fmean(clip[name][key] for clip in clips) for key in ("inversion", "sampling")}
        whole[name] = sum(times.values())
        psnr = statistics.fmean(clip[name]["reconstruction_psnr"] for clip in clips)
        scores = means_of([edit for clip in clips for edit in clip[name]["edits"]], SCORES)
        result[name] = {**scores, "reconstruction": psnr, **times, "times_faster": whole["default"] / whole[name]}
    return result


COLUMNS = (
    *score_columns(SCORES),
    Column("reconstruction dB", "reconstruction"),
    Column("inversion s", "inversion", "{:.2f}"),
    Column("sampling s", "sampling", "{:.2f}"),
    Column("times faster", "times_faster", "{:.2f}"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    EditStudy(
        name="fast_edits",
        about=__doc__,
        edit_clip=edit_clip,
        summary=summary,
        first="candidate",
        columns=COLUMNS,
        clips=3,
        suffix=".fast",
        add_options=lambda parser: parser.add_argument(
            "--engine", default="openvino-cpu", help="default: openvino-cpu, which has bf16 on the CPU"
        ),
    ).main(arguments)


if __name__ == "__main__":
    main()
