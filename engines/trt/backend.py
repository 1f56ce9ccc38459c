"""TensorRT and TensorRT for RTX as backends: whether they work here, and how they open and build a graph."""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tav_sdk.cache.store import Cache
from tav_sdk.engines.backend import INT8, NOT_BUILT, Backend, EngineStatus, Obstacle
from tav_sdk.engines.base import Engine, Graph
from tav_sdk.engines.trt import cuda
from tav_sdk.engines.trt.api import MODULES, TITLES, load, loaded_other
from tav_sdk.engines.trt.build import BuildOptions, build_plan
from tav_sdk.engines.trt.engine import TrtEngine
from tav_sdk.engines.trt.plan_cache import PLAN_FILE, default_options, find_plan, has_plan, make_plan
from tav_sdk.errors import InputError, MissingExtraError, TavError

_INSTALL = {
    "tensorrt": "pip install tensorrt polygraphy cuda-python",
    "tensorrt-rtx": 'pip install "tav-sdk[tensorrt]"',
}
_MOVE = {
    "tensorrt": "Run it on a machine with an NVIDIA GPU and its driver.",
    "tensorrt-rtx": "Run it on a machine with an RTX GPU and its driver.",
}


class TrtBackend:
    """TensorRT and TensorRT for RTX; one of the two per process."""

    def status(self, engine: str) -> EngineStatus:
        """Whether TensorRT or TensorRT for RTX runs, and builds, on this machine; never raises."""
        if other := loaded_other(engine):
            return _unloaded(engine, other)
        if importlib.util.find_spec(MODULES[engine]) is None:
            return _refusal(engine, f"{MODULES[engine]} is not installed", _INSTALL[engine])
        try:
            flavour = load(engine)
        except TavError as error:
            return _refusal(engine, str(error), f"Repair it with: {_INSTALL[engine]} --force-reinstall")
        builds = importlib.util.find_spec("polygraphy") is not None
        try:
            gpu = cuda.device()
        except MissingExtraError as error:
            return _refusal(engine, str(error), _INSTALL["tensorrt-rtx"], builds=flavour.is_rtx and builds)
        except TavError as error:
            if flavour.is_rtx and builds:
                detail = f"{flavour.title} builds engines here; running needs an NVIDIA GPU: {error}"
                return _refusal(engine, detail, _MOVE[engine], builds=True)
            detail = f"{flavour.title} is installed; building and running need an NVIDIA GPU: {error}"
            return _refusal(engine, detail, _MOVE[engine])
        return EngineStatus(engine=engine, runs=True, builds=builds, detail=f"{flavour.title} on {gpu}")

    def obstacle(self, graph: Graph, engine: str) -> Obstacle | None:
        """int8; or that no plan for this machine is in the cache."""
        if graph.precision == "int8":
            return INT8
        return None if has_plan(graph, engine) else NOT_BUILT

    def open(self, graph: Graph, engine: str) -> Engine:
        """Open a graph with its plan from the cache; built first if need be, without a key to a temporary folder.

        Raises:
            EngineError: there is no GPU, or the plan cannot be built or loaded.
            OutputError: the cache cannot be written.
        """
        flavour = load(engine)
        cuda.device()  # before a build that nothing here could run
        if graph.key is not None:
            cache = Cache("engines")
            plan = find_plan(graph, engine, cache=cache) or make_plan(graph, engine, cache=cache)
            try:
                return TrtEngine(graph, plan, engine=engine)
            finally:
                cache.release(plan.parent.name)
        with tempfile.TemporaryDirectory(prefix="tav-plan-") as folder:
            plan = Path(folder) / PLAN_FILE
            capabilities = default_options(flavour).compute_capabilities
            build_plan(graph, plan, engine=engine, compute_capabilities=capabilities)
            return TrtEngine(graph, plan, engine=engine)

    def build(self, graph: Graph, engine: str, **options: Any) -> Path:
        """Build a graph's plan into the cache, unless one that was built with the same options is there.

        Args:
            graph: one with a key.
            engine: ``tensorrt`` or ``tensorrt-rtx``, which needs no GPU for it.
            options: those of :func:`~tav_sdk.engines.trt.build.build_plan`.

        Returns:
            The plan's file.

        Raises:
            InputError: there is no such option, or its value is out of range.
            EngineError: the plan cannot be built.
            OutputError: the cache cannot be written.
        """
        known = [field.name for field in fields(BuildOptions)]
        for name in options:
            if name not in (*known, "timing_cache"):
                raise InputError(f"{engine} has no build option {name!r}; it has {', '.join((*known, 'timing_cache'))}")
        timing_cache = options.pop("timing_cache", None)
        return make_plan(graph, engine, options=BuildOptions(**options) if options else None, timing_cache=timing_cache)


BACKEND: Backend = TrtBackend()


def _unloaded(engine: str, other: str) -> EngineStatus:
    """What can be said of a flavour that this process cannot import, because it has the other one."""
    try:
        found = f"{TITLES[engine]} {version(MODULES[engine])}"
    except PackageNotFoundError:
        return _refusal(engine, f"{MODULES[engine]} is not installed", _INSTALL[engine])
    detail = f"{found} is installed, but this process has loaded {TITLES[other]}, and can load only one of the two"
    return _refusal(engine, detail, f"Use {engine} in a new process.")


def _refusal(engine: str, detail: str, fix: str, *, builds: bool = False) -> EngineStatus:
    """The status of an engine that does not run here."""
    return EngineStatus(engine=engine, runs=False, builds=builds, detail=detail.rstrip("."), fix=fix)
