"""Valid files of every format, made with the package that the import path gives: ``python seeds.py FOLDER``.

Run by its path, so that an older checkout makes its own.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

PROMPT = "a red square is moving over the meadow"


def make_seeds(folder: Path) -> None:
    """Tune and export a tiny model on a tiny clip, and write one file of each other format beside it."""
    from tav_sdk.export import export_bundle
    from tav_sdk.training import TuneConfig, make_tiny_base, tune

    folder.mkdir(parents=True, exist_ok=True)
    make_clips(folder / "video")
    make_tiny_base(folder / "base", block_out_channels=(8, 16), vae_channels=(4, 4, 8, 8), cross_attention_dim=16)
    tune(
        TuneConfig(
            base=str(folder / "base"),
            video=str(folder / "video" / "clip.mp4"),
            prompt=PROMPT,
            out=str(folder / "run"),
            num_frames=4,
            height=64,
            width=64,
            num_train_steps=2,
        )
    )
    export_bundle(folder / "run", folder / "bundle")
    make_others(folder)


def make_clips(folder: Path) -> None:
    """An mp4, a GIF and a PNG of 10 frames, 64x64."""
    read: Any = None
    for name in ("tav_sdk.video.clip", "tav_sdk.video"):
        try:
            read = importlib.import_module(name).Video
            break
        except (ImportError, AttributeError):
            continue
    rows, columns = np.mgrid[0:64, 0:64]
    frames = np.stack([np.stack([rows * 4, columns * 4, (rows + 5 * i) * 2 % 256], -1) for i in range(10)])
    clip = read(frames=frames.astype(np.uint8), fps=8)
    for suffix in ("mp4", "gif"):
        clip.save(folder / f"clip.{suffix}")
    from PIL import Image

    Image.fromarray(clip.frames[0]).save(folder / "clip.png")


def make_others(folder: Path) -> None:
    """What needs no model: a configuration, a record of edits, an inversion and a LoRA; ``base`` must be there."""
    from safetensors.numpy import save_file

    for name in ("config", "edits", "inversion"):
        (folder / name).mkdir(exist_ok=True)
    settings = ["base: b", "video: v.mp4", f"prompt: {PROMPT}", "out: o", "num_frames: 8", "height: 64", "width: 64"]
    settings += ["learning_rate: 3.0e-5", "loras: [a.safetensors]", "inflation:", "  preset: default", "seed: 33"]
    (folder / "config" / "config.yaml").write_text("\n".join(settings) + "\n", encoding="utf-8")
    edits = [{"file": f"{index:02}.mp4", "prompt": PROMPT} for index in range(2)]
    record = {"edits": edits, "num_inference_steps": 5, "guidance_scale": 7.5, "source": "source.mp4", "seed": None}
    (folder / "edits" / "edits.json").write_text(json.dumps(record), encoding="utf-8")
    latents = np.zeros((1, 4, 2, 4, 4), np.float32)
    facts = {"format_version": 1, "fps": 8.0, "prompt": "", "num_inversion_steps": 5, "correction": "none"}
    save_file(
        {"latents": latents, "source_latents": latents},
        folder / "inversion" / "inversion.safetensors",
        metadata={"inversion": json.dumps({**facts, "start_timestep": None})},
    )
    shutil.copytree(folder / "base", folder / "lora" / "base")
    config = json.loads((folder / "base" / "unet" / "config.json").read_text(encoding="utf-8"))
    width = config["block_out_channels"][0]
    place = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    lora = {f"{place}.lora_A.weight": (2, width), f"{place}.lora_B.weight": (width, 2)}
    save_file(
        {name: np.full(shape, 0.1, np.float32) for name, shape in lora.items()},
        folder / "lora" / "base" / "lora.safetensors",
        metadata={
            "lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 2, "unet.target_modules": ["to_q"]})
        },
    )


if __name__ == "__main__":
    make_seeds(Path(sys.argv[1]))
