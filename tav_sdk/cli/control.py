"""The options that steer an edit by a control video."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tav_sdk.control import DETECTORS
from tav_sdk.errors import InputError
from tav_sdk.progress import Callback

if TYPE_CHECKING:
    from tav_sdk.controlnet import Control, ControlNet
    from tav_sdk.pipeline import Pipeline
    from tav_sdk.video import Video

ControlOpt = Annotated[
    str | None,
    typer.Option(
        help=f"A control video beside the clip, frame for frame, or {' or '.join(DETECTORS)}: computed from the clip.",
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
ControlScaleOpt = Annotated[float, typer.Option(help="How much the control counts, 0 to 10.")]


def check_control(control: str | None, controlnet: Path | None, scale: float) -> None:
    """What would otherwise be found out only when the bundle is open.

    Raises:
        InputError: one of the two is given without the other, there is no such video, or the scale is out of range.
    """
    if (control is None) != (controlnet is None):
        given, missing = ("--control", "--controlnet") if controlnet is None else ("--controlnet", "--control")
        raise InputError(f"{given} was given without {missing}; a control video needs a ControlNet that follows it")
    if control is not None and control not in DETECTORS and not Path(control).is_file():
        raise InputError(f"--control must be a video file or one of {', '.join(DETECTORS)}; got {control!r}")
    if not 0 <= scale <= 10:
        raise InputError(f"--control-scale must be from 0 to 10, got {scale:g}")


@contextmanager
def open_control(
    control: str | None,
    controlnet: Path | None,
    scale: float,
    *,
    pipeline: Pipeline,
    clip: Video | None,
    engine: str,
    show: Callback,
) -> Iterator[Control | None]:
    """What the options ask for, if they ask for anything; the ControlNet is closed at the end."""
    if control is None or controlnet is None:
        yield None
        return
    from tav_sdk.controlnet import Control

    video = _video(control, clip, pipeline)
    with _open(controlnet, pipeline, engine, show) as net:
        net.check_fits(pipeline.bundle)
        yield Control(video=video, controlnet=net, scale=scale)


def _video(control: str, clip: Video | None, pipeline: Pipeline) -> Video:
    from tav_sdk.video import Video, read_video

    if control in DETECTORS:
        if clip is None:
            raise InputError(f"--control {control} is computed from a clip, and there is none here; give a video file")
        return Video(frames=DETECTORS[control](clip.frames), fps=clip.fps)
    manifest = pipeline.manifest
    whole = read_video(control)
    if whole.num_frames < manifest.num_frames:
        raise InputError(
            f"the control video {control} has {whole.num_frames} frames, the bundle takes {manifest.num_frames}"
        )
    return read_video(control, num_frames=manifest.num_frames, size=(manifest.height, manifest.width))


def _open(controlnet: Path, pipeline: Pipeline, engine: str, show: Callback) -> ControlNet:
    from tav_sdk.controlnet import MANIFEST, ControlNet
    from tav_sdk.pocket import find_controlnet

    folder = find_controlnet(controlnet)
    if not (folder / MANIFEST).is_file() and (folder / "config.json").is_file():
        from tav_sdk.export import cached_controlnet

        folder = cached_controlnet(folder, bundle=pipeline.bundle, callback=show)
    return ControlNet(folder, engine=engine)
