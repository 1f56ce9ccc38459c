"""A bundle's graphs on engines: what inverts, edits and generates."""

from tav_sdk.pipeline.pipeline import Pipeline as Pipeline
from tav_sdk.pipeline.pipeline import load as load
