"""What a bundle has of its base: the tokenizer and the schedule as files, and entries of the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tav_sdk.bundle.layout import SCHEDULER, TOKENIZER
from tav_sdk.training.base.model import PretrainedBase


def write_base_files(base: PretrainedBase, folder: Path) -> None:
    """Write the base's tokenizer and schedule into a bundle's folder."""
    (folder / TOKENIZER).mkdir()
    base.load_tokenizer().save(folder / TOKENIZER)
    (folder / SCHEDULER).parent.mkdir()
    (folder / SCHEDULER).write_text(json.dumps(base.schedule.to_config(), indent=2) + "\n")


def base_entries(base: PretrainedBase) -> dict[str, Any]:
    """The fields of a :class:`~tav_sdk.bundle.manifest.Manifest` that the base alone decides."""
    return {
        "latent_channels": int(base.configs["vae"]["latent_channels"]),
        "vae_scale_factor": base.vae_scale_factor,
        "scaling_factor": base.scaling_factor,
        "num_inference_steps": base.recommended.num_inference_steps,
        "guidance_scale": base.recommended.guidance_scale,
        "invert_with": base.recommended.invert_with,
    }
