"""``tav export``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tav_sdk.cli.base_options import TokenizerFolder
from tav_sdk.cli.console import say, stages
from tav_sdk.errors import InputError
from tav_sdk.output_paths import check_apart


def export(
    run: Annotated[Path, typer.Argument(help="A run folder written by tav tune.")],
    out: Annotated[Path, typer.Option(help="The bundle folder to write.")],
    step: Annotated[
        int | None, typer.Option(help="Export the snapshot of this step of tuning.", show_default="the last")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="A bundle on the same base, options and size: share its graphs, write this run's weights only."
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="What the U-Net computes in: fp32, fp16, bf16, or int8 for the CPU; fp32, or as in --bundle, if not "
            "given."
        ),
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Let a ControlNet steer the bundle's edits: tav edit --control.")
    ] = False,
    windows: Annotated[
        bool, typer.Option(help="Let the bundle edit and make videos of any length, exactly: traces the U-Net twice.")
    ] = True,
    base: Annotated[
        str | None, typer.Option(help="The base model, if it is no longer where the run was tuned.")
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            help="FILE:SCALE, a LoRA of the base, if it is no longer where it was; give all, in the same order."
        ),
    ] = None,
    tokenizer: TokenizerFolder = None,
    parity: Annotated[
        bool,
        typer.Option(
            help="Compare every graph with its model, here on the CPU, which takes 25 GB for 8 frames of 512x512 (tav "
            "plan). Without it, run tav verify on the machine that runs the bundle."
        ),
    ] = True,
    quality: Annotated[
        bool,
        typer.Option(
            help="In lower precision than fp32, also compare edits, if the base has its own CLIP, as pocket has: about "
            "a minute."
        ),
    ] = True,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read a base's .bin weights, tensors only, if it has nothing else.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the whole folder --out, whatever is in it.")
    ] = False,
) -> None:
    """Export a tuned run to a bundle: ONNX graphs, tokenizer and schedule, which need no PyTorch to run.

    Every graph is compared with the model that it was traced from; a difference above tolerance is an error. In lower
    precision than fp32, so are edits, if the base has a CLIP of its own, as pocket has. With
    --bundle nothing is traced or compared: only the tuned weights are written.

    [bold]Examples[/]

      tav export runs/skiing --out bundles/skiing

      tav export runs/skiing --precision fp16 --out bundles/skiing-fp16

      tav export runs/skiing --precision int8 --out bundles/skiing-int8

      tav export runs/skiing --step 200 --out bundles/skiing-200

      tav export runs/surfing --bundle bundles/skiing --out bundles/surfing
    """
    check_apart(out, run, *(path for path in (base, bundle) if path))

    from tav_sdk.bundle.bundle import Bundle
    from tav_sdk.export import ExportOptions
    from tav_sdk.training.run_folder import load_run

    options = ExportOptions(
        precision=precision or "fp32",  # type: ignore[arg-type]
        control=control,
        windows=windows,
        parity=parity,
        quality=quality,
    )
    loaded = load_run(run)  # before PyTorch, which takes seconds to load
    if step is not None:
        loaded = loaded.at(step)
    if bundle is not None:
        if precision is not None:
            raise InputError(f"--precision {precision} cannot be given with --bundle, which decides the precision")
        if control and not Bundle(bundle, verify=False).residuals:
            raise InputError(
                f"--control cannot be given with --bundle {bundle}, whose graphs take no control; export that bundle's "
                "run again with --control, or this one without --bundle"
            )
        from tav_sdk.export import export_clip

        export_clip(loaded, out, bundle=bundle, overwrite=overwrite)
    else:
        from tav_sdk.export import export_bundle

        with stages() as show:
            export_bundle(
                loaded,
                out,
                options,
                base=base,
                loras=lora or None,
                tokenizer=tokenizer,
                allow_pickle=allow_pickle,
                overwrite=overwrite,
                callback=show,
            )
    say(f"{out}; next: tav edit {out} --video CLIP --prompt PROMPT --out OUT", mark="exported")
