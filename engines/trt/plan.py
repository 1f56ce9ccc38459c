"""Plans of TensorRT: made, found in the cache, and loaded."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tav_sdk.cache.entry import cache_key
from tav_sdk.cache.store import Cache
from tav_sdk.engines.base import Graph
from tav_sdk.engines.trt import cuda
from tav_sdk.engines.trt.api import Flavour, load
from tav_sdk.engines.trt.build import BuildOptions, build_plan, profiles_of
from tav_sdk.errors import EngineError, InputError, TavError


def load_plan(flavour: Flavour, graph: Graph, path: Path) -> Any:
    """A plan on the GPU."""
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


def rebuild_hint(engine: str) -> str:
    return f"build it again with: tav build BUNDLE --engine {engine}"


_REFUSALS = (
    ("it was built with another version", "VERSION_MISMATCH", ("compatible with this version", "version tag")),
    ("it was built for a GPU of another architecture", "UNSUPPORTED_CC", ("incompatible device", "compute capability")),
    ("the GPU's memory is too small for it", "INSUFFICIENT_GPU_MEMORY", ("out of memory", "outofmemory")),
    ("it is damaged, or no plan of this engine", "MALFORMED_ENGINE", ("serialization", "is empty", "empty memory")),
    ("the GPU's driver is too old for it", "OLD_CUDA_DRIVER", ("driver version is insufficient",)),
    ("the CUDA runtime is too old for it", "OLD_CUDA_RUNTIME", ()),
)


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


PLAN_FILE = "model.plan"
"""The plan in its folder of the cache."""
DEFAULT_GPUS = ["default"]
"""In a plan's facts: the compute capabilities that TensorRT for RTX takes unless it is told."""


def make_plan(
    graph: Graph,
    engine: str,
    *,
    options: BuildOptions | None = None,
    timing_cache: str | Path | None = None,
    cache: Cache | None = None,
) -> Path:
    """A graph's plan in the cache, built now if it is not there.

    Args:
        graph: one with a key.
        engine: ``tensorrt`` or ``tensorrt-rtx``.
        options: how to build it; by default for this machine's GPU, or for those that come by default.
        timing_cache: as in :func:`build_plan`.
        cache: by default the user's cache of engines.

    Returns:
        The plan's file, which stays until this process ends.

    Raises:
        InputError: the graph has no key, or an option cannot be.
        EngineError: it cannot be built.
        OutputError: the cache cannot be written.
    """
    flavour = load(engine)
    options = default_options(flavour) if options is None else options
    flavour.check_capabilities(options.compute_capabilities)
    facts = plan_facts(graph, flavour, options)

    def make(folder: Path) -> None:
        build_plan(
            graph,
            folder / PLAN_FILE,
            engine=engine,
            compute_capabilities=options.compute_capabilities,
            optimization_level=options.optimization_level,
            workspace=options.workspace,
            timing_cache=timing_cache,
        )

    return (cache or Cache("engines")).get_or_make(cache_key(facts), make, facts=facts) / PLAN_FILE


def find_plan(graph: Graph, engine: str, *, cache: Cache | None = None) -> Path | None:
    """A plan in the cache that runs on this machine's GPU, with whatever options it was built.

    One for this GPU alone comes before one for several, and of those the last used.
    """
    cache = cache or Cache("engines")
    for key in _fitting(graph, load(engine), cache):
        if (folder := cache.get(key)) is not None:
            return folder / PLAN_FILE
    return None


def has_plan(graph: Graph, engine: str, *, cache: Cache | None = None) -> bool:
    """Whether :func:`find_plan` would find a plan, as far as can be said without reading it."""
    return bool(_fitting(graph, load(engine), cache or Cache("engines")))


def _fitting(graph: Graph, flavour: Flavour, cache: Cache) -> list[str]:
    """The keys of plans for a graph and this machine's GPU, the best first."""
    if graph.key is None:
        return []
    wanted = _graph_facts(graph, flavour)
    found = []
    for entry in cache.entries():  # the last used first
        facts = dict(entry.facts)
        same = not entry.problem and {name: facts.get(name) for name in wanted} == wanted
        if same and cache_key(facts) == entry.key and (rank := _rank(flavour, facts.get("gpus"))) is not None:
            found.append((rank, entry.key))
    return [key for _, key in sorted(found, key=lambda pair: pair[0])]


def _rank(flavour: Flavour, gpus: Any) -> int | None:
    """How well a plan for these GPUs fits this machine's, 0 the best; ``None`` if it does not run there."""
    if not flavour.is_rtx:
        return 0 if gpus == [str(cuda.device())] else None
    own = _capability()
    if gpus == [own]:
        return 0
    if gpus == DEFAULT_GPUS:  # without a GPU it is the one to have
        return 2 if own == "" or float(own) >= 8 else None
    return 1 if own in (gpus or ()) else None


def plan_facts(graph: Graph, flavour: Flavour, options: BuildOptions) -> dict[str, Any]:
    """All that a plan depends on, as plain JSON values: graph and frozen weights, shapes, GPU, version and options.

    Raises:
        InputError: the graph has no key.
        EngineError: the plan is for this machine's GPU, and there is none.
    """
    if graph.key is None:
        raise InputError(f"the {graph.name} graph has no key, so its plan cannot be cached; build it to a file")
    if flavour.is_rtx:
        gpus = sorted(set(options.compute_capabilities), key=float) or DEFAULT_GPUS
    else:
        gpus = [str(cuda.device())]
    return {
        **_graph_facts(graph, flavour),
        "gpus": gpus,
        "optimization_level": options.optimization_level,
        "workspace": options.workspace,
    }


def _graph_facts(graph: Graph, flavour: Flavour) -> dict[str, Any]:
    return {
        "name": graph.name,
        "graph": graph.key,
        "precision": graph.precision,
        "profiles": [{name: list(shape) for name, shape in shapes.items()} for shapes in profiles_of(graph)],
        "weight_inputs": [f"{spec.name}: {spec}" for spec in graph.tuned],
        "engine": flavour.engine,
        "version": flavour.version,
        "flags": ["strongly_typed", "decomposable_attention", "no_tf32"],
    }


def default_options(flavour: Flavour) -> BuildOptions:
    """For many GPUs at once, unless this machine's is not among them."""
    turing = flavour.is_rtx and _capability() == "7.5"
    return BuildOptions(compute_capabilities=("7.5",) if turing else ())


def _capability() -> str:
    try:
        return cuda.device().capability
    except TavError:
        return ""
