"""The CLIP stage: a small CLIP trained by contrast on the world; its text tower conditions the U-Net."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig

from tav_sdk.training.pocket.autoencoder import autocast, picture_batch, place
from tav_sdk.training.pocket.config import PICTURE_SIZE, TrainingSetting
from tav_sdk.training.pocket.loop import Schedule, ThreadChoice, read_state, run_stage
from tav_sdk.training.pocket.text import MAX_TOKENS, bpe, build_tokenizer, tokenize

STAGE = "clip"


def text_config(setting: TrainingSetting) -> CLIPTextConfig:
    """Configuration of the text tower; start, end and padding ids are the tokenizer's."""
    vocab, _ = bpe()
    start, end = vocab["<|startoftext|>"], vocab["<|endoftext|>"]
    return CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=setting.clip_width,
        intermediate_size=4 * setting.clip_width,
        projection_dim=setting.clip_width,
        num_hidden_layers=setting.clip_layers,
        num_attention_heads=setting.clip_heads,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
    )


def build_clip(setting: TrainingSetting) -> CLIPModel:
    """A fresh CLIP for pictures of 64 pixels."""
    vision = CLIPVisionConfig(
        hidden_size=setting.clip_width,
        intermediate_size=4 * setting.clip_width,
        projection_dim=setting.clip_width,
        num_hidden_layers=setting.clip_layers,
        num_attention_heads=setting.clip_heads,
        image_size=PICTURE_SIZE,
        patch_size=setting.clip_patch,
    )
    return CLIPModel(
        CLIPConfig(
            text_config=text_config(setting).to_dict(),
            vision_config=vision.to_dict(),
            projection_dim=setting.clip_width,
        )
    )


def contrastive_loss(logits: torch.Tensor, captions: list[str]) -> torch.Tensor:
    """Symmetric cross-entropy over ``logits (b, b)``; pictures that share a caption share the target."""
    same = torch.tensor([[float(a == b) for a in captions] for b in captions], device=logits.device)
    target = same / same.sum(dim=1, keepdim=True)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target))


def train_clip(
    setting: TrainingSetting, folder: Path, *, max_steps: int | None = None, threads: ThreadChoice | None = None
) -> None:
    """Train both towers; writes ``clip.pt``."""
    torch.manual_seed(setting.seed)
    model = place(build_clip(setting), setting)
    tokenizer = build_tokenizer()

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        pixels, captions = picture_batch(setting.seed + 2, step * setting.clip_batch, setting.clip_batch)
        ids = tokenize(tokenizer, captions).to(setting.device)
        with autocast(setting):
            out = model(input_ids=ids, pixel_values=pixels.to(setting.device))
        return contrastive_loss(out.logits_per_text.float(), captions)

    run_stage(
        stage=STAGE,
        model=model,
        loss_of=loss_of,
        state_path=folder / "clip.pt",
        log_path=folder / "log.jsonl",
        schedule=Schedule(lr=setting.clip_lr, steps=setting.clip_steps, decay_from=setting.clip_steps // 2),
        seed=setting.seed,
        save_seconds=setting.save_seconds,
        max_steps=max_steps,
        threads=threads,
    )


def load_clip(setting: TrainingSetting, folder: Path) -> CLIPModel:
    """The trained CLIP in float32."""
    model = build_clip(setting)
    model.load_state_dict(read_state(folder / "clip.pt")["model"])
    return model.eval().requires_grad_(False)


def load_text_encoder(setting: TrainingSetting, folder: Path) -> CLIPTextModel:
    """The text tower alone, as Stable Diffusion ships it."""
    return text_tower(load_clip(setting, folder), setting)


def text_tower(clip: CLIPModel, setting: TrainingSetting) -> CLIPTextModel:
    """A ``CLIPTextModel`` with the weights of ``clip``'s text tower."""
    model = CLIPTextModel(text_config(setting))
    own = model.state_dict()
    source = clip.state_dict()
    picked = {}
    for name in own:
        for candidate in (name, f"text_model.{name}", name.removeprefix("text_model.")):
            if candidate in source:
                picked[name] = source[candidate]
                break
    model.load_state_dict(picked)
    return model.eval().requires_grad_(False)
