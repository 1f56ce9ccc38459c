"""The tokenizer: CLIP's byte-level BPE, trained on the world's captions; any other prompt falls back to bytes."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from tav_sdk.training.pocket.config import SEED
from tav_sdk.training.pocket.world import scene_of

MAX_TOKENS = 77
START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"


@lru_cache(maxsize=1)
def bpe() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges, always the same: every word of the captions becomes one token."""
    captions = sorted({scene_of(SEED, index)[1] for index in range(20000)})
    words = sorted({word.strip(",") for caption in captions for word in caption.lower().split()} | {","})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=_WORD_END))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        min_frequency=1,
        end_of_word_suffix=_WORD_END,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(words)], trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in trained["merges"]]
    tokens = [
        *alphabet,
        *(letter + _WORD_END for letter in alphabet),
        *("".join(merge) for merge in merges),
        START,
        END,
    ]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def build_tokenizer() -> CLIPTokenizer:
    """The tokenizer, 77 positions, padded with the end token as in Stable Diffusion."""
    vocab, merges = bpe()
    return CLIPTokenizer(vocab=dict(vocab), merges=cast(Any, list(merges)), model_max_length=MAX_TOKENS)


def write_tokenizer(folder: Path) -> None:
    """Write ``tokenizer.json``, ``vocab.json``, ``merges.txt`` and the configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer().save_pretrained(str(folder))
    vocab, merges = bpe()
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids ``(b, 77) int64`` of the captions, truncated and padded."""
    encoded = tokenizer(captions, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    return encoded["input_ids"]
