"""A tiny random base model in Stable Diffusion's layout, for tests and for trying the tools. It draws noise."""

# diffusers and transformers annotate loosely:
# pyright: reportArgumentType=false

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.utils import logging as transformers_logging

from tav_sdk.files import new_folder

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""Stable Diffusion 1.4's."""


def make_tiny_base(
    out: str | Path,
    *,
    block_out_channels: tuple[int, ...] = (16, 32, 32, 64),
    vae_channels: tuple[int, ...] = (8, 8, 16, 16),
    cross_attention_dim: int = 32,
    prediction_type: str = "epsilon",
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write a base model of random weights in the diffusers layout.

    Four U-Net levels and a VAE factor of 8 by default, as Stable Diffusion has, so height and width are multiples
    of 64. The text encoder reads bytes, so that any prompt has tokens.

    Args:
        out: folder to write; must not exist, be empty, or ``overwrite`` be set.
        block_out_channels: U-Net widths, multiples of 4 (group norm); attention at all levels but the last.
        vae_channels: VAE widths; its factor is 2^(number - 1).
        cross_attention_dim: width of the text encoder.
        prediction_type: ``epsilon`` or ``v_prediction``.
        seed: of the weights.
        overwrite: replace what is there.

    Returns:
        The folder.

    Raises:
        OutputError: the folder is not empty.
    """
    with new_folder(out, overwrite=overwrite) as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformers_logging.disable_progress_bar()
        levels = len(block_out_channels)
        cross = levels - 1
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=block_out_channels,
            down_block_types=("CrossAttnDownBlock2D",) * cross + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * cross,
            norm_num_groups=4,
            cross_attention_dim=cross_attention_dim,
            attention_head_dim=4,
        )
        vae = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            block_out_channels=vae_channels,
            down_block_types=("DownEncoderBlock2D",) * len(vae_channels),
            up_block_types=("UpDecoderBlock2D",) * len(vae_channels),
            norm_num_groups=4,
            sample_size=64,
            scaling_factor=0.18215,
        )
        vocabulary = _write_tokenizer(folder / "tokenizer")
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary),
                hidden_size=cross_attention_dim,
                intermediate_size=2 * cross_attention_dim,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=77,
                bos_token_id=vocabulary["<|startoftext|>"],
                eos_token_id=vocabulary["<|endoftext|>"],
                pad_token_id=vocabulary["<|endoftext|>"],
            )
        )
        unet.save_pretrained(folder / "unet")
        vae.save_pretrained(folder / "vae")
        text_encoder.save_pretrained(folder / "text_encoder")
        DDIMScheduler(**SCHEDULER, prediction_type=prediction_type).save_pretrained(folder / "scheduler")
        index = {
            "_class_name": "StableDiffusionPipeline",
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return Path(out)


def _write_tokenizer(folder: Path) -> dict[str, int]:
    """A CLIP tokenizer of single bytes and a few merges, in CLIP's own two files."""
    letters = _byte_symbols()
    merges = [("a", "n</w>"), ("t", "h"), ("th", "e</w>"), ("i", "n"), ("in", "g</w>"), ("s", "k"), ("o", "n</w>")]
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2"] + [" ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "errors": "replace",
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return vocabulary


def _byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes of GPT-2's and CLIP's byte-level BPE."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = {byte: chr(byte) for byte in printable}
    hidden = [byte for byte in range(256) if byte not in symbols]
    symbols |= {byte: chr(256 + index) for index, byte in enumerate(hidden)}
    return [symbols[byte] for byte in range(256)]
