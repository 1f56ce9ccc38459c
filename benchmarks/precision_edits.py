"""What low precision does to edits: sample clips of Pocket, each tuned once, exported and edited in every precision.

    python -m benchmarks.precision_edits --out FOLDER [--clips 3]

Half precision runs by way of copies that round as a GPU does, see ``export/parity.py``. PSNR is of an edit's frames
against those of the same edit in fp32. Writes ``precision_edits.json`` and a contact sheet a clip; what is there of an
earlier call is not made again.
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
from benchmarks.pocket_editing import Judge, edits_of, tuned_run
from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import UNET
from tav_sdk.bundle.precision import PRECISIONS
from tav_sdk.evaluation.evaluate import reconstruction_psnr
from tav_sdk.export import ExportOptions, export_bundle
from tav_sdk.export.quality import bundle_pipeline
from tav_sdk.files import new_file, write_text
from tav_sdk.pocket import SampleClip, sample_clips
from tav_sdk.training import load_run
from tav_sdk.video.clip import read_video
from tav_sdk.video.contact_sheet import contact_sheet

SCORES = ("subject", "background", "style", "all", "trajectory", "clip_text", "clip_frame")
REFERENCE = PRECISIONS[0]


def videos(bundle: Path, sample: SampleClip, prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """A video ``(f, h, w, 3)`` uint8 for each prompt."""
    with bundle_pipeline(Bundle(bundle)) as pipeline:
        inversion = pipeline.invert(read_video(sample.path, num_frames=pipeline.manifest.num_frames, size=(64, 64)))
        return {prompt: pipeline.edit(prompt, inversion).frames for prompt in prompts}


def edit_clip(sample: SampleClip, folder: Path, *, num_train_steps: int | None, num_edits: int | None) -> None:
    """Make one clip's edits in all precisions, and judge them."""
    run = tuned_run(sample, folder, num_train_steps)
    edits, judge, rows, results = edits_of(sample.name)[:num_edits], Judge(), {}, {}
    reference: dict[str, np.ndarray] = {}
    for precision in PRECISIONS:
        bundle = folder / "bundles" / f"{sample.name}-{precision}"
        if not bundle.exists():
            export_bundle(load_run(run), bundle, ExportOptions(precision=precision, quality=False, windows=False))
        made = videos(bundle, sample, [edit.prompt for edit in edits])
        reference = reference or made
        entries = []
        for edit in edits:
            scores = judge(made[edit.prompt], edit, sample.centers)
            psnr = reconstruction_psnr(reference[edit.prompt], made[edit.prompt]) if precision != REFERENCE else None
            entries.append({"kind": edit.kind, "prompt": edit.prompt, "psnr": psnr, "scores": scores})
        results[precision] = {
            "error": {name: entry.parity_max_abs for name, entry in Bundle(bundle).manifest.graphs.items()},
            "edits": entries,
        }
        rows |= {f"{precision}: {prompt}": frames for prompt, frames in list(made.items())[::2]}
        progress(f"{sample.name} in {precision}: error of the U-Net {results[precision]['error'][UNET]:.1e}")
    with new_file(folder / f"{sample.name}.png") as path:
        Image.fromarray(contact_sheet(rows, scale=2)).save(path, "PNG")
    write_text(folder / f"{sample.name}.json", json.dumps(results, indent=2) + "\n")


def summary(clips: Sequence[dict[str, Any]], precision: str) -> dict[str, float | None]:
    """Of one precision: median and least PSNR, and the mean of every score."""
    edits = [edit for clip in clips for edit in clip[precision]["edits"]]
    found = [edit["psnr"] for edit in edits if edit["psnr"] is not None]
    psnr = {"psnr_median": statistics.median(found), "psnr_least": min(found)} if found else {}
    return psnr | {name: statistics.fmean(edit["scores"][name] for edit in edits) for name in SCORES}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--clips", type=int, default=3, metavar="N", choices=range(1, 9), help="the first N sample clips (default: 3)"
    )
    parser.add_argument("--edits", type=int, metavar="N", help="the first N of a clip's eight edits")
    parser.add_argument("--num-train-steps", type=int, help="default: what the base recommends")
    options = parser.parse_args(arguments)
    clips = []
    for sample in list(sample_clips().values())[: options.clips]:
        path = options.out / f"{sample.name}.json"
        if not path.exists():
            edit_clip(sample, options.out, num_train_steps=options.num_train_steps, num_edits=options.edits)
        clips.append(json.loads(path.read_text()))
    result = {precision: summary(clips, precision) for precision in PRECISIONS}
    write_json(str(options.out / "precision_edits.json"), {"benchmark": "precision_edits", "summary": result})
    names = ("psnr_median", "psnr_least", *SCORES)
    rows = [
        (precision, *("-" if scores.get(name) is None else f"{scores[name]:.3g}" for name in names))
        for precision, scores in result.items()
    ]
    print(table(("precision", *names), rows))


if __name__ == "__main__":
    main()
