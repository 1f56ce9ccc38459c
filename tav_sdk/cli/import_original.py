"""``tav import-original``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tav_sdk.cli.base_options import BASE_HELP, LocalFilesOnly, Loras, PredictionType, Revision, TokenizerFolder
from tav_sdk.cli.console import say
from tav_sdk.output_paths import check_apart
from tav_sdk.pocket import find_base


def import_original(
    folder: Annotated[
        str,
        typer.Argument(help="What the released code wrote: a pipeline's folder, its unet, or an id on the hub."),
    ],
    base: Annotated[str, typer.Option(help=f"What it was tuned from. {BASE_HELP}")],
    prompt: Annotated[str, typer.Option(help="The caption of the clip that it was tuned on.")],
    out: Annotated[Path, typer.Option(help="The run folder to write.")],
    video: Annotated[
        Path | None, typer.Option(help="The clip that it was tuned on, for its frame rate and for the record.")
    ] = None,
    num_frames: Annotated[
        int, typer.Option("--frames", "--num-frames", help="Frames that it was tuned on, and that are edited.")
    ] = 8,
    start: Annotated[int, typer.Option(help="Index of the clip's first frame.")] = 0,
    stride: Annotated[int, typer.Option(help="Distance between the clip's frames.")] = 1,
    height: Annotated[int | None, typer.Option(help="Pixels.", show_default="the base's")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.", show_default="the base's")] = None,
    lora: Loras = None,
    tokenizer: TokenizerFolder = None,
    prediction_type: PredictionType = None,
    revision: Revision = None,
    local_files_only: LocalFilesOnly = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read .bin weights, tensors only, where there is nothing else.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the whole folder --out, whatever is in it.")
    ] = False,
) -> None:
    """Make a run of a checkpoint of the released Tune-A-Video code; tav export and tav edit then take it.

    The run computes what the released code does (preset original). All tensors but the tuned ones must be those of the
    base.

    [bold]Example[/]

      tav import-original outputs/man-skiing --base sd14 --prompt "a man is skiing" --frames 24 --out runs/skiing
    """
    check_apart(out, folder, find_base(base), *([video] if video else []))

    from tav_sdk.training import import_original as write

    run = write(
        folder,
        out,
        prompt=prompt,
        video=video,
        base=base,
        num_frames=num_frames,
        start=start,
        stride=stride,
        height=height,
        width=width,
        loras=tuple(lora or ()),
        tokenizer=tokenizer,
        prediction_type=prediction_type,
        revision=revision,
        local_files_only=bool(local_files_only),
        allow_pickle=allow_pickle,
        overwrite=overwrite,
    )
    say(f"{run.folder}; next: tav export {run.folder} --out BUNDLE", mark="imported")
