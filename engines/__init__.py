"""Engines: what runs a bundle's graphs, behind one small protocol."""

from tav_sdk.engines.base import Engine as Engine
from tav_sdk.engines.base import TensorSpec as TensorSpec
from tav_sdk.engines.select import available_engines as available_engines
from tav_sdk.engines.select import open_engine as open_engine
