"""What is asked for, checked once; and the same, resolved against a bundle."""

from tav_sdk.request.edit_request import EditRequest as EditRequest
from tav_sdk.request.edit_request import GenerateRequest as GenerateRequest
from tav_sdk.request.frames import FrameSelection as FrameSelection
from tav_sdk.request.options import ControlOptions as ControlOptions
from tav_sdk.request.options import InvertOptions as InvertOptions
from tav_sdk.request.options import SampleOptions as SampleOptions
from tav_sdk.request.settings import EditSettings as EditSettings
from tav_sdk.request.settings import GenerateSettings as GenerateSettings
