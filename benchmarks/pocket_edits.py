"""Is Pocket good enough for one-shot editing: its sample clips, tuned and edited in eight ways each, judged.

    python -m benchmarks.pocket_edits --out FOLDER [--clips 6]

Writes ``edits.json``, and for every clip ``clips/NAME.json`` and the contact sheet ``clips/NAME.png``. A clip that was
finished with the same base and settings is not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from PIL import Image

from benchmarks import progress, table, write_json
from benchmarks.pocket_editing import INVERT_WITH, KINDS, ClipEditor, Judge, as_unet, edits_of, settings_of
from tav_sdk.files import new_file, sha256_of, write_text
from tav_sdk.pocket import SampleClip, find_base, sample_clips
from tav_sdk.training import InflationOptions, PretrainedBase
from tav_sdk.video.contact_sheet import contact_sheet

SCORES = ("subject", "background", "style", "all", "color", "trajectory", "clip_text", "clip_frame")


def edit_clip(
    base: PretrainedBase,
    judge: Judge,
    sample: SampleClip,
    settings: dict[str, Any],
    folder: Path,
    num_edits: int | None,
) -> dict[str, Any]:
    """Tune on one clip, make and judge its edits; the contact sheet is written first, the scores last."""
    editor = ClipEditor(base, sample, edits_of(sample.name)[:num_edits])
    model, tuning = editor.model(
        InflationOptions(),
        num_train_steps=settings["num_train_steps"],
        learning_rate=settings["learning_rate"],
        seed=settings["seed"],
    )
    progress(f"{sample.name}: tuned in {tuning:.0f} s")
    unet, steps = as_unet(model), settings["num_inference_steps"]
    began = time.perf_counter()
    noise = editor.invert(unet, steps, settings["invert_with"])
    inverting = time.perf_counter() - began
    videos = editor.edit(unet, noise, steps, settings["guidance_scale"])  # (edits, f, h, w, 3)
    sampling = time.perf_counter() - began - inverting
    entries, rows = [], {f"source: {sample.caption}": editor.clip.frames}
    for edit, frames in zip(editor.edits, videos, strict=True):
        scores = judge(frames, edit, sample.centers)
        entries.append({**dataclasses.asdict(edit), "scores": scores})
        marks = ", ".join(f"{name} {scores[name]:.2f}" for name in SCORES[:6] if scores[name] is not None)
        rows[f"{edit.kind}: {edit.prompt} ({marks})"] = frames
    with new_file(folder / f"{sample.name}.png") as path:
        Image.fromarray(contact_sheet(rows, scale=2)).save(path, "PNG")
    result = {
        "clip": sample.name,
        "caption": sample.caption,
        "settings": settings,
        "edits": entries,
        "seconds": {"tuning": tuning, "inversion": inverting, "sampling": sampling},
    }
    write_text(folder / f"{sample.name}.json", json.dumps(result, indent=2) + "\n")
    return result


def finished(path: Path, settings: dict[str, Any], num_edits: int) -> dict[str, Any] | None:
    """What an earlier run wrote, unless its base, settings or number of edits were others."""
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    return result if result["settings"] == settings and len(result["edits"]) == num_edits else None


def summary(edits: Iterable[dict[str, Any]]) -> dict[str, dict[str, float] | None]:
    """Mean and median of every score; ``None`` where no edit has it."""
    edits = list(edits)
    result: dict[str, dict[str, float] | None] = {}
    for name in SCORES:
        values = [edit["scores"][name] for edit in edits if edit["scores"][name] is not None]
        result[name] = {"mean": statistics.fmean(values), "median": statistics.median(values)} if values else None
    return result


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All clips that are not finished, then the summary of all."""
    base = PretrainedBase(find_base(options.base))
    common = {**settings_of(base, options), "seed": options.seed}
    judge, results = Judge(), []
    for sample in list(sample_clips().values())[: options.clips]:
        settings = {**common, "clip_sha256": sha256_of(sample.path)}
        count = len(edits_of(sample.name)[: options.edits])
        result = finished(options.out / "clips" / f"{sample.name}.json", settings, count)
        if result is None:
            result = edit_clip(base, judge, sample, settings, options.out / "clips", options.edits)
        else:
            progress(f"{sample.name}: finished before")
        means = {name: value["mean"] for name, value in summary(result["edits"]).items() if value}
        progress(f"{sample.name}: " + ", ".join(f"{name} {mean:.2f}" for name, mean in means.items()))
        results.append(result)
    edits = [edit for result in results for edit in result["edits"]]
    return {
        "benchmark": "pocket_edits",
        "settings": common,
        "summary": {
            "all": summary(edits),
            **{kind: summary(edit for edit in edits if edit["kind"] == kind) for kind in KINDS},
        },
        "clips": results,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="pocket", help="a base model's folder (default: pocket)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--clips", type=int, default=6, metavar="N", choices=range(1, 9), help="the first N sample clips (default: 6)"
    )
    parser.add_argument("--edits", type=int, metavar="N", help="the first N of a clip's eight edits")
    parser.add_argument("--num-train-steps", type=int, help="default: what the base recommends, as for the next")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--num-inference-steps", type=int)
    parser.add_argument("--invert-with", choices=INVERT_WITH, help="the prompt of inversion (default: likewise)")
    parser.add_argument("--guidance-scale", type=float, help="default: what the base recommends")
    parser.add_argument("--seed", type=int, default=33)
    parser.add_argument("--threads", type=int, help="of torch")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    result = run(options)
    write_json(str(options.out / "edits.json"), result)
    rows = [
        (kind, *(f"{scores[name]['mean']:.2f}" if scores[name] else "-" for name in SCORES))
        for kind, scores in result["summary"].items()
    ]
    print(table(("edits", *SCORES), rows))


if __name__ == "__main__":
    main()
