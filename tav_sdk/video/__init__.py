"""Clips: frames, files in and out, contact sheets and edges."""

from tav_sdk.video.clip import Clip as Clip
from tav_sdk.video.clip import Video as Video
from tav_sdk.video.clip import VideoInfo as VideoInfo
from tav_sdk.video.clip import probe as probe
from tav_sdk.video.clip import read_video as read_video
from tav_sdk.video.file import VideoFile as VideoFile
from tav_sdk.video.writer import VideoWriter as VideoWriter
