"""Configuration files: this project's, and those of the released code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.events import AliasEvent

from tav_sdk.errors import ConfigError, TavError
from tav_sdk.reading import MAX_DEPTH, checked_values, read_text
from tav_sdk.words import brief

MAX_BYTES = 256 << 10
"""Largest configuration file; the released code's have 1 KiB."""
ADVICE = "give a YAML file of keys and values, such as 'learning_rate: 3e-5'"
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

SECTIONS = ("train_data", "validation_data")
"""Keys of the released code that hold keys and values themselves; no other does."""

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
    values = read_yaml(path)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path} must hold keys and values, got {type(values).__name__}; {ADVICE}")
    if wrong := [key for key in values if not isinstance(key, str)]:
        raise ConfigError(f"{path} must have words as keys, got {brief(wrong[0])}; {ADVICE}")
    if ORIGINAL_MARK in values:
        return _translate(values, path)
    return dict(values), []


def read_yaml(path: str | Path) -> Any:
    """What a YAML file holds: one document without aliases, at most :data:`~tav_sdk.reading.MAX_DEPTH` deep.

    Raises:
        ConfigError: the file is missing, no regular file, larger than :data:`MAX_BYTES`, or no such YAML.
    """
    if not os.path.lexists(path):
        raise ConfigError(f"there is no configuration file {path}; {ADVICE}")
    text = read_text(path, max_bytes=MAX_BYTES, error=ConfigError, advice=ADVICE)
    try:
        values = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        # Beside YAMLError: what its constructors of dates and numbers raise.
        if isinstance(error, TavError):
            raise
        raise ConfigError(f"{path} cannot be read as YAML: {_one_line(error)}; {ADVICE}") from error
    return checked_values(values, what=str(path), error=ConfigError, advice=ADVICE)


class _Loader(yaml.SafeLoader):
    """Plain values only, of bounded depth, each key once, and no aliases: a few lines of them make any number."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(AliasEvent):
            raise self._problem("an alias (*name) is not read here; write the value out", self.peek_event().start_mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._problem(f"it is nested more than {MAX_DEPTH} deep", self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise self._problem(f"the key {brief(key.value)} is there twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    @staticmethod
    def _problem(problem: str, mark: Any) -> yaml.MarkedYAMLError:
        return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    text = getattr(error, "problem", None) or str(error) or type(error).__name__
    where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return f"{' '.join(text.split())[:200]}{where}"


def _translate(values: Mapping[str, Any], path: str | Path) -> tuple[dict[str, Any], list[str]]:
    ours: dict[str, Any] = {}
    left: dict[str, list[str]] = {}  # reason to keys
    for key, value in _flat(values, path).items():
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


def _flat(values: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """Keys of sections as ``section.key``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key not in SECTIONS:
            flat[key] = value
        elif not isinstance(value, Mapping):
            raise ConfigError(f"{key} in {path} must hold keys and values, got {brief(value)}; indent them below {key}")
        else:
            flat |= {f"{key}.{inner}": item for inner, item in value.items()}
    return flat
