"""The options that steer an edit by a control video."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tav_sdk.errors import InputError, NotEnoughFramesError, PickledWeightsError
from tav_sdk.pocket import find_controlnet
from tav_sdk.progress import Callback
from tav_sdk.video.edges import DETECTORS

if TYPE_CHECKING:
    from tav_sdk.pipeline.controlnet import Control, ControlNet
    from tav_sdk.pipeline.pipeline import Pipeline
    from tav_sdk.video.clip import Clip, Video

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
    bool, typer.Option("--control-inversion", help="Let the control steer the inversion, too.")
]


def check_control(control: str | None, controlnet: Path | None, scale: float | None, *, inversion: bool) -> None:
    """What would otherwise be found out only when the bundle is open.

    Raises:
        InputError: one of the two is given without the other, or another option without them; there is no such video or
            folder, or the scale is out of range.
    """
    if (control is None) != (controlnet is None):
        given, missing = ("--control", "--controlnet") if controlnet is None else ("--controlnet", "--control")
        raise InputError(f"{given} was given without {missing}; a control video needs a ControlNet that follows it")
    if control is None and (scale is not None or inversion):
        option = "--control-scale" if scale is not None else "--control-inversion"
        raise InputError(f"{option} was given without --control, which says what steers the edit")
    if control is not None and control not in DETECTORS and not Path(control).is_file():
        raise InputError(f"there is no control video {control}; give a file, or one of {', '.join(DETECTORS)}")
    if controlnet is not None and not find_controlnet(controlnet).is_dir():
        raise InputError(
            f"there is no ControlNet folder {controlnet}; give one that tav export-controlnet wrote, or one in the "
            "diffusers format (ids on the hub are not fetched), or pocket"
        )
    if scale is not None and not 0 <= scale <= 10:
        raise InputError(f"--control-scale must be from 0 to 10, got {scale:g}")


@contextmanager
def open_control(
    control: str | None,
    controlnet: Path | None,
    scale: float | None,
    *,
    pipeline: Pipeline,
    clip: Clip,
    start: int,
    stride: int,
    engine: str,
    show: Callback,
) -> Iterator[Control | None]:
    """What the options ask for, if they ask for anything; the ControlNet is closed at the end.

    Args:
        start: index of the clip's first frame in its file.
        stride: distance between the clip's frames.
    """
    if control is None or controlnet is None:
        yield None
        return
    from tav_sdk.pipeline.controlnet import Control

    video = _video(control, clip, start, stride)
    with _open(controlnet, pipeline, engine, show) as net:
        net.check_fits(pipeline.bundle)
        yield Control(video=video, controlnet=net, scale=1.0 if scale is None else scale)


def _video(control: str, clip: Clip, start: int, stride: int) -> Video:
    """The control video: frame for frame beside the clip."""
    from tav_sdk.video.clip import Video, read_video

    if control in DETECTORS:
        (frames,) = clip.chunks(clip.num_frames)
        return Video(frames=DETECTORS[control](frames), fps=clip.fps)
    count, size = clip.num_frames, (clip.height, clip.width)
    try:
        read_video(control, num_frames=count + 1, size=size)
    except NotEnoughFramesError:
        try:
            return read_video(control, num_frames=count, size=size)  # made for the clip's frames, not for its file's
        except NotEnoughFramesError as error:
            raise InputError(f"{error}: the control video must have a frame for each of the clip's {count}") from error
    try:
        return read_video(control, num_frames=count, start=start, stride=stride, size=size)
    except NotEnoughFramesError as error:
        raise InputError(
            f"{error}: the control video is read as the clip is (start {start}, stride {stride}), unless it has just "
            f"the {count} frames that the bundle takes"
        ) from error


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
