"""``tav export-controlnet``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tav_sdk.cli.console import say, stages
from tav_sdk.output_paths import check_apart


def export_controlnet(
    controlnet: Annotated[
        Path, typer.Argument(help="A ControlNet's folder in the diffusers format; pocket is the one in the package.")
    ],
    bundle: Annotated[Path, typer.Option(help="A bundle that it is to steer, exported with --control.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    parity: Annotated[bool, typer.Option(help="Compare the graph with its model, here on the CPU.")] = True,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read .bin weights, tensors only, if there is nothing else.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the whole folder --out, whatever is in it.")
    ] = False,
) -> None:
    """Export a ControlNet to a graph of its own, for all bundles of one base, size and number of frames.

    tav edit does this by itself, into the cache, if it is given a folder in the diffusers format; what is exported here
    needs no PyTorch.

    [bold]Examples[/]

      tav export runs/skiing --control --out bundles/skiing

      tav export-controlnet sd-controlnet-openpose --bundle bundles/skiing --out controlnets/openpose

      tav edit bundles/skiing --video clip.mp4 --prompt "a panda is skiing" --out out --control pose.mp4 --controlnet
      controlnets/openpose
    """
    check_apart(out, bundle, controlnet)

    from tav_sdk.export import export_controlnet as run
    from tav_sdk.pocket import find_controlnet

    with stages() as show:
        run(
            find_controlnet(controlnet),
            out,
            bundle=bundle,
            parity=parity,
            allow_pickle=allow_pickle,
            overwrite=overwrite,
            callback=show,
        )
    say(
        f"{out}; next: tav edit {bundle} --video CLIP --prompt PROMPT --out OUT --control VIDEO --controlnet {out}",
        mark="exported",
    )
