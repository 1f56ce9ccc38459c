"""Choosing an engine by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from tav_sdk.engines.base import Engine, TensorSpec
from tav_sdk.errors import EngineError, MissingExtraError

PREFERENCE = ("onnxruntime-cuda", "onnxruntime-cpu")
"""What ``auto`` takes: the first that works here."""


def available_engines() -> dict[str, str]:
    """The engines that can run on this machine, best first, with a word on each.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingExtraError("running a bundle", "", "onnxruntime")
    from tav_sdk.engines import ort

    found = ort.available()
    return {name: found[name] for name in PREFERENCE if name in found}


def resolve_engine(engine: str) -> str:
    """The name of an engine that works here; ``auto`` becomes the best one.

    Raises:
        EngineError: the name is unknown, or that engine does not work here; lists those that do.
    """
    found = available_engines()
    if engine == "auto" and found:
        return next(iter(found))
    if engine not in found:
        raise EngineError(
            f"there is no engine {engine!r} on this machine; those that work here: auto, {', '.join(found)}"
        )
    return engine


def open_engine(
    path: str | Path,
    name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    engine: str = "auto",
) -> Engine:
    """Open a graph on an engine; see :class:`~tav_sdk.engines.ort.OrtEngine` for the arguments.

    Raises:
        EngineError: the engine does not work here, or the graph cannot be loaded.
    """
    from tav_sdk.engines.ort import OrtEngine

    return OrtEngine(path, name, inputs, outputs, engine=resolve_engine(engine))
