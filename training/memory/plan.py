"""How much memory tuning, export, build and editing take, predicted from a base's configurations before any of it runs.

    plan = plan_memory("sd14", num_frames=24, height=512, width=512, memory=12_000_000_000)
    plan["tune"].peak, plan.budget["tune"].max_frames

Models are made on torch's ``meta`` device, which has shapes and no memory, and run there: one tuning step with
autograd, one pass of each graph. Every storage that lives is counted, so the counts are of the very code that tunes and
exports. What a runtime adds to them was measured with ``benchmarks/memory.py`` and stands in :mod:`.calibration`.
"""

# check_choice makes a literal of a string.
# pyright: reportArgumentType=false

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from tav_sdk.bundle.precision import Precision
from tav_sdk.errors import ConfigError, InputError
from tav_sdk.training.base.model import PretrainedBase
from tav_sdk.training.config import InflationOptions, MixedPrecision
from tav_sdk.training.config_checks import check_bool, check_choice, check_whole
from tav_sdk.training.memory.budget import fit
from tav_sdk.training.memory.report import Device, MemoryPlan, Stage
from tav_sdk.training.memory.setting import Setting
from tav_sdk.training.memory.stages import Planner
from tav_sdk.training.tune_step import default_mixed_precision
from tav_sdk.video.frames import check_size
from tav_sdk.words import brief


def plan_memory(
    base: str | Path | PretrainedBase,
    *,
    num_frames: int = 8,
    height: int | None = None,
    width: int | None = None,
    precision: str = "fp32",
    mixed_precision: str | None = None,
    gradient_checkpointing: bool = False,
    inflation: InflationOptions | None = None,
    guidance: bool = True,
    device: str | None = None,
    memory: int | None = None,
) -> MemoryPlan:
    """Predict the peak memory of tuning, export, build and editing.

    Takes seconds and a few hundred MB at any size: no weights are read.

    Args:
        base: what :class:`PretrainedBase` takes, or one made with ``weights=False``.
        num_frames: frames of the clip.
        height: of the frames, in pixels; by default what the base recommends.
        width: likewise.
        precision: of the bundle's U-Net: ``fp32``, ``fp16``, ``bf16`` or ``int8``, which is planned as ``fp32``.
        mixed_precision: of tuning: ``no``, ``fp16`` or ``bf16``; by default what tuning takes: on a GPU ``bf16``, or
            ``fp16`` if the one here has no bf16; ``no`` on a CPU.
        gradient_checkpointing: of tuning.
        inflation: how the base is inflated.
        guidance: whether editing uses classifier-free guidance, a batch of two.
        device: ``cpu`` or ``cuda``; by default a GPU if there is one. Predictions for a GPU count tensors only, and
            none was compared with a measurement.
        memory: a budget in bytes to compare ``tune``, ``export`` and ``edit`` with.

    Raises:
        BaseModelError: the base is missing, incomplete, or cannot be inflated.
        SizeError: the base cannot take height or width; names the nearest that it can.
        ConfigError: a precision or device is unknown, there are no frames, or tuning is in fp16 on a CPU.
        InputError: the budget is not positive.
    """
    found = base if isinstance(base, PretrainedBase) else PretrainedBase(base, weights=False)
    height = found.recommended.height if height is None else height
    width = found.recommended.width if width is None else width
    num_frames = check_whole("num_frames", num_frames)
    height, width = check_whole("height", height), check_whole("width", width)
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int) or not 0 < memory < 2**63):
        raise InputError(f"memory must be a positive number of bytes, got {brief(memory)}")
    check_bool("gradient_checkpointing", gradient_checkpointing)
    check_bool("guidance", guidance)
    check_size(height, width, found.size_multiple)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_choice("device", device, Device)
    notes = []
    check_choice("precision", precision, Precision)
    if precision == "int8":
        precision = "fp32"
        notes.append("int8 is planned as fp32, which its export calibrates in; an edit needs less")
    mixed_precision = mixed_precision or default_mixed_precision(device)
    check_choice("mixed_precision", mixed_precision, MixedPrecision)
    if mixed_precision == "fp16" and device == "cpu":
        raise ConfigError("fp16 tuning needs a GPU; on a CPU choose mixed_precision no or bf16")
    setting = Setting(
        num_frames=num_frames,
        height=height,
        width=width,
        precision=precision,
        mixed_precision=mixed_precision,
        gradient_checkpointing=gradient_checkpointing,
        guidance=guidance,
        device=device,
    )
    planner = Planner(found, inflation or InflationOptions())
    stages: list[Stage] = ["tune", "export", "build", "invert", "sample", "edit"]
    if not planner.can_edit(setting):
        stages = ["tune", "export", "build"]
        notes.append("ONNX Runtime has no bf16 on the CPU: edit on a GPU, or export with precision fp32")
    return MemoryPlan(
        base=found.name if found.commit else str(found.path),
        stages=tuple(planner.stage(stage, setting) for stage in stages),
        budget={stage: fit(planner, stage, setting, memory) for stage in ("tune", "export", "edit") if stage in stages}
        if memory is not None
        else {},
        notes=tuple(notes),
        **{
            field.name: getattr(setting, field.name)
            for field in dataclasses.fields(setting)
            if field.name not in ("guidance", "parity")
        },
    )
