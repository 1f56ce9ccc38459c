"""The options that steer an edit by a control video."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tav_sdk.errors import InputError, PickledWeightsError
from tav_sdk.pocket import find_controlnet
from tav_sdk.progress import Callback
from tav_sdk.request.options import ControlOptions
from tav_sdk.video.edges import DETECTORS

if TYPE_CHECKING:
    from tav_sdk.pipeline.controlnet import ControlNet
    from tav_sdk.pipeline.pipeline import Pipeline

ControlOpt = Annotated[
    str | None,
    typer.Option(
        help="A control video, read with the clip's --start and --stride unless it has just the frames that the "
        f"bundle takes; or {' or '.join(DETECTORS)}: computed from the clip.",
        metavar="FILE|NAME",
    ),
]
ControlNetOpt = Annotated[
    Path | None,
    typer.Option(
        help="The ControlNet that follows it: written by tav export-controlnet, or in the diffusers format; pocket is "
        "the one in the package, for canny."
    ),
]
ControlScaleOpt = Annotated[
    float | None, typer.Option(help="How much the control counts, 0 to 10.", show_default="1, as it was trained")
]
ControlInversionOpt = Annotated[
    bool, typer.Option("--control-inversion", help="Let the control steer the inversion as well.")
]


def control_options(
    control: str | None, controlnet: Path | None, scale: float | None, *, inversion: bool
) -> ControlOptions | None:
    """What the options ask for, if they ask for anything.

    Raises:
        InputError: one of the two is given without the other, or another option without them; there is no such video or
            folder, or the scale is out of range.
    """
    if (control is None) != (controlnet is None):
        given, missing = ("video", "--controlnet") if controlnet is None else ("controlnet", "--control")
        raise InputError(
            f"was given without {missing}; a control video needs a ControlNet that follows it", field=f"control.{given}"
        )
    if control is None or controlnet is None:
        if scale is not None or inversion:
            field = "control.scale" if scale is not None else "control.inversion"
            raise InputError("was given without --control, which says what steers the edit", field=field)
        return None
    return ControlOptions(
        video=control,
        controlnet=controlnet,
        scale=1.0 if scale is None else scale,
        inversion=inversion,
    )


@contextmanager
def opened(
    options: ControlOptions | None, pipeline: Pipeline, *, engine: str, show: Callback
) -> Iterator[ControlNet | None]:
    """The ControlNet of a request, closed at the end; one in the diffusers format is exported into the cache first."""
    if options is None:
        yield None
        return
    with _open(Path(options.controlnet), pipeline, engine, show) as net:
        yield net


def _open(controlnet: Path, pipeline: Pipeline, engine: str, show: Callback) -> ControlNet:
    from tav_sdk.pipeline.controlnet import MANIFEST, ControlNet

    folder = find_controlnet(controlnet)
    if not (folder / MANIFEST).is_file() and (folder / "config.json").is_file():
        from tav_sdk.export import cached_controlnet

        try:
            folder = cached_controlnet(folder, bundle=pipeline.bundle, callback=show)
        except PickledWeightsError as error:
            raise PickledWeightsError(
                f"{error}. In edits it cannot be: export it with tav export-controlnet {controlnet} --allow-pickle "
                f"--bundle {pipeline.bundle.folder} --out OUT, and give OUT"
            ) from error
    return ControlNet(folder, engine=engine)
