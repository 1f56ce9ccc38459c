"""tav-sdk: edit videos by text with one-shot-tuned diffusion models.

    pipeline = tav_sdk.load("bundles/skiing")
    clip = tav_sdk.read_video("clip.mp4", num_frames=8, stride=2, size=(512, 512))
    inversion = pipeline.invert(clip)
    video = pipeline.edit("Spider Man is skiing on the beach, cartoon style", inversion)
    video.save("out.mp4")

Importing this package loads no backend and no video library; each is imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tav_sdk.version import __version__ as __version__

if TYPE_CHECKING:
    from tav_sdk.diffusion.inversion import Inversion as Inversion
    from tav_sdk.diffusion.schedule import DDIMSchedule as DDIMSchedule
    from tav_sdk.engines.select import available_engines as available_engines
    from tav_sdk.errors import CancelledError as CancelledError
    from tav_sdk.errors import TavError as TavError
    from tav_sdk.pipeline.controlnet import Control as Control
    from tav_sdk.pipeline.controlnet import ControlNet as ControlNet
    from tav_sdk.pipeline.pipeline import Pipeline as Pipeline
    from tav_sdk.pipeline.pipeline import load as load
    from tav_sdk.progress import StepProgress as StepProgress
    from tav_sdk.request.edit_request import EditRequest as EditRequest
    from tav_sdk.request.edit_request import GenerateRequest as GenerateRequest
    from tav_sdk.request.frames import FrameSelection as FrameSelection
    from tav_sdk.request.options import ControlOptions as ControlOptions
    from tav_sdk.request.options import InvertOptions as InvertOptions
    from tav_sdk.request.options import SampleOptions as SampleOptions
    from tav_sdk.request.settings import EditSettings as EditSettings
    from tav_sdk.video.clip import Video as Video
    from tav_sdk.video.clip import probe as probe
    from tav_sdk.video.clip import read_video as read_video
    from tav_sdk.video.file import VideoFile as VideoFile
    from tav_sdk.video.writer import VideoWriter as VideoWriter

_HOMES = {
    "CancelledError": "errors",
    "Control": "pipeline.controlnet",
    "ControlNet": "pipeline.controlnet",
    "ControlOptions": "request.options",
    "DDIMSchedule": "diffusion.schedule",
    "EditRequest": "request.edit_request",
    "EditSettings": "request.settings",
    "FrameSelection": "request.frames",
    "GenerateRequest": "request.edit_request",
    "Inversion": "diffusion.inversion",
    "InvertOptions": "request.options",
    "Pipeline": "pipeline.pipeline",
    "SampleOptions": "request.options",
    "StepProgress": "progress",
    "TavError": "errors",
    "Video": "video.clip",
    "VideoFile": "video.file",
    "VideoWriter": "video.writer",
    "available_engines": "engines.select",
    "load": "pipeline.pipeline",
    "probe": "video.clip",
    "read_video": "video.clip",
}
__all__ = [
    "CancelledError",
    "Control",
    "ControlNet",
    "ControlOptions",
    "DDIMSchedule",
    "EditRequest",
    "EditSettings",
    "FrameSelection",
    "GenerateRequest",
    "Inversion",
    "InvertOptions",
    "Pipeline",
    "SampleOptions",
    "StepProgress",
    "TavError",
    "Video",
    "VideoFile",
    "VideoWriter",
    "available_engines",
    "load",
    "probe",
    "read_video",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
