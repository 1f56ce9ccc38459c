"""Plans in the cache of engines: made there, and found again by graph, version and GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tav_sdk.cache.entry import cache_key
from tav_sdk.cache.store import Cache
from tav_sdk.engines.base import Graph
from tav_sdk.engines.trt import cuda
from tav_sdk.engines.trt.api import Flavour, load
from tav_sdk.engines.trt.build import BuildOptions, build_plan
from tav_sdk.engines.trt.profiles import profiles_of
from tav_sdk.errors import InputError, TavError

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
        options: how to build it; by default as :func:`default_options` says.
        timing_cache: as in :func:`build_plan`.
        cache: by default the user's cache of engines.

    Returns:
        The plan's file, which stays until this process ends.

    Raises:
        InputError: the graph has no key, or an option is out of range.
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
    """The facts in which all plans of a graph agree, whatever GPU and options they were built for."""
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
    """How a plan is built by default: for the usual GPUs, or for this machine's if it is not among them."""
    turing = flavour.is_rtx and _capability() == "7.5"
    return BuildOptions(compute_capabilities=("7.5",) if turing else ())


def _capability() -> str:
    """The compute capability of this machine's GPU; empty if there is none."""
    try:
        return cuda.device().capability
    except TavError:
        return ""
