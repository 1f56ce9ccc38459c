"""A small client of ``tav serve``: send jobs, follow them, fetch their videos.

    from tav_sdk.client import Client

    with Client("http://127.0.0.1:8000") as client:
        video = client.create("a panda is skiing", model="skiing")
        client.wait(video, lambda now: print(now.stage, now.step, now.total_steps))
        client.download(video, "panda.mp4")

It needs the extra ``client`` and neither torch nor an engine: nothing is computed here.
"""

from __future__ import annotations

from tav_sdk.client.client import Client as Client
from tav_sdk.client.objects import Event as Event
from tav_sdk.client.objects import Failure as Failure
from tav_sdk.client.objects import Model as Model
from tav_sdk.client.objects import Tuning as Tuning
from tav_sdk.client.objects import Video as Video
from tav_sdk.client.settings import TuningSettings as TuningSettings
from tav_sdk.client.settings import VideoSettings as VideoSettings
from tav_sdk.errors import JobFailedError as JobFailedError
from tav_sdk.errors import ServerError as ServerError
from tav_sdk.errors import ServerUnreachableError as ServerUnreachableError

__all__ = [
    "Client",
    "Event",
    "Failure",
    "JobFailedError",
    "Model",
    "ServerError",
    "ServerUnreachableError",
    "Tuning",
    "TuningSettings",
    "Video",
    "VideoSettings",
]
