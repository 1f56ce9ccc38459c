"""Is Pocket good enough for one-shot editing: its sample clips, tuned and edited in eight ways each, judged.

    python -m benchmarks.pocket_edits --out FOLDER [--clips 6]

Writes ``edits.json``, and for every clip ``clips/NAME.json`` and the contact sheet ``clips/NAME.png``. A clip that was
finished with the same base and settings is not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import progress
from benchmarks.edit_study import EditStudy, Rows, StudyClip
from benchmarks.pocket_editing import INVERT_WITH, KINDS, ClipEditor, settings_of
from benchmarks.result_table import Column
from tav_sdk.files import sha256_of
from tav_sdk.pocket import SampleClip, find_base
from tav_sdk.training import InflationOptions, PretrainedBase

SCORES = ("subject", "background", "style", "all", "color", "trajectory", "clip_text", "clip_frame")
LOW = 0.8
"""A trajectory below this is not the clip's."""


@functools.cache
def found_base(base: str) -> PretrainedBase:
    """The base, found and hashed once."""
    return PretrainedBase(find_base(base))


def edit_clip(clip: StudyClip) -> tuple[dict[str, Any], Rows]:
    """Tune on one clip in memory, make and judge its edits."""
    if clip.options.threads:
        torch.set_num_threads(clip.options.threads)
    sample, settings = clip.sample, dict(clip.settings or {})
    editor = ClipEditor(found_base(clip.options.base), sample, clip.edits)
    how = {name: settings[name] for name in ("num_train_steps", "learning_rate", "seed")}
    model, tuning = editor.model(InflationOptions(), **how)
    progress(f"{sample.name}: tuned in {tuning:.0f} s")
    steps = settings["num_inference_steps"]
    with editor.pipeline(model) as pipeline:
        began = time.perf_counter()
        inversion = editor.invert(pipeline, steps, settings["invert_with"])
        inverting = time.perf_counter() - began
        videos = editor.edit(pipeline, inversion, steps, settings["guidance_scale"])  # (edits, f, h, w, 3)
        sampling = time.perf_counter() - began - inverting
    entries, rows = [], {f"source: {sample.caption}": editor.clip.frames}
    for edit, frames in zip(editor.edits, videos, strict=True):
        scores = clip.entry(edit, frames)["scores"]
        entries.append({**dataclasses.asdict(edit), "scores": scores})
        marks = ", ".join(f"{name} {scores[name]:.2f}" for name in SCORES[:6] if scores[name] is not None)
        rows[f"{edit.kind}: {edit.prompt} ({marks})"] = frames
    clip.say("edited", entries)
    result = {
        "clip": sample.name,
        "caption": sample.caption,
        "settings": settings,
        "edits": entries,
        "seconds": {"tuning": tuning, "inversion": inverting, "sampling": sampling},
    }
    return result, rows


def summary(edits: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float] | None]:
    """Mean and median of every score, ``None`` where no edit has it; and how many trajectories are below 0.8."""
    edits = list(edits)
    values = {name: [e["scores"][name] for e in edits if e["scores"][name] is not None] for name in SCORES}
    result: dict[str, dict[str, float] | None] = {
        name: {"mean": statistics.fmean(found), "median": statistics.median(found)} if found else None
        for name, found in values.items()
    }
    places = values["trajectory"]
    result["low_trajectory"] = {"count": sum(value < LOW for value in places), "of": len(places)}
    return result


def summary_by_kind(clips: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The summary of all edits, and of each kind's."""
    edits = [edit for clip in clips for edit in clip["edits"]]
    return {
        "all": summary(edits),
        **{kind: summary(edit for edit in edits if edit["kind"] == kind) for kind in KINDS},
    }


def common_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What decides the edits of any clip; what the options leave open is what the base recommends."""
    return {**settings_of(found_base(options.base), options), "seed": options.seed}


def clip_settings(options: argparse.Namespace, sample: SampleClip) -> dict[str, Any]:
    """What decides a clip's edits."""
    return {**common_settings(options), "clip_sha256": sha256_of(sample.path)}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that other studies do not have."""
    parser.add_argument("--base", default="pocket", help="a base model's folder (default: pocket)")
    parser.add_argument("--learning-rate", type=float, help="default: what the base recommends, as for the next")
    parser.add_argument("--num-inference-steps", type=int)
    parser.add_argument("--invert-with", choices=INVERT_WITH, help="the prompt of inversion (default: likewise)")
    parser.add_argument("--guidance-scale", type=float, help="default: what the base recommends")
    parser.add_argument("--seed", type=int, default=33)
    parser.add_argument("--threads", type=int, help="of torch")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    EditStudy(
        name="pocket_edits",
        about=__doc__,
        edit_clip=edit_clip,
        summary=summary_by_kind,
        first="edits",
        columns=[Column(score, f"{score}.mean", "{:.2f}") for score in SCORES],
        clips=6,
        folder="clips",
        file="edits",
        add_options=add_options,
        settings=clip_settings,
    ).main(arguments, settings=lambda options, _: common_settings(options), clips=lambda _, clips: clips)


if __name__ == "__main__":
    main()
