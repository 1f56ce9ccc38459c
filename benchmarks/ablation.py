"""The paper's ablations (figures 8 to 10) as tables: every row edits the same clips, from their noise and from random.

    python -m benchmarks.ablation --out FOLDER [--clips 4 --edits 4 --seeds 2]

Each row is a way to inflate the base, tuned on the clip or not. Each row starts its edits from the clip inverted by
the row's own model, and from random noise that is the same for every row. ``tuning only`` is the image model's
spatial attention with the query projections tuned and no layer that joins frames; with temporal attention beside it,
it is the paper's VDM baseline. ``SC-Attn only`` needs no temporal attention: untuned, that is the identity.

Writes ``parts/ROW-CLIP-SEED.npz`` (the frames; one that is there with the same base and settings is not made again),
``ablation.json`` (the scores of every edit), ``ablation.md`` (the tables) and two contact sheets. Only the frames are
kept, and judged in every run: a changed judge costs no new edits.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image

from benchmarks import interleave, progress, spread, table, write_json
from benchmarks.edit_tables import ABLATION_TIME, ablation_scores
from benchmarks.pocket_editing import INVERT_WITH, NUM_FRAMES, SIZE, ClipEditor, Edit, edits_of, settings_of
from benchmarks.pocket_judge import Judge
from tav_sdk.diffusion.sampling import draw_noise
from tav_sdk.files import new_file, write_text
from tav_sdk.pocket import SampleClip, find_base, sample_clips
from tav_sdk.training import InflationOptions, PretrainedBase, inflate
from tav_sdk.training.torch_pipeline import unet_engine
from tav_sdk.video.contact_sheet import contact_sheet

STARTS = ("inverted", "noise")
SCORES = ("subject", "background", "style", "all", "trajectory", "flicker", "clip_text", "clip_frame")
COSTS = ("tuning step", "U-Net call")


@dataclass(frozen=True)
class Row:
    """One way to inflate the base; ``key`` names its files."""

    key: str
    name: str
    options: InflationOptions = field(default_factory=InflationOptions)
    tuned: bool = True


OURS = Row("ours", "ours: SC-Attn + temporal, tuned")
ROWS = (
    Row("untuned", "untuned, spatial attention", InflationOptions(attention="spatial", temporal=False), tuned=False),
    Row("tuning", "tuning only", InflationOptions(attention="spatial", temporal=False)),
    Row("sc-attn", "SC-Attn only", InflationOptions(temporal=False), tuned=False),
    OURS,
    Row("vdm", "VDM baseline: spatial + temporal", InflationOptions(attention="spatial")),
    Row("first", "first-frame attention", InflationOptions(attention="first")),
    Row("causal", "causal attention", InflationOptions(attention="causal")),
    Row("full", "full attention", InflationOptions(attention="full")),
    Row("original", "original preset", InflationOptions(preset="original")),
)


def made_with(settings: dict[str, Any], row: Row, editor: ClipEditor, seed: int, *, first: bool) -> dict[str, Any]:
    """All that decides the frames of a part, as plain values; ``first``: of the run's seeds.

    An untuned model inverts a clip to the same noise whatever the seed, so only its first part has edits from there.
    """
    return settings | {
        "num_train_steps": settings["num_train_steps"] if row.tuned else 0,
        "inflation": row.options.to_dict(),
        "clip_sha256": editor.clip.content_hash,
        "prompts": [edit.prompt for edit in editor.edits],
        "seed": seed,
        "starts": [start for start in STARTS if start == "noise" or row.tuned or first],
    }


def chosen_edits(name: str, count: int) -> list[Edit]:
    """The first ``count`` edits of a clip, one of each kind before the second ones."""
    edits = edits_of(name)
    return (edits[0::2] + edits[1::2])[:count]


def read_part(path: Path, settings: dict[str, Any]) -> dict[str, np.ndarray] | None:
    """The frames of a part by start, ``(edits, f, h, w, 3)`` each; ``None`` if there is none of these settings."""
    if not path.is_file():
        return None
    with np.load(path) as part:
        if json.loads(str(part["settings"])) != settings:
            return None
        return {start: part[start] for start in settings["starts"]}


def make_part(path: Path, row: Row, editor: ClipEditor, settings: dict[str, Any]) -> None:
    """Tune (if the row does), edit from the inverted clip and from noise, and write the frames."""
    began = time.perf_counter()
    steps, seed = settings["num_inference_steps"], settings["seed"]
    model, tuning = editor.model(
        row.options,
        num_train_steps=settings["num_train_steps"],
        learning_rate=settings["learning_rate"],
        seed=seed,
    )
    frames = {}
    with editor.pipeline(model) as pipeline:
        for start in settings["starts"]:
            where = seed if start == "noise" else editor.invert(pipeline, steps, settings["invert_with"])
            frames[start] = editor.edit(pipeline, where, steps, settings["guidance_scale"])
    with new_file(path) as temporary:
        np.savez_compressed(temporary, settings=json.dumps(settings), **frames)
    progress(f"{path.stem}: {time.perf_counter() - began:.0f} s, {tuning:.0f} s of them tuning")


def judged(
    judge: Judge, row: Row, sample: SampleClip, seed: int, edits: Sequence[Edit], frames: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """One entry for each edit and start of a part."""
    entries = []
    for start, videos in frames.items():
        for edit, video in zip(edits, videos, strict=True):
            what = {"row": row.key, "clip": sample.name, "seed": seed, "start": start}
            scores = judge(video, edit, sample.centers)
            entries.append({**what, "kind": edit.kind, "prompt": edit.prompt, "scores": scores})
    return entries


def measure_costs(rows: Iterable[Row], editor: ClipEditor, rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds of a tuning step and of a U-Net call on one video for each row, in turn; ``ratio`` is that to ours."""
    rows = list(dict.fromkeys((OURS, *rows)))
    with editor.pipeline(inflate(editor.base.load_unet(), OURS.options, NUM_FRAMES)) as pipeline:
        feeds = {
            "sample": draw_noise(pipeline.manifest.latents_shape, 0),
            "timestep": np.asarray(500),
            "encoder_hidden_states": pipeline.encode_prompt(""),
        }
    candidates: dict[str, Any] = {}
    for row in rows:
        model = inflate(editor.base.load_unet(), row.options, NUM_FRAMES)
        if row.tuned:
            tuner = editor.tuner(model, row.options, num_train_steps=1, learning_rate=1e-4, seed=0)
            candidates[f"{row.key} tuning step"] = tuner.step
        engine = unet_engine(editor.base, model, height=SIZE, width=SIZE)
        candidates[f"{row.key} U-Net call"] = lambda engine=engine: engine.run(feeds)
    seconds = interleave(candidates, rounds)
    costs: dict[str, dict[str, Any]] = {}
    for row in rows:
        for what in COSTS:
            if values := seconds.get(f"{row.key} {what}"):
                ours = spread(seconds[f"{OURS.key} {what}"])["median"]
                costs.setdefault(row.key, {})[what] = {**spread(values), "ratio": spread(values)["median"] / ours}
    return costs


