"""Options of inflation and tuning: frozen, validated on construction, the same in files and in Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tav_sdk.diffusion.schedule import PredictionType
from tav_sdk.errors import ConfigError
from tav_sdk.pocket import POCKET
from tav_sdk.training.base.lora_file import LoraFile
from tav_sdk.training.base.recommended import read_recommended
from tav_sdk.training.config_checks import (
    MAX_LORAS,
    MAX_WEIGHT_DECAY,
    POSITIVE,
    WHOLE,
    cast_field,
    check_bool,
    check_choice,
    check_finite,
    check_keys,
    check_prompt,
    check_text,
    check_whole,
)
from tav_sdk.words import brief

Preset = Literal["default", "original"]
TemporalMask = Literal["causal", "none"]
GroupNormMode = Literal["frame", "video"]
AttentionMode = Literal["sparse_causal", "spatial", "first", "causal", "full"]
MixedPrecision = Literal["no", "fp16", "bf16"]

OF_THE_BASE: Any = None
"""Default of a field that the base decides; see :mod:`tav_sdk.training.base.recommended`."""
BY_THE_BASE = ("height", "width", "num_train_steps", "learning_rate")


@dataclass(frozen=True, kw_only=True)
class InflationOptions:
    """How an image U-Net becomes a video U-Net (paper, section 4.1 and figures 4 and 6).

    ``preset`` sets ``temporal_mask`` and ``group_norm`` where they are not given: ``default`` is ``causal`` and
    ``frame``; ``original`` is ``none`` and ``video``, which reproduces the released code.

    Attributes:
        preset: ``default`` or ``original``.
        temporal_mask: ``causal``: a frame attends to itself and former frames (as the paper says); ``none``: to all
            frames (as its released code does).
        group_norm: statistics of the resnets' and the last group norm per ``frame``, or over the whole ``video``.
        attention: which frames give keys and values to spatial self-attention: ``sparse_causal`` (the first and the
            former), ``spatial`` (its own), ``first``, ``causal`` (all up to its own) or ``full`` (all).
        temporal: whether temporal attention is added after each transformer block.

    Raises:
        ConfigError: a value is none of those above.
    """

    preset: Preset = "default"
    temporal_mask: TemporalMask | None = None
    group_norm: GroupNormMode | None = None
    attention: AttentionMode = "sparse_causal"
    temporal: bool = True

    def __post_init__(self) -> None:
        check_choice("preset", self.preset, Preset)
        original = self.preset == "original"
        if self.temporal_mask is None:
            object.__setattr__(self, "temporal_mask", "none" if original else "causal")
        if self.group_norm is None:
            object.__setattr__(self, "group_norm", "video" if original else "frame")
        check_choice("temporal_mask", self.temporal_mask, TemporalMask)
        check_choice("group_norm", self.group_norm, GroupNormMode)
        check_choice("attention", self.attention, AttentionMode)
        check_bool("temporal", self.temporal)

    def to_dict(self) -> dict[str, Any]:
        """The options as plain values, for records and manifests."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InflationOptions:
        """The inverse of :meth:`to_dict`; an unknown key is a ``ConfigError`` that names the nearest known one."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"the inflation options must be keys and values, got {brief(values)}")
        check_keys(values, (f.name for f in dataclasses.fields(cls)), "the inflation options")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Everything that decides the outcome of one-shot tuning (paper, section 4.2).

    Size, steps and learning rate default to what the base recommends, otherwise to the paper's (512, 300, 3e-5). They
    are looked up on construction, so that a configuration always holds numbers.

    Attributes:
        base: the base model: a folder in the diffusers layout, a single-file ``.safetensors`` checkpoint, a Hugging
            Face id, or ``pocket``, the one in the package; see :class:`~tav_sdk.training.PretrainedBase`.
        video: the clip's file.
        prompt: the clip's caption, at most 77 tokens.
        out: the run folder to write.
        num_frames: frames taken from the clip, at least 1.
        start: index of the first frame taken.
        stride: distance between frames taken.
        height: pixels, a multiple of the base's (64 for Stable Diffusion).
        width: pixels, likewise.
        num_train_steps: optimizer steps.
        learning_rate: AdamW's, constant.
        adam_beta1: AdamW's first decay rate.
        adam_beta2: AdamW's second decay rate.
        adam_epsilon: AdamW's denominator term.
        adam_weight_decay: AdamW's decoupled weight decay.
        max_grad_norm: the gradient's norm is clipped to this.
        seed: of new weights, timesteps and noise; same seed, same result on the same machine.
        mixed_precision: ``no``, ``fp16`` or ``bf16``; ``None`` takes bf16 on a GPU, or fp16 if it has no
            bf16, and ``no`` on a CPU.
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a third slower.
        checkpointing_steps: keep a snapshot of the tuned weights, and the state that ``resume`` needs, every so many
            steps.
        inflation: how the base is inflated.
        allow_pickle: read a base's ``.bin`` weights (with ``weights_only=True``) where it has no ``.safetensors``.
        loras: LoRA files, ``FILE`` or ``FILE:SCALE``, which are fused into the base before it is inflated.
        tokenizer: folder of a CLIP tokenizer, for a base that has none.
        prediction_type: ``epsilon`` or ``v_prediction``, if the base does not say so.
        revision: branch, tag or commit of a base on the hub; the run records the commit.
        local_files_only: take a model on the hub from the cache only; download nothing.

    Raises:
        ConfigError: a value is out of range.
        PromptError: the prompt is empty.
        BaseModelError: the base's recommendation is damaged.
    """

    base: str = POCKET
    video: str
    prompt: str
    out: str
    num_frames: int = 8
    start: int = 0
    stride: int = 1
    height: int = OF_THE_BASE
    width: int = OF_THE_BASE
    num_train_steps: int = OF_THE_BASE
    learning_rate: float = OF_THE_BASE
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    adam_weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    seed: int = 33
    mixed_precision: MixedPrecision | None = None
    gradient_checkpointing: bool = False
    checkpointing_steps: int = 100
    inflation: InflationOptions = field(default_factory=InflationOptions)
    allow_pickle: bool = False
    loras: tuple[str, ...] = ()
    tokenizer: str | None = None
    prediction_type: str | None = None
    revision: str | None = None
    local_files_only: bool = False

    def __post_init__(self) -> None:
        for name in ("base", "video", "out"):
            object.__setattr__(self, name, check_text(name, getattr(self, name)))
        self._take_base_options()
        left = [name for name in BY_THE_BASE if getattr(self, name) is None]
        if left:  # a finished run's are all there, and its base need not be
            where = {name: getattr(self, name) for name in ("prediction_type", "revision", "local_files_only")}
            recommended = read_recommended(self.base, **where)
            for name in left:
                object.__setattr__(self, name, getattr(recommended, name))
        if not isinstance(self.inflation, InflationOptions):
            object.__setattr__(self, "inflation", InflationOptions.from_dict(self.inflation))
        check_prompt(self.prompt)
        for name in WHOLE:
            object.__setattr__(self, name, check_whole(name, getattr(self, name)))
        for name, most in POSITIVE.items():
            if not (number := check_finite(name, getattr(self, name))) > 0:
                raise ConfigError(f"{name} must be positive, got {number}")
            if number > most:
                raise ConfigError(f"{name} must be at most {most:g}, got {number}")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= (number := check_finite(name, getattr(self, name))) < 1:
                raise ConfigError(f"{name} must be in [0, 1), got {number}")
        if not 0 <= (decay := check_finite("adam_weight_decay", self.adam_weight_decay)) <= MAX_WEIGHT_DECAY:
            expected = "must not be negative" if decay < 0 else f"must be at most {MAX_WEIGHT_DECAY:g}"
            raise ConfigError(f"adam_weight_decay {expected}, got {decay}")
        check_bool("gradient_checkpointing", self.gradient_checkpointing)
        if self.mixed_precision is not None:
            check_choice("mixed_precision", self.mixed_precision, MixedPrecision)

    def _take_base_options(self) -> None:
        for name in ("allow_pickle", "local_files_only"):
            check_bool(name, getattr(self, name))
        for name in ("tokenizer", "revision"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, check_text(name, value))
        if self.prediction_type is not None:
            check_choice("prediction_type", self.prediction_type, PredictionType)
        given: Any = self.loras
        if isinstance(given, (str, Path)):
            given = (given,)
        if not isinstance(given, (list, tuple)) or not all(isinstance(lora, (str, Path)) for lora in given):
            raise ConfigError(f"loras must be a list of FILE or FILE:SCALE, got {brief(given)}")
        if len(given) > MAX_LORAS:
            raise ConfigError(f"loras must be at most {MAX_LORAS} files, got {len(given)}")
        object.__setattr__(self, "loras", tuple(check_text("loras", lora) for lora in given))
        for lora in self.loras:
            LoraFile.parse(lora)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values, for records."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TuneConfig:
        """A configuration from plain values.

        Raises:
            ConfigError: a key is unknown (names the nearest known one), a required one is missing, or a value is of
                the wrong type or out of range.
        """
        specs = {f.name: f for f in dataclasses.fields(cls)}
        if not isinstance(values, Mapping):
            raise ConfigError(f"the tuning configuration must be keys and values, got {brief(values)}")
        check_keys(values, specs, "the tuning configuration")
        required = [n for n, s in specs.items() if s.default is s.default_factory is dataclasses.MISSING]
        if missing := [name for name in required if name not in values]:
            raise ConfigError(f"the tuning configuration lacks {', '.join(missing)}")
        return cls(**{name: cast_field(name, specs[name], value) for name, value in values.items()})

    def replace(self, **changes: Any) -> TuneConfig:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)
