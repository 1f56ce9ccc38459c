"""``tav make-tiny-base``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tav_sdk.cli.console import say
from tav_sdk.request.options import check_seed


def make_tiny_base(
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    prediction_type: Annotated[str, typer.Option(help="epsilon or v_prediction.")] = "epsilon",
    seed: Annotated[int, typer.Option(help="Seed of the random weights.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in OUT.")] = False,
) -> None:
    """Write a tiny random base model in Stable Diffusion's layout: to try the tools with, it draws noise.

    [bold]Example[/]

      tav make-tiny-base tiny
    """
    check_seed("seed", seed)

    from tav_sdk.training import make_tiny_base as write

    write(out, prediction_type=prediction_type, seed=seed, overwrite=overwrite)
    say(out, mark="written")