def summary(entries: Iterable[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean, median and standard deviation of every score over clips, edits and seeds."""
    scores = [entry["scores"] for entry in entries]
    values = {name: [score[name] for score in scores] for name in SCORES}
    return {
        name: {
            "mean": statistics.fmean(v),
            "median": statistics.median(v),
            "std": statistics.pstdev(v),
            "count": len(v),
        }
        for name, v in values.items()
        if v
    }


def tables(rows: Sequence[Row], summaries: dict[str, dict[str, Any]], costs: dict[str, dict[str, Any]]) -> str:
    """The Markdown of ``ablation.md``: a table for each start, and the costs."""
    names = {row.key: row.name for row in rows}
    measured = {"summary": summaries, "costs": {key: costs.get(key, {}) for key in names}}
    layouts = {
        "Edits from the inverted clip": ablation_scores("inverted", "inverted"),
        "Edits from random noise": ablation_scores("noise", "noise"),
        "Time, ours = 1": ABLATION_TIME,
    }
    parts = (
        f"### {title}\n\n{table(*dataclasses.replace(layout, names=names).lines(measured))}\n"
        for title, layout in layouts.items()
    )
    return "\n".join(parts)


def write_sheets(out: Path, rows: Sequence[Row], source: np.ndarray, caption: str, shown: dict[str, Any]) -> None:
    """For each start a contact sheet: the source and each row's video of one edit."""
    for start in STARTS:
        clips = {f"source: {caption}": source, **{row.name: shown[row.key][start] for row in rows}}
        with new_file(out / f"ablation-{start}.png") as path:
            Image.fromarray(contact_sheet(clips, scale=2)).save(path, "PNG")


def run(options: argparse.Namespace) -> str:
    """Make what is missing, judge everything, write the results; returns the tables."""
    rows = [row for row in ROWS if row.key in options.rows]
    base = PretrainedBase(find_base(options.base))
    settings = settings_of(base, options)
    seeds = [options.seed + index for index in range(options.seeds)]
    judge, entries, shown, costs = Judge(), [], {}, None
    first: ClipEditor | None = None
    for sample in list(sample_clips().values())[: options.clips]:
        editor = ClipEditor(base, sample, chosen_edits(sample.name, options.edits))
        if costs is None:
            first, costs = editor, measure_costs(rows, editor, options.rounds)
        for row in rows:
            for seed in seeds:
                path = options.out / "parts" / f"{row.key}-{sample.name}-{seed}.npz"
                expected = made_with(settings, row, editor, seed, first=seed == seeds[0])
                if read_part(path, expected) is None:
                    make_part(path, row, editor, expected)
                frames = read_part(path, expected) or {}
                entries += judged(judge, row, sample, seed, editor.edits, frames)
                shown.setdefault(row.key, {start: videos[0] for start, videos in frames.items()})
    summaries = {
        start: {row.key: summary(e for e in entries if (e["row"], e["start"]) == (row.key, start)) for row in rows}
        for start in STARTS
    }
    text = tables(rows, summaries, costs or {})
    result = {"settings": settings, "seeds": seeds, "costs": costs, "summary": summaries, "edits": entries}
    write_json(str(options.out / "ablation.json"), {"benchmark": "ablation", **result}, options)
    write_text(options.out / "ablation.md", text)
    assert first is not None
    write_sheets(options.out, rows, first.clip.frames, first.sample.caption, shown)
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="pocket", help="a base model's folder (default: pocket)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=[row.key for row in ROWS], default=[row.key for row in ROWS])
    parser.add_argument(
        "--clips", type=int, default=4, metavar="N", choices=range(1, 9), help="the first N sample clips (default: 4)"
    )
    parser.add_argument("--edits", type=int, default=4, metavar="N", help="of each clip (default: 4, one of each kind)")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="of tuning and of the noise (default: 2)")
    parser.add_argument("--seed", type=int, default=33, help="the first of them")
    parser.add_argument("--num-train-steps", type=int, help="default: what the base recommends, as for the next")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--num-inference-steps", type=int)
    parser.add_argument("--invert-with", choices=INVERT_WITH, help="the prompt of inversion (default: likewise)")
    parser.add_argument("--guidance-scale", type=float, help="default: what the base recommends")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of measuring the time (default: 5)")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--quick", action="store_true", help="a tiny run, whose numbers mean nothing")
    options = parser.parse_args(arguments)
    if options.quick:
        tiny = {"clips": 1, "edits": 1, "seeds": 1, "rounds": 1, "num_train_steps": 2, "num_inference_steps": 2}
        vars(options).update(tiny)
    if options.threads:
        torch.set_num_threads(options.threads)
    print(run(options))


if __name__ == "__main__":
    main()
