"""What keeps edits near the clip: Pocket's sample clips, each tuned once, edited with every variant of inversion.

    python -m benchmarks.inversion_variants --out FOLDER [--clips 4]

Writes ``inversion_variants.json`` and a contact sheet per clip; what an earlier call finished is not made again. Runs
and bundles lie where ``benchmarks/precision_edits.py`` has them, so that both can share a folder.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.edit_study import EditStudy, Rows, StudyClip, means_of, score_columns
from benchmarks.pocket_judge import around
from tav_sdk.diffusion.inversion import Inversion, direct_offsets
from tav_sdk.evaluation.evaluate import reconstruction_psnr
from tav_sdk.pipeline.pipeline import Pipeline, load
from tav_sdk.progress import StepProgress, UNet
from tav_sdk.video.clip import Video, read_video

SCORES = ("all", "trajectory", "flicker", "clip_text", "clip_frame", "background_psnr")
STAY = ("subject", "color")  # kinds of edits that leave the background as it is
SHOWN = 2  # of a clip's edits on its sheet, a subject and a background


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How a clip is inverted, and edited from there.

    Attributes:
        invert: arguments of :meth:`~tav_sdk.pipeline.pipeline.Pipeline.invert`.
        edit: arguments of :meth:`~tav_sdk.pipeline.pipeline.Pipeline.edit`.
        guided: take the offsets of a direct inversion of GUIDED sampling with the caption, as Ju et al. (2024) do.
    """

    invert: Mapping[str, Any] = field(default_factory=dict)
    edit: Mapping[str, Any] = field(default_factory=dict)
    guided: bool = False


VARIANTS = {
    "none": Variant(),
    "negative-prompt": Variant(invert={"correction": "negative-prompt"}),
    "direct": Variant(invert={"correction": "direct"}),
    "direct, guided source": Variant(invert={"correction": "direct"}, guided=True),
    "inverted without a prompt": Variant(invert={"prompt": ""}),
    "none, guidance 2": Variant(edit={"guidance_scale": 2.0}),
}


def invert(pipeline: Pipeline, clip: Video, variant: Variant) -> Inversion:
    """A clip's inversion by a variant."""
    if not variant.guided:
        return pipeline.invert(clip, **variant.invert)
    latents: list[np.ndarray] = [pipeline.encode(clip)]

    def keep(step: StepProgress) -> None:
        if step.stage == "inversion":
            latents.append(np.asarray(step.latents))

    inversion = pipeline.invert(clip, callback=keep, **variant.invert)
    states, empty = pipeline.encode_prompt(inversion.prompt), pipeline.encode_prompt("")
    unet = guided(pipeline.unet, empty, pipeline.manifest.guidance_scale)
    return dataclasses.replace(inversion, offsets=direct_offsets(unet, np.stack(latents), states, pipeline.schedule))


def guided(unet: UNet, negative: np.ndarray, guidance_scale: float) -> UNet:
    """A U-Net whose prediction is that of classifier-free guidance."""

    def predict(sample: np.ndarray, timestep: np.ndarray, encoder_hidden_states: np.ndarray) -> np.ndarray:
        both = unet(np.concatenate([sample, sample]), timestep, np.concatenate([negative, encoder_hidden_states]))
        uncond, cond = np.split(both, 2)
        return uncond + guidance_scale * (cond - uncond)

    return predict


def background_psnr(source: np.ndarray, edit: np.ndarray, centers: np.ndarray) -> float:
    """PSNR in dB of an edit's frames against the source's, outside a square around the source's subject.

    Args:
        source: ``(f, h, w, 3)`` uint8.
        edit: likewise.
        centers: ``(f, 2)`` true middles (x, y) of the subject, fractions.
    """
    far = ~around(centers, *source.shape[1:3])  # (f, h, w)
    return reconstruction_psnr(source[far][None, None], edit[far][None, None])


def edit_clip(clip: StudyClip) -> tuple[dict[str, Any], Rows]:
    """Make one clip's edits by all variants, and judge them."""
    sample, results = clip.sample, {}
    shown: dict[str, Rows] = {edit.prompt: {} for edit in clip.edits[: 2 * SHOWN : 2]}
    bundle = clip.bundle(f"{sample.name}-fp32", quality=False)
    with load(bundle, cache=False) as pipeline:
        size = (pipeline.manifest.height, pipeline.manifest.width)
        source = read_video(sample.path, num_frames=pipeline.manifest.num_frames, size=size)
        for name, variant in VARIANTS.items():
            inversion, entries = invert(pipeline, source, variant), []
            for edit in clip.edits:
                frames = pipeline.edit(edit.prompt, inversion, **variant.edit).frames
                entry = clip.entry(edit, frames)
                if edit.kind in STAY:
                    entry["scores"]["background_psnr"] = background_psnr(source.frames, frames, sample.centers)
                entries.append(entry)
                if edit.prompt in shown:
                    shown[edit.prompt][name] = frames
            again = pipeline.edit(sample.caption, inversion, **variant.edit).frames
            results[name] = {"caption_psnr": reconstruction_psnr(source.frames, again), "edits": entries}
            clip.say(name, entries)
    rows = {f"source: {sample.caption}": source.frames}
    rows |= {f"{name}: {prompt}": frames for prompt, made in shown.items() for name, frames in made.items()}
    return results, rows


def summary(clips: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """For each variant the mean of every score over the edits that have it, and of the PSNR of the caption's video."""
    result = {}
    for name in VARIANTS:
        scores = means_of([edit for clip in clips for edit in clip[name]["edits"]], SCORES)
        result[name] = scores | {"caption_psnr": statistics.fmean(clip[name]["caption_psnr"] for clip in clips)}
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    EditStudy(
        name="inversion_variants",
        about=__doc__,
        edit_clip=edit_clip,
        summary=summary,
        first="variant",
        columns=score_columns((*SCORES, "caption_psnr")),
        clips=4,
        suffix=".variants",
    ).main(arguments)


if __name__ == "__main__":
    main()
