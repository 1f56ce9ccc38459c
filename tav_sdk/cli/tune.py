"""``tav tune``"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tav_sdk.cli.base_options import (
    BASE_HELP,
    INFLATION,
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
from tav_sdk.cli.console import say, stages, write_json
from tav_sdk.errors import CancelledError, InputError, MissingExtraError
from tav_sdk.output_paths import check_apart
from tav_sdk.pocket import find_base
from tav_sdk.progress import StepProgress
from tav_sdk.words import printable

REQUIRED = ("video", "prompt", "out")


def tune(
    base: Annotated[
        str | None,
        typer.Option(help=BASE_HELP, show_default="pocket"),
    ] = None,
    lora: Loras = None,
    video: Annotated[Path | None, typer.Option(help="The clip to tune on.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What the clip shows, such as 'a man is skiing'.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder to write.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A YAML file with these settings, or a configuration of the released code; options win over it."
        ),
    ] = None,
    num_frames: Annotated[
        int | None, typer.Option("--frames", "--num-frames", help="Frames taken from the clip.", show_default="8")
    ] = None,
    start: Annotated[int | None, typer.Option(help="Index of the first frame taken.", show_default="0")] = None,
    stride: Annotated[int | None, typer.Option(help="Distance between frames taken.", show_default="1")] = None,
    height: Annotated[
        int | None, typer.Option(help="Pixels; a multiple of 64 for SD, of 16 for Pocket.", show_default="the base's")
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Pixels; a multiple of 64 for SD, of 16 for Pocket.", show_default="the base's")
    ] = None,
    num_train_steps: Annotated[
        int | None, typer.Option(help="Optimizer steps.", show_default="300; Pocket 150")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="AdamW's, constant.", show_default="3e-5; Pocket 5e-4")
    ] = None,
    max_grad_norm: Annotated[float | None, typer.Option(help="Gradient clipping.", show_default="1.0")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same result.", show_default="33")] = None,
    mixed_precision: MixedPrecision = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option("--gradient-checkpointing/--no-gradient-checkpointing", help="Less memory, about a third slower."),
    ] = None,
    checkpointing_steps: Annotated[
        int | None, typer.Option(help="Keep a snapshot, and the state for --resume, so often.", show_default="100")
    ] = None,
    preset: Preset = None,
    temporal_mask: TemporalMask = None,
    group_norm: GroupNorm = None,
    attention: Attention = None,
    temporal: Temporal = None,
    allow_pickle: Annotated[
        bool | None,
        typer.Option("--allow-pickle", help="Read a base's .bin weights, tensors only, if it has nothing else."),
    ] = None,
    tokenizer: TokenizerFolder = None,
    prediction_type: PredictionType = None,
    revision: Revision = None,
    local_files_only: LocalFilesOnly = None,
    device: Annotated[str | None, typer.Option(help="A torch device.", show_default="a GPU if there is one")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the whole folder --out, whatever is in it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per step on standard output, no bar.")] = False,
) -> None:
    """Tune a base model on one captioned clip.

    [bold]Examples[/]

      tav tune --video demo/clip.mp4 --prompt "a red car is moving on the road" --out runs/car

      tav tune --base sd14 --video clip.mp4 --prompt "a man is skiing" --out runs/skiing

      tav tune --base sd14 --video clip.mp4 --prompt "a man is skiing" --out runs/skiing --frames 24 --stride 2 --resume

      tav tune --base dreamshaper.safetensors --tokenizer sd14/tokenizer --lora ink.safetensors:0.8 --video clip.mp4
      --prompt "a man is skiing" --out runs/skiing

      tav tune --config man-skiing.yaml --out runs/skiing
    """
    given = {key: value for key, value in locals().items() if value is not None}
    loras = given.pop("lora", [])
    inflation = {key: given[key] for key in INFLATION if key in given}
    values = {
        key: given[key]
        for key in given
        if key not in (*INFLATION, "config", "device", "resume", "overwrite", "as_json")
    }

    from tav_sdk.training import TuneConfig
    from tav_sdk.training.base.lora_file import LoraFile

    read: dict[str, Any] = {}
    if config is not None:
        try:
            from tav_sdk.training.config_file import read_config
        except ModuleNotFoundError as error:
            raise MissingExtraError("--config", "training", "yaml") from error
        read, notes = read_config(config)
        for note in notes:
            say(note, mark=f"{printable(config)}:", style="yellow")
    if inflation:
        read["inflation"] = {**read.get("inflation", {}), **inflation}
    merged = {**read, **{key: str(value) if isinstance(value, Path) else value for key, value in values.items()}}
    if loras:
        merged["loras"] = tuple(loras)
    if missing := [f"--{key}" for key in REQUIRED if key not in merged]:
        raise InputError(f"give {', '.join(missing)} (or a --config file that has it); see tav tune --help")
    settings = TuneConfig.from_dict(merged)
    files = [LoraFile.parse(text).path for text in settings.loras]
    check_apart(settings.out, find_base(settings.base), settings.video, *files)

    from tav_sdk.training import tune as run_tuning
    from tav_sdk.training.run_folder import partial_folder

    with stages(hidden=as_json) as show:
        try:
            run = run_tuning(
                settings,
                callback=_print_json if as_json else show,
                resume=resume,
                overwrite=overwrite,
                device=device,
            )
        except KeyboardInterrupt:
            if partial_folder(settings.out).exists():
                raise KeyboardInterrupt("the same command with --resume continues") from None
            raise
    if not as_json:
        say(f"{run.folder}; next: tav export {run.folder} --out BUNDLE", mark="tuned")


def _print_json(progress: StepProgress) -> None:
    try:
        write_json(progress.to_dict(), indent=None)
    except BrokenPipeError:
        # What reads the lines has gone. Nothing more can be written there, not even when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CancelledError(
            "standard output was closed, so tuning stopped; the same command with --resume continues"
        ) from None
