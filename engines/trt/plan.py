"""A plan's file onto the GPU; and where TensorRT refuses it, why, and what to do."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tav_sdk.engines.base import Graph
from tav_sdk.engines.trt import cuda
from tav_sdk.engines.trt.api import Flavour
from tav_sdk.errors import EngineError

_REFUSALS = (
    ("it was built with another version", "VERSION_MISMATCH", ("compatible with this version", "version tag")),
    ("it was built for a GPU of another architecture", "UNSUPPORTED_CC", ("incompatible device", "compute capability")),
    ("the GPU's memory is too small for it", "INSUFFICIENT_GPU_MEMORY", ("out of memory", "outofmemory")),
    ("it is damaged, or no plan of this engine", "MALFORMED_ENGINE", ("serialization", "is empty", "empty memory")),
    ("the GPU's driver is too old for it", "OLD_CUDA_DRIVER", ("driver version is insufficient",)),
    ("the CUDA runtime is too old for it", "OLD_CUDA_RUNTIME", ()),
)
"""Why a plan is refused: in our words, in ``EngineInvalidityDiagnostics``, and in phrases of TensorRT's log."""


def load_plan(flavour: Flavour, graph: Graph, path: Path) -> Any:
    """Load a plan onto the GPU.

    Args:
        flavour: what it was built with.
        graph: what it was built from, for messages.
        path: the plan's file, which is not needed afterwards.

    Returns:
        TensorRT's ``ICudaEngine``.

    Raises:
        EngineError: there is no GPU, or the plan cannot be read or is refused; says why and what to do.
        MissingExtraError: cuda-python is not installed.
    """
    cuda.device()
    flavour.log.clear()
    wrong: list[str] = []
    said: list[str] = []
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            runtime = flavour.trt.Runtime(flavour.log.logger)
            loaded = runtime.deserialize_cuda_engine(plan)
            if loaded is None:
                said = list(flavour.log)
                wrong = flavour.what_is_wrong(runtime, plan)
    except ValueError:  # an empty file cannot be mapped
        loaded, said = None, ["the file is empty"]
    except OSError as error:
        raise EngineError(
            f"the plan {path} cannot be read: {error.strerror or error}; {rebuild_hint(flavour.engine)}"
        ) from error
    if loaded is None:
        why, hint = explain_refusal(wrong, said), rebuild_hint(flavour.engine)
        raise EngineError(f"{flavour.title} cannot load the plan {path} of the {graph.name} graph: {why}; {hint}")
    return loaded


def explain_refusal(wrong: Sequence[str], said: Sequence[str]) -> str:
    """Why a plan does not load, in a few words and TensorRT's own.

    Args:
        wrong: what the runtime finds wrong, if it says: names of ``EngineInvalidityDiagnostics``.
        said: what it logged.
    """
    words = " ".join(said).lower()
    reasons = [reason for reason, name, _ in _REFUSALS if name in wrong]
    reasons += [reason for reason, _, phrases in _REFUSALS if any(phrase in words for phrase in phrases)]
    quoted = " ".join(said[0].split())[:500] if said else "TensorRT does not say why"
    return f"{reasons[0]} ({quoted})" if reasons else quoted


def rebuild_hint(engine: str) -> str:
    """What to do about a plan that cannot be used, to end an error with."""
    return f"build it again with: tav build BUNDLE --engine {engine}"
