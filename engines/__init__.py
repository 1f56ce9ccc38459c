"""Engines: what runs a bundle's graphs, behind one small protocol."""

from tav_sdk.engines.backend import Backend as Backend
from tav_sdk.engines.backend import EngineStatus as EngineStatus
from tav_sdk.engines.backend import Obstacle as Obstacle
from tav_sdk.engines.base import Engine as Engine
from tav_sdk.engines.base import Graph as Graph
from tav_sdk.engines.base import TensorSpec as TensorSpec
from tav_sdk.engines.base import Weights as Weights
from tav_sdk.engines.select import available_engines as available_engines
from tav_sdk.engines.select import build_engine as build_engine
from tav_sdk.engines.select import choose_engine as choose_engine
from tav_sdk.engines.select import engine_status as engine_status
from tav_sdk.engines.select import open_engine as open_engine
