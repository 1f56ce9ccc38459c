"""``tav export``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tav_sdk.cli.console import say, stages
from tav_sdk.files import check_apart


def export(
    run: Annotated[Path, typer.Argument(help="A run folder written by tav tune.")],
    out: Annotated[Path, typer.Option(help="The bundle folder to write.")],
    base: Annotated[
        Path | None, typer.Option(help="The base model, if it is no longer where the run was tuned.")
    ] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read a base's .bin weights, tensors only, if it has nothing else.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the whole folder --out, whatever is in it.")
    ] = False,
) -> None:
    """Export a tuned run to a bundle: ONNX graphs, tokenizer and schedule, which need no PyTorch to run.

    Every graph is compared with the model that it was traced from; a difference above tolerance is an error.

    [bold]Example[/]

      tav export runs/skiing --out bundles/skiing
    """
    check_apart(out, run, *([base] if base else []))

    from tav_sdk.export import export_bundle

    with stages() as show:
        export_bundle(run, out, base=base, allow_pickle=allow_pickle, overwrite=overwrite, callback=show)
    say(f"[green]exported[/] {out}; next: tav edit {out} --video CLIP --prompt PROMPT --out OUT")
