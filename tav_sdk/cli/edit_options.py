"""The options that ``tav edit`` and ``tav generate`` share, and what the fields of a request are called there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tav_sdk.cli.console import say
from tav_sdk.engines.select import CHOICES
from tav_sdk.errors import PromptError

BundleArg = Annotated[Path, typer.Argument(help="A bundle folder written by tav export.")]
PromptOpt = Annotated[
    list[str] | None, typer.Option("--prompt", help="What the new video shows; repeat it for several videos.")
]
OutOpt = Annotated[Path, typer.Option(help="The folder to write the videos to.")]
NegativeOpt = Annotated[str, typer.Option(help="What the new video does not show.")]
StepsOpt = Annotated[int | None, typer.Option(help="DDIM steps of sampling.", show_default="the base's: 50, Pocket 25")]
GuidanceOpt = Annotated[
    float | None,
    typer.Option(help="Classifier-free guidance; at most 1 is none.", show_default="the base's: 12.5, Pocket 3.5"),
]
AdapterOpt = Annotated[
    float, typer.Option(help="How much of the tuning is used, 0 to 2: 0 is the base, 1 as it was tuned.")
]
FpsOpt = Annotated[float | None, typer.Option(help="Frames per second of the videos.", show_default="the clip's")]
FormatOpt = Annotated[str, typer.Option("--format", help="mp4, gif or webp.")]
EngineOpt = Annotated[str, typer.Option(help=f"{', '.join(CHOICES)}; tav doctor says which work here.")]
WindowOpt = Annotated[
    int | None,
    typer.Option(
        help="The frames per window that you expect: an error if the bundle's graphs take another number.",
        show_default="the bundle's",
    ),
]
OverwriteOpt = Annotated[bool, typer.Option("--overwrite", help="Replace the whole folder --out, whatever is in it.")]


def given_prompts(prompt: Sequence[str] | None) -> tuple[str, ...]:
    """The prompts, of which there must be one.

    Raises:
        PromptError: there is none.
    """
    if not prompt:
        raise PromptError("must be given at least once; say what the new video shows", field="prompts")
    return tuple(prompt)


def say_where(out: Path) -> None:
    """Say where the results are."""
    say(f"to {out}; all at a glance: {out / 'sheet.png'}", mark="written")
