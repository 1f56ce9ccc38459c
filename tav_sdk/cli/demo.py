"""``tav demo``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tav_sdk.cli.console import say

SIZE, NUM_FRAMES = 128, 8
CAPTION = "a red square is moving over the meadow"
PROMPTS = ["a blue circle is moving over the meadow", "a red square is moving over the snow, pixel art style"]


def demo(
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("demo"),
    num_train_steps: Annotated[int, typer.Option(help="Tuning steps.")] = 20,
    num_inference_steps: Annotated[int, typer.Option(help="DDIM steps of inversion and of sampling.")] = 20,
    overwrite: Annotated[
        bool, typer.Option("--overwrite/--no-overwrite", help="Replace a former demo in --out.")
    ] = True,
) -> None:
    """Run everything once: render a clip, tune, export, invert and edit.

    The base model is a tiny random one, so the edits are noise: this shows that the machine works, not what a real
    base draws.

    [bold]Example[/]

      tav demo --out demo
    """
    from tav_sdk.cli.edit import edit
    from tav_sdk.cli.export import export
    from tav_sdk.cli.tune import tune
    from tav_sdk.demo_clip import render_clip
    from tav_sdk.training import make_tiny_base

    say("[bold]1/4[/] a tiny random base model and a clip of moving shapes")
    make_tiny_base(out / "base", overwrite=overwrite)
    clip = render_clip(num_frames=NUM_FRAMES, height=SIZE, width=SIZE)
    clip.save(out / "clip.mp4")
    say("[bold]2/4[/] tune")
    tune(
        base=str(out / "base"),
        video=out / "clip.mp4",
        prompt=CAPTION,
        out=out / "run",
        num_frames=NUM_FRAMES,
        height=SIZE,
        width=SIZE,
        num_train_steps=num_train_steps,
        overwrite=overwrite,
    )
    say("[bold]3/4[/] export")
    export(out / "run", out / "bundle", overwrite=overwrite)
    say("[bold]4/4[/] invert and edit")
    edit(
        out / "bundle",
        video=out / "clip.mp4",
        out=out / "edits",
        prompt=PROMPTS,
        num_inference_steps=num_inference_steps,
        num_inversion_steps=num_inference_steps,
        overwrite=overwrite,
    )
    say(f"[green]done[/]; the pictures: {out / 'edits' / 'sheet.png'}")
