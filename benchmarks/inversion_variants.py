"""What keeps edits near the clip: Pocket's sample clips, each tuned once, edited with every variant of inversion.

    python -m benchmarks.inversion_variants --out FOLDER [--clips 4]

Writes ``inversion_variants.json`` and a contact sheet a clip; what is there of an earlier call is not made again. Runs
and bundles lie where ``benchmarks/precision_edits.py`` has them, so that both can share a folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from benchmarks import progress, table, write_json
from benchmarks.pocket_editing import AROUND, Judge, edits_of, tuned_run
from tav_sdk.diffusion.inversion import Inversion, direct_offsets
from tav_sdk.evaluation.evaluate import reconstruction_psnr
from tav_sdk.export import ExportOptions, export_bundle
from tav_sdk.files import new_file, write_text
from tav_sdk.pipeline.pipeline import Pipeline, load
from tav_sdk.pocket import SampleClip, sample_clips
from tav_sdk.progress import UNet
from tav_sdk.training import load_run
from tav_sdk.video.clip import Video, read_video
from tav_sdk.video.contact_sheet import contact_sheet

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
    latents = [pipeline.encode(clip)]

    def keep(step: Any) -> None:
        if step.stage == "inversion":
            latents.append(step.latents)

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
    height, width = source.shape[1:3]
    xs, ys = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    far = (abs(xs - centers[:, :1]) > AROUND)[:, None, :] | (abs(ys - centers[:, 1:]) > AROUND)[:, :, None]  # (f, h, w)
    return reconstruction_psnr(source[far][None, None], edit[far][None, None])


def edit_clip(sample: SampleClip, folder: Path, *, num_train_steps: int | None, num_edits: int | None) -> None:
    """Make one clip's edits by all variants, and judge them."""
    run, bundle = tuned_run(sample, folder, num_train_steps), folder / "bundles" / f"{sample.name}-fp32"
    if not bundle.exists():
        export_bundle(load_run(run), bundle, ExportOptions(windows=False))
    edits, judge, results = edits_of(sample.name)[:num_edits], Judge(), {}
    with load(bundle, engine="onnxruntime-cpu", cache=False) as pipeline:
        size = (pipeline.manifest.height, pipeline.manifest.width)
        clip = read_video(sample.path, num_frames=pipeline.manifest.num_frames, size=size)
        rows: dict[str, dict[str, np.ndarray]] = {edit.prompt: {} for edit in edits[: 2 * SHOWN : 2]}
        for name, variant in VARIANTS.items():
            inversion, entries = invert(pipeline, clip, variant), []
            for edit in edits:
                frames = pipeline.edit(edit.prompt, inversion, **variant.edit).frames
                scores = dict(judge(frames, edit, sample.centers))
                if edit.kind in STAY:
                    scores["background_psnr"] = background_psnr(clip.frames, frames, sample.centers)
                entries.append({"kind": edit.kind, "prompt": edit.prompt, "scores": scores})
                if edit.prompt in rows:
                    rows[edit.prompt][name] = frames
            again = pipeline.edit(sample.caption, inversion, **variant.edit)
            psnr = reconstruction_psnr(clip.frames, again.frames)
            results[name] = {"caption_psnr": psnr, "edits": entries}
            progress(f"{sample.name}, {name}: " + shown(summary([results], name)))
    sheet = {f"source: {sample.caption}": clip.frames}
    sheet |= {f"{name}: {prompt}": frames for prompt, made in rows.items() for name, frames in made.items()}
    with new_file(folder / f"{sample.name}.variants.png") as path:
        Image.fromarray(contact_sheet(sheet, scale=2)).save(path, "PNG")
    write_text(folder / f"{sample.name}.variants.json", json.dumps(results, indent=2) + "\n")


def summary(clips: Sequence[dict[str, Any]], variant: str) -> dict[str, float | None]:
    """Of one variant: the mean of every score over the edits that have it, and of the PSNR of the caption's video."""
    edits = [edit for clip in clips for edit in clip[variant]["edits"]]
    found = {name: [edit["scores"][name] for edit in edits if name in edit["scores"]] for name in SCORES}
    means = {name: statistics.fmean(values) if values else None for name, values in found.items()}
    return means | {"caption_psnr": statistics.fmean(clip[variant]["caption_psnr"] for clip in clips)}


def shown(scores: Mapping[str, float | None]) -> str:
    """Scores on one line."""
    return ", ".join(f"{name} {value:.3g}" for name, value in scores.items() if value is not None)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--clips", type=int, default=4, metavar="N", choices=range(1, 9), help="the first N sample clips (default: 4)"
    )
    parser.add_argument("--edits", type=int, metavar="N", help="the first N of a clip's eight edits")
    parser.add_argument("--num-train-steps", type=int, help="default: what the base recommends")
    options = parser.parse_args(arguments)
    clips = []
    for sample in list(sample_clips().values())[: options.clips]:
        path = options.out / f"{sample.name}.variants.json"
        if not path.exists():
            edit_clip(sample, options.out, num_train_steps=options.num_train_steps, num_edits=options.edits)
        clips.append(json.loads(path.read_text()))
    result = {variant: summary(clips, variant) for variant in VARIANTS}
    write_json(str(options.out / "inversion_variants.json"), {"benchmark": "inversion_variants", "summary": result})
    names = (*SCORES, "caption_psnr")
    rows = [
        (variant, *("-" if scores[name] is None else f"{scores[name]:.3g}" for name in names))
        for variant, scores in result.items()
    ]
    print(table(("variant", *names), rows))


if __name__ == "__main__":
    main()
