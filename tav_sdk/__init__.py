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
    from tav_sdk.pipeline.pipeline import Pipeline as Pipeline
    from tav_sdk.pipeline.pipeline import load as load
    from tav_sdk.progress import StepProgress as StepProgress
    from tav_sdk.video.clip import Video as Video
    from tav_sdk.video.clip import probe as probe
    from tav_sdk.video.clip import read_video as read_video
    from tav_sdk.video.file import VideoFile as VideoFile

_HOMES = {
    "CancelledError": "errors",
    "DDIMSchedule": "diffusion.schedule",
    "Inversion": "diffusion.inversion",
    "Pipeline": "pipeline.pipeline",
    "StepProgress": "progress",
    "TavError": "errors",
    "Video": "video.clip",
    "VideoFile": "video.file",
    "available_engines": "engines.select",
    "load": "pipeline.pipeline",
    "probe": "video.clip",
    "read_video": "video.clip",
}
__all__ = [
    "CancelledError",
    "DDIMSchedule",
    "Inversion",
    "Pipeline",
    "StepProgress",
    "TavError",
    "Video",
    "VideoFile",
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
