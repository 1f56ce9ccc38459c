"""The control of an edit: its video read or computed frame for frame beside the clip, and its ControlNet opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tav_sdk.errors import InputError, NotEnoughFramesError
from tav_sdk.pipeline.controlnet import Control, ControlNet
from tav_sdk.pipeline.pipeline import Pipeline
from tav_sdk.pocket import find_controlnet
from tav_sdk.request.frames import FrameSelection
from tav_sdk.request.options import ControlOptions
from tav_sdk.video.clip import Clip, Video, read_video
from tav_sdk.video.edges import DETECTORS


@contextmanager
def open_control(
    options: ControlOptions | None,
    clip: Clip,
    frames: FrameSelection,
    pipeline: Pipeline,
    controlnet: ControlNet | None = None,
) -> Iterator[Control | None]:
    """What a request's control asks for; ``None`` if it asks for nothing.

    Args:
        options: the request's.
        clip: what is edited.
        frames: which frames of its file those are.
        pipeline: what edits.
        controlnet: the ControlNet, if it is open already, which stays the caller's; otherwise it is closed at the end.

    Raises:
        InputError: the control video does not have the frames that it needs.
        BundleError: the ControlNet does not fit the bundle.
    """
    if options is None:
        yield None
        return
    video = control_video(options.video, clip, frames)
    if controlnet is not None:
        yield _fitting(video, controlnet, options, pipeline)
        return
    with ControlNet(find_controlnet(options.controlnet), engine=pipeline.engine) as opened:
        yield _fitting(video, opened, options, pipeline)


def _fitting(video: Video, controlnet: ControlNet, options: ControlOptions, pipeline: Pipeline) -> Control:
    controlnet.check_fits(pipeline.bundle)
    return Control(video=video, controlnet=controlnet, scale=options.scale)


def control_video(control: str | Path, clip: Clip, frames: FrameSelection) -> Video:
    """The control video: frame for frame beside the clip.

    Raises:
        InputError: it has not the frames that it needs.
    """
    if str(control) in DETECTORS:
        (pictures,) = clip.chunks(clip.num_frames)
        return Video(frames=DETECTORS[str(control)](pictures), fps=clip.fps)
    count, size = clip.num_frames, (clip.height, clip.width)
    try:
        read_video(control, num_frames=count + 1, size=size)
    except NotEnoughFramesError:
        try:
            return read_video(control, num_frames=count, size=size)  # made for the clip's frames, not for its file's
        except NotEnoughFramesError as error:
            raise InputError(
                f"must have a frame for each of the clip's {count}: {error}", field="control.video"
            ) from error
    start, stride = frames.start or 0, frames.stride or 1
    try:
        return read_video(control, num_frames=count, start=start, stride=stride, size=size)
    except NotEnoughFramesError as error:
        raise InputError(
            f"is read as the clip is (start {start}, stride {stride}), unless it has just the {count} frames that the "
            f"bundle takes: {error}",
            field="control.video",
        ) from error
