"""What low precision does to edits: sample clips of Pocket, each tuned once, exported and edited in every precision.

    python -m benchmarks.precision_edits --out FOLDER [--clips 3]

Half precision runs by way of copies that round as a GPU does, see ``export/parity.py``. PSNR is of an edit's frames
against those of the same edit in fp32. Writes ``precision_edits.json`` and a contact sheet per clip; what an
earlier call finished is not made again.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.edit_study import EditStudy, Rows, StudyClip, means_of, score_columns
from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import UNET
from tav_sdk.bundle.precision import PRECISIONS
from tav_sdk.evaluation.evaluate import reconstruction_psnr
from tav_sdk.export.quality import bundle_pipeline
from tav_sdk.video.clip import read_video

SCORES = ("subject", "background", "style", "all", "trajectory", "clip_text", "clip_frame")
REFERENCE = PRECISIONS[0]


def videos(bundle: Path, clip: StudyClip) -> dict[str, np.ndarray]:
    """A video ``(f, h, w, 3)`` uint8 for each edit's prompt."""
    with bundle_pipeline(Bundle(bundle)) as pipeline:
        source = read_video(clip.sample.path, num_frames=pipeline.manifest.num_frames, size=(64, 64))
        inversion = pipeline.invert(source)
        return {edit.prompt: pipeline.edit(edit.prompt, inversion).frames for edit in clip.edits}


def edit_clip(clip: StudyClip) -> tuple[dict[str, Any], Rows]:
    """Make one clip's edits in all precisions, and judge them."""
    rows, results, reference = {}, {}, {}
    for precision in PRECISIONS:
        bundle = clip.bundle(f"{clip.sample.name}-{precision}", precision=precision, quality=False)
        made = videos(bundle, clip)
        reference = reference or made
        entries = []
        for edit in clip.edits:
            frames = made[edit.prompt]
            psnr = None if precision == REFERENCE else reconstruction_psnr(reference[edit.prompt], frames)
            entries.append(clip.entry(edit, frames, psnr=psnr))
        error = {name: entry.parity_max_abs for name, entry in Bundle(bundle).manifest.graphs.items()}
        results[precision] = {"error": error, "edits": entries}
        rows |= {f"{precision}: {prompt}": frames for prompt, frames in list(made.items())[::2]}
        clip.say(f"{precision}, error of the U-Net {error[UNET]:.1e}", entries)
    return results, rows


def summary(clips: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Median and least PSNR, and the mean of every score, for each precision."""
    result = {}
    for precision in PRECISIONS:
        edits = [edit for clip in clips for edit in clip[precision]["edits"]]
        found = [edit["psnr"] for edit in edits if edit["psnr"] is not None]
        psnr = {"psnr_median": statistics.median(found), "psnr_least": min(found)} if found else {}
        error = max(clip[precision]["error"][UNET] for clip in clips)
        result[precision] = {"unet_error": error} | psnr | means_of(edits, SCORES)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    EditStudy(
        name="precision_edits",
        about=__doc__,
        edit_clip=edit_clip,
        summary=summary,
        first="precision",
        columns=score_columns(("psnr_median", "psnr_least", *SCORES)),
        clips=3,
    ).main(arguments)


if __name__ == "__main__":
    main()
