"""Measure a Pocket base: fresh prompts, fixed seeds, 50 DDIM steps, judged by ``pocket_classifier``; contact sheets.

``python -m benchmarks.pocket_base --out FOLDER [--base FOLDER | --state DIR] [--count 512]``
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import torch

from benchmarks import write_json
from benchmarks.pocket_classifier import classify, load_classifier
from tav_sdk.training.pocket.autoencoder import reconstruction_psnr
from tav_sdk.training.pocket.config import find_setting
from tav_sdk.training.pocket.sampler import Sampler, contact_sheet
from tav_sdk.training.pocket.world import scene_of

PROMPT_SEED = 424_242
_LOG = logging.getLogger(__name__)


def main() -> None:
    """Write ``scores.json``, ``sheet-*.png`` (no labels) and ``sheet-*.txt`` (the prompts)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="pocket", help="a base model's folder (default: pocket)")
    parser.add_argument("--state", type=Path, help="a folder of training state instead")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--setting", default="small", help="of the training state")
    parser.add_argument(
        "--classifier",
        type=Path,
        default=Path(__file__).with_name("pocket_classifier.safetensors"),
        help="weights of the judge (default: those in the repository)",
    )
    parser.add_argument("--count", type=int, default=512, help="prompts (default: 512)")
    parser.add_argument("--batch", type=int, default=32, help="pictures at a time, and on a sheet (default: 32)")
    parser.add_argument("--guidance-scale", type=float, default=3.5)
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.state:
        sampler = Sampler.of_state(find_setting(options.setting), options.state)
    else:
        sampler = Sampler.of_base(options.base)
    judge = load_classifier(options.classifier) if options.classifier.is_file() else None
    options.out.mkdir(parents=True, exist_ok=True)
    hits: dict[str, list[bool]] = {"subject": [], "background": [], "style": []}
    per_subject: dict[str, list[bool]] = {}
    for first in range(0, options.count, options.batch):
        scenes, prompts = zip(
            *(scene_of(PROMPT_SEED, k) for k in range(first, min(first + options.batch, options.count))), strict=True
        )
        pictures = sampler(list(prompts), seed=first, guidance_scale=options.guidance_scale)
        contact_sheet(pictures).save(options.out / f"sheet-{first:04d}.png")
        (options.out / f"sheet-{first:04d}.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
        if judge is None:
            continue
        for scene, verdict in zip(scenes, classify(judge, pictures), strict=True):
            for part, found in hits.items():
                found.append(getattr(scene, part) == getattr(verdict, part))
            per_subject.setdefault(scene.subject, []).append(scene.subject == verdict.subject)
        _LOG.info("%d: %s", first, {part: round(float(np.mean(found)), 3) for part, found in hits.items()})
    scores = {
        "benchmark": "pocket_base",
        "count": options.count,
        "guidance_scale": options.guidance_scale,
        **{part: float(np.mean(found)) for part, found in hits.items() if found},
        "per_subject": {name: float(np.mean(found)) for name, found in sorted(per_subject.items())},
        "reconstruction_psnr": reconstruction_psnr(sampler.vae, PROMPT_SEED),
    }
    write_json(str(options.out / "scores.json"), scores, options)
    _LOG.info("%s", json.dumps(scores))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
