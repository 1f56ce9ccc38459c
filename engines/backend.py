"""What every backend offers: whether it works here, what keeps a graph from starting, and how to open and build one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tav_sdk.engines.base import Engine, Graph
from tav_sdk.errors import InputError


@dataclass(frozen=True, kw_only=True)
class EngineStatus:
    """Whether an engine works on this machine.

    Attributes:
        engine: its name, such as ``onnxruntime-cpu``.
        runs: whether it can run a graph here.
        builds: whether it can build a graph here, which needs no GPU for TensorRT for RTX.
        detail: versions and device, or why it does not run.
        fix: what to install or change so that it runs; empty if it does.
    """

    engine: str
    runs: bool
    builds: bool
    detail: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """Why an engine that works here cannot start a graph at once.

    Attributes:
        reason: the words that follow the engine's name, such as ``has to be built first``.
        fits: whether the engine runs the graph all the same, once it is built.
        fix: which engine to take instead; empty if it fits.
    """

    reason: str
    fits: bool
    fix: str = ""


NOT_BUILT = Obstacle(reason="has to be built first", fits=True)
INT8 = Obstacle(
    reason="does not run int8, which is made for onnxruntime-cpu", fits=False, fix="choose the engine onnxruntime-cpu"
)
"""The obstacle of an int8 graph on every engine but ``onnxruntime-cpu``."""


class Backend(Protocol):
    """A library that runs graphs, under one engine's name or several.

    The module of a backend holds one such object, ``BACKEND``, and loads the library only when a method needs it.
    """

    def status(self, engine: str) -> EngineStatus:
        """Whether an engine of this backend works on this machine; never raises."""
        ...

    def obstacle(self, graph: Graph, engine: str) -> Obstacle | None:
        """Why the engine, which works here, cannot start the graph at once; ``None`` if it can."""
        ...

    def open(self, graph: Graph, engine: str) -> Engine:
        """Open a graph; one that has to be built is built, or taken from the cache.

        Raises:
            EngineError: the graph cannot be built or loaded.
            OutputError: the cache cannot be written.
        """
        ...

    def build(self, graph: Graph, engine: str, **options: Any) -> Path | None:
        """Build a graph ahead of its first use, into the cache of engines.

        Returns:
            What was built or found there; ``None`` if the engine starts from the graph itself.

        Raises:
            InputError: an option is not one of the engine's, or out of range.
            EngineError: the graph cannot be built.
            OutputError: the cache cannot be written.
        """
        ...


def refuse_build_options(engine: str, options: dict[str, Any]) -> None:
    """Check that nothing is asked of a build where there is none.

    Raises:
        InputError: an option was given.
    """
    if options:
        raise InputError(f"{engine} has no build options, got {', '.join(options)}; leave them out")
