"""``tav plan``"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from tav_sdk.cli.base_options import (
    BASE_HELP,
    INFLATION,
    AllowPickle,
    Attention,
    GroupNorm,
    LocalFilesOnly,
    Loras,
    MixedPrecision,
    PredictionType,
    Preset,
    Revision,
    Temporal,
    TemporalMask,
    TokenizerFolder,
)
from tav_sdk.cli.console import cell, screen, write_json
from tav_sdk.errors import InputError
from tav_sdk.pocket import POCKET
from tav_sdk.request.frames import check_whole
from tav_sdk.words import brief

if TYPE_CHECKING:
    from tav_sdk.training.memory.report import BudgetFit, MemoryPlan

UNITS = {"": 1, "b": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for suffix, base in (("", 1000), ("b", 1000), ("ib", 1024))
}
"""Bytes of a unit, in lower case: ``GB`` is 10^9, ``GiB`` 2^30."""
REMEDIES = {
    "gradient_checkpointing": "--gradient-checkpointing",
    "mixed_precision": "--mixed-precision {}",
    "parity": "--no-parity",
    "guidance": "--guidance-scale 1",
    "precision": "--precision {}",
}
"""The options of the commands that make a remedy's changes."""
_DEVICES = {"cpu": "CPU", "cuda": "GPU"}


def plan(
    base: Annotated[str, typer.Option(help=BASE_HELP)] = POCKET,
    lora: Loras = None,
    num_frames: Annotated[int, typer.Option("--frames", "--num-frames", help="Frames of the clip.")] = 8,
    size: Annotated[
        str | None,
        typer.Option(help="Pixels: 512, or HEIGHTxWIDTH such as 512x320.", show_default="the base's"),
    ] = None,
    precision: Annotated[str, typer.Option(help="The bundle's precision: fp32, fp16, bf16 or int8.")] = "fp32",
    memory: Annotated[
        str | None,
        typer.Option(help="A budget, such as 12GB or 16GiB: what fits into it?", show_default=False),
    ] = None,
    mixed_precision: MixedPrecision = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Tune with less memory, about a third slower.")
    ] = False,
    guidance: Annotated[
        bool, typer.Option("--guidance/--no-guidance", help="Whether edits use classifier-free guidance.")
    ] = True,
    preset: Preset = None,
    temporal_mask: TemporalMask = None,
    group_norm: GroupNorm = None,
    attention: Attention = None,
    temporal: Temporal = None,
    allow_pickle: AllowPickle = False,
    tokenizer: TokenizerFolder = None,
    prediction_type: PredictionType = None,
    revision: Revision = None,
    local_files_only: LocalFilesOnly = None,
    device: Annotated[
        str | None, typer.Option(help="What tunes and edits: cpu or cuda.", show_default="a GPU if there is one")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, sizes in bytes.")] = False,
) -> None:
    """Predict the peak memory of tuning, export, build and editing, before any of it starts.

    Predictions for the CPU were compared with measurements; those for a GPU count tensors only. Export and build take
    the CPU's memory whatever the device. No weights are read: LoRAs, pickled weights and a tokenizer change nothing.

    [bold]Examples[/]

      tav plan --base sd14 --frames 24 --size 512 --precision fp16 --device cuda --memory 12GB

      tav plan --frames 8 --size 64x96 --json
    """
    given = {key: value for key, value in locals().items() if key in INFLATION and value is not None}
    check_whole("num_frames", num_frames, 1)
    height, width = parse_size(size) if size is not None else (None, None)
    budget = parse_memory(memory) if memory is not None else None

    from tav_sdk.training import InflationOptions, PretrainedBase, plan_memory

    planned = plan_memory(
        PretrainedBase(
            base,
            allow_pickle,
            loras=tuple(lora or ()),
            tokenizer=tokenizer,
            prediction_type=prediction_type,
            revision=revision,
            local_files_only=bool(local_files_only),
            weights=False,
        ),
        num_frames=num_frames,
        height=height,
        width=width,
        precision=precision,
        mixed_precision=mixed_precision,
        gradient_checkpointing=gradient_checkpointing,
        inflation=InflationOptions(**given),
        guidance=guidance,
        device=device,
        memory=budget,
    )
    if as_json:
        write_json(planned.to_dict())
        return
    _show(planned)


def parse_size(text: str) -> tuple[int, int]:
    """Height and width in pixels of ``512`` or ``512x320``.

    Raises:
        InputError: it is neither.
    """
    found = re.fullmatch(r"\s*(\d{1,9})(?:\s*[x×]\s*(\d{1,9}))?\s*", text, re.IGNORECASE)
    if found is None:
        raise InputError(f"--size must be pixels, such as 512, or HEIGHTxWIDTH, such as 512x320; got {brief(text)}")
    height, width = found.groups()
    return int(height), int(width or height)


def parse_memory(text: str) -> int:
    """Bytes of ``12GB``, ``11.5 GiB`` or ``800M``; a number alone is bytes.

    Raises:
        InputError: it is no amount of memory, or it is 0.
    """
    found = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    units = None if found is None else UNITS.get(found[2].lower())
    if found is None or units is None or not 1 <= float(found[1]) * units < 2**63:
        raise InputError(f"--memory must be an amount such as 12GB, 11.5GiB or 800MB; got {brief(text)}")
    return round(float(found[1]) * units)


def _show(planned: MemoryPlan) -> None:
    console = screen(soft_wrap=True)
    what = (
        f", {planned.num_frames} frames of {planned.height}x{planned.width} (height x width), bundle in "
        f"{planned.precision}, tuning with mixed precision {planned.mixed_precision}"
    )
    what += ", gradient checkpointing" * planned.gradient_checkpointing
    console.print(cell(Path(planned.base).name, "bold") + cell(what))
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for name in ("peak", "weights", "activations", "optimizer", "runtime"):
        table.add_column(name, justify="right")
    table.add_column("of")
    for stage in planned.stages:
        sizes = (stage.peak, stage.weights, stage.activations, stage.optimizer, stage.runtime)
        table.add_row(stage.stage, *map(_size, sizes), _DEVICES[stage.device] + "*" * (not stage.calibrated))
    console.print(table)
    if not all(stage.calibrated for stage in planned.stages):
        console.print("* not measured: tensors are counted, the GPU's own libraries and scratch are not")
    for stage, fit in planned.budget.items():
        console.print(_verdict(stage, fit))
    for note in planned.notes:
        console.print(cell(note, "yellow"))


def _verdict(stage: str, fit: BudgetFit) -> Text:
    word = ("fits into", "green") if fit.fits else ("does not fit into", "red")
    lines = [Text.assemble((stage, "bold"), " ", word, f" {_size(fit.memory)}")]
    frames = f"at most {fit.max_frames} frames" if fit.max_frames else "not even 1 frame"
    size = f"at most {fit.max_size[0]}x{fit.max_size[1]}" if fit.max_size else "not even the smallest size"
    lines.append(cell(f"  {frames} at this size; {size} at this number of frames"))
    if not fit.fits:
        for remedy in fit.remedies:
            if remedy.fits:
                options = " ".join(REMEDIES[name].format(value) for name, value in remedy.changes.items())
                lines.append(cell(f"  {options}: {_size(remedy.peak)}, which fits"))
    return Text("\n").join(lines)


def _size(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number else "-"
