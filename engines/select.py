"""Choosing an engine by name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tav_sdk.engines.backend import Backend, EngineStatus, Obstacle
from tav_sdk.engines.base import Engine, Graph
from tav_sdk.errors import EngineError, MissingExtraError

MODULES = {
    "tensorrt": "tav_sdk.engines.trt.backend",
    "tensorrt-rtx": "tav_sdk.engines.trt.backend",
    "onnxruntime-tensorrt": "tav_sdk.engines.ort",
    "onnxruntime-tensorrt-rtx": "tav_sdk.engines.ort",
    "onnxruntime-cuda": "tav_sdk.engines.ort",
    "openvino-cpu": "tav_sdk.engines.openvino",
    "onnxruntime-cpu": "tav_sdk.engines.ort",
}
"""Every engine, best first, and the module whose ``BACKEND`` runs it; see :class:`~tav_sdk.engines.backend.Backend`."""

CHOICES = ("auto", *MODULES)


def backend_of(engine: str) -> Backend:
    """The backend of an engine, a name of :data:`MODULES`; its module is imported now."""
    return importlib.import_module(MODULES[engine]).BACKEND


def engine_status(engine: str) -> EngineStatus:
    """Whether one engine works here, and if not, why.

    Raises:
        EngineError: there is no engine of that name; lists those that work.
    """
    if engine not in MODULES:
        raise EngineError(
            f"there is no engine {engine!r}; those that work here: auto, {', '.join(available_engines())}"
        )
    return backend_of(engine).status(engine)


def available_engines() -> dict[str, str]:
    """The engines that can run on this machine, best first, with a word on each.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingExtraError("running a bundle", "", "onnxruntime")
    statuses = [engine_status(engine) for engine in MODULES]
    return {status.engine: status.detail for status in statuses if status.runs}


def obstacle(graph: Graph, engine: str) -> Obstacle | None:
    """Why an engine that works here cannot start a graph at once; ``None`` if it can."""
    return backend_of(engine).obstacle(graph, engine)


def choose_engine(engine: str, graphs: Sequence[Graph] = ()) -> tuple[str, str]:
    """The engine to run graphs on, and why that one.

    ``auto`` is the best that works here and can start at once: one that has to be built first counts only if
    ``graphs`` are built already.

    Raises:
        EngineError: the name is unknown, or that engine does not work here, or not with the graphs' precision; lists
            those that do.
    """
    if engine == "auto":
        return _choose_best(graphs)
    status = engine_status(engine)
    if not status.runs:
        raise EngineError(
            f"the engine {engine} does not work on this machine: {status.detail}. {status.fix} "
            f"Engines that work here: auto, {', '.join(available_engines())}"
        )
    _check_fits(engine, graphs)
    return engine, "as asked"


def _choose_best(graphs: Sequence[Graph]) -> tuple[str, str]:
    passed_over = []
    for name in available_engines():
        obstacles = [found for graph in graphs if (found := obstacle(graph, name))]
        if not obstacles:
            return name, "; ".join(["the best engine that works here", *passed_over])
        passed_over.append(f"{name} {obstacles[0].reason}")
    raise EngineError(f"no engine that works here can start at once: {'; '.join(passed_over)}")


def _check_fits(engine: str, graphs: Sequence[Graph]) -> None:
    for graph in graphs:
        found = obstacle(graph, engine)
        if found is not None and not found.fits:
            raise EngineError(
                f"{engine} {found.reason}, and the {graph.name} graph is in {graph.precision}; {found.fix}, or export "
                "the run again in precision fp32"
            )


def open_engine(graph: Graph, *, engine: str = "auto") -> Engine:
    """Open a graph on an engine; one that has to be built is built, or taken from the cache.

    Raises:
        EngineError: the engine does not work here, or the graph cannot be loaded.
        OutputError: the cache cannot be written.
    """
    name, _ = choose_engine(engine, [graph])
    return backend_of(name).open(graph, name)


def build_engine(graph: Graph, *, engine: str, **options: Any) -> Path | None:
    """Build a graph for an engine, into the cache of engines.

    Args:
        graph: one with a key.
        engine: a name of :data:`MODULES`; it need not run here if it builds here.
        options: those of :func:`tav_sdk.engines.trt.build.build_plan`; none for ONNX Runtime and OpenVINO.

    Returns:
        What was built or found there; ``None`` if the engine starts from the graph itself.

    Raises:
        InputError: an option is not one of the engine's, or out of range.
        EngineError: the engine does not build here, or cannot build the graph.
        OutputError: the cache cannot be written.
    """
    if engine not in MODULES:
        building = [name for name in MODULES if engine_status(name).builds]
        raise EngineError(f"there is no engine {engine!r} to build for; those that build here: {', '.join(building)}")
    status = engine_status(engine)
    if not status.builds:
        raise EngineError(f"the engine {engine} does not build on this machine: {status.detail}. {status.fix}")
    _check_fits(engine, [graph])
    return backend_of(engine).build(graph, engine, **options)
