"""Write the trained parts as a diffusers folder, plus the whole CLIP for evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import CLIPImageProcessorPil

from tav_sdk.pocket import SAMPLES
from tav_sdk.training.base.recommended import RECOMMENDED_FILE
from tav_sdk.training.pocket.autoencoder import load_autoencoder
from tav_sdk.training.pocket.clip_model import load_clip, text_tower
from tav_sdk.training.pocket.config import PICTURE_SIZE, RECOMMENDED, TrainingSetting
from tav_sdk.training.pocket.controlnet import load_controlnet
from tav_sdk.training.pocket.samples import write_samples
from tav_sdk.training.pocket.text import write_tokenizer
from tav_sdk.training.pocket.unet import build_scheduler, load_unet


def export_pocket(setting: TrainingSetting, state: Path, folder: Path) -> int:
    """Export the training state in ``state`` to ``folder``; returns the U-Net's step.

    Layout: ``model_index.json``, ``tav_sdk.json``, ``unet/``, ``vae/``, ``text_encoder/``, ``tokenizer/``,
    ``scheduler/``, ``clip/``, ``controlnet/``, ``samples/``: all that ``tav_sdk/pocket`` holds but its code and model
    card.
    """
    unet, step = load_unet(setting, state)
    vae, clip = load_autoencoder(setting, state), load_clip(setting, state)
    folder.mkdir(parents=True, exist_ok=True)
    text_tower(clip, setting).save_pretrained(folder / "text_encoder")  # float32: it is small, and loads as stored
    controlnet, _ = load_controlnet(setting, state)
    for name, part in (("unet", unet), ("vae", vae), ("clip", clip), ("controlnet", controlnet)):
        torch.nn.Module.to(part, dtype=torch.float16)
        part.save_pretrained(folder / name)
    write_tokenizer(folder / "tokenizer")
    write_tokenizer(folder / "clip")
    build_scheduler().save_pretrained(folder / "scheduler")
    CLIPImageProcessorPil(
        size={"height": PICTURE_SIZE, "width": PICTURE_SIZE},
        crop_size={"height": PICTURE_SIZE, "width": PICTURE_SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    ).save_pretrained(folder / "clip")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": unet.config["_diffusers_version"],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    for name, content in (("model_index.json", index), (RECOMMENDED_FILE, RECOMMENDED)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    write_samples(folder / SAMPLES)
    return step
