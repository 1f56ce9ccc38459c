"""Configuration files: this project's, and those of the released code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tav_sdk.errors import ConfigError

ORIGINAL_MARK = "pretrained_model_path"
RENAMED = {
    "pretrained_model_path": "base",
    "output_dir": "out",
    "train_data.video_path": "video",
    "train_data.prompt": "prompt",
    "train_data.n_sample_frames": "num_frames",
    "train_data.width": "width",
    "train_data.height": "height",
    "train_data.sample_start_idx": "start",
    "train_data.sample_frame_rate": "stride",
    "learning_rate": "learning_rate",
    "max_train_steps": "num_train_steps",
    "max_grad_norm": "max_grad_norm",
    "adam_beta1": "adam_beta1",
    "adam_beta2": "adam_beta2",
    "adam_weight_decay": "adam_weight_decay",
    "adam_epsilon": "adam_epsilon",
    "checkpointing_steps": "checkpointing_steps",
    "gradient_checkpointing": "gradient_checkpointing",
    "seed": "seed",
}
"""The released code's key to ours."""

FIXED: dict[str, Any] = {
    "train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "use_8bit_adam": False,
    "scale_lr": False,
    "lr_scheduler": "constant",
    "resume_from_checkpoint": None,
    "trainable_modules": ["attn1.to_q", "attn2.to_q", "attn_temp"],
}
"""Keys whose only supported value is the released code's own; nothing is lost when they have it."""

SILENT = ("enable_xformers_memory_efficient_attention", "lr_warmup_steps")
"""Without effect here or there: attention is always memory-efficient, and a constant rate has no warm-up."""

INSTEAD = {
    "validation_data": "tuning does not edit; use tav export and then tav edit",
    "validation_steps": "tuning does not edit; use tav export and then tav edit",
    "trainable_modules": "only attn1.to_q, attn2.to_q and attn_temp are tuned",
    "mixed_precision": "chosen for the device, unless it is given beside this file",
    "resume_from_checkpoint": "use resume",
    "train_batch_size": "one clip per step",
    "gradient_accumulation_steps": "one clip per step",
    "use_8bit_adam": "AdamW keeps its state in float32",
    "scale_lr": "learning_rate is taken as it is",
    "lr_scheduler": "the learning rate is constant",
}


def read_config(path: str | Path) -> tuple[dict[str, Any], list[str]]:
    """Read a YAML file of this project's schema or of the released code's.

    The released code's file (it has ``pretrained_model_path``) is translated; its keys that cannot be honoured are
    named in the notes.

    Returns:
        Fields of :class:`TuneConfig`, possibly not all, and notes for the user.

    Raises:
        ConfigError: the file is missing, is no YAML, or is no mapping.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no configuration file {path}") from error
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path} must hold keys and values, got {type(values).__name__}")
    if ORIGINAL_MARK in values:
        return _translate(values)
    return dict(values), []


def _translate(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    ours: dict[str, Any] = {}
    left: dict[str, list[str]] = {}  # reason to keys
    for key, value in _flat(values).items():
        section = key.partition(".")[0]
        if key in RENAMED:
            ours[RENAMED[key]] = value
        elif key in SILENT or (key in FIXED and value == FIXED[key]):
            continue
        else:
            reason = INSTEAD.get(key) or INSTEAD.get(section) or "there is no such setting here"
            left.setdefault(reason, []).append(key)
    notes = [
        f"{', '.join(keys)} {'is' if len(keys) == 1 else 'are'} not honoured: {reason}" for reason, keys in left.items()
    ]
    notes.append("the defaults differ from the released code's formulas; preset original computes those")
    return ours, notes


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of sections as ``section.key``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": item for inner, item in value.items()}
        else:
            flat[str(key)] = value
    return flat
