"""From an ONNX graph to a TensorRT plan, which is one file.

Needs neither torch nor onnx, and TensorRT for RTX no GPU either.

A plan serves every clip on one base: the tuned weights are inputs of it, so it holds none of them. Measured against
refitting, which TensorRT has for this: a refittable plan cannot be built without NVIDIA's driver, a refit must not
overlap a run, and TensorRT 11.3 knows of refittable plans that lose the bias of a matrix product.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tav_sdk.engines.base import Graph
from tav_sdk.engines.trt import cuda
from tav_sdk.engines.trt.api import Flavour, load
from tav_sdk.engines.trt.profiles import Shapes, profiles_of
from tav_sdk.errors import EngineError, InputError, TavError
from tav_sdk.files import new_file


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How a plan is built; see :func:`build_plan`."""

    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int | None = None
    workspace: int | None = None

    def __post_init__(self) -> None:
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise InputError(f"optimization_level must be 0 to 5, got {self.optimization_level}")
        if self.workspace is not None and self.workspace <= 0:
            raise InputError(f"workspace must be a positive number of bytes, got {self.workspace}")


def build_plan(
    graph: Graph,
    path: str | Path,
    *,
    engine: str,
    compute_capabilities: Sequence[str] = (),
    optimization_level: int | None = None,
    workspace: int | None = None,
    timing_cache: str | Path | None = None,
) -> None:
    """Build a graph and write its plan, whole or not at all.

    Types are the graph's own: nothing is computed in another precision than it says.

    Args:
        graph: what to build; its tuned weights become inputs of the plan.
        path: the file to write; an existing one is replaced.
        engine: ``tensorrt`` or ``tensorrt-rtx``.
        compute_capabilities: the GPUs to build for, such as ``("8.9", "12.0")``; by default those that TensorRT for RTX
            takes together, 8.0, 8.6, 8.9, 12.0 and later. TensorRT builds for the GPU that it runs on.
        optimization_level: 0 to 5, how long to search; by default TensorRT's.
        workspace: bytes of scratch memory that one layer may take; by default all that the GPU has.
        timing_cache: file of measured timings, read and added to, so that a similar build is faster; not for TensorRT
            for RTX, which measures nothing when it builds.

    Raises:
        InputError: an option is out of range, or a compute capability is not known; lists those known.
        EngineError: TensorRT cannot build it; says what TensorRT said.
        MissingExtraError: TensorRT for RTX or Polygraphy is not installed.
        OutputError: the plan cannot be written.
    """
    options = BuildOptions(
        compute_capabilities=tuple(compute_capabilities), optimization_level=optimization_level, workspace=workspace
    )
    flavour = load(engine)
    flavour.check_capabilities(options.compute_capabilities)
    profiles = profiles_of(graph)
    if flavour.is_rtx and timing_cache is not None:
        raise InputError(f"{engine} measures nothing when it builds, so it has no use for a timing_cache; leave it out")
    if not flavour.is_rtx:
        cuda.device()  # says why there is none; TensorRT would crash or mumble
    with new_file(path) as temporary:
        with _errors_of(flavour, graph):
            plan = _build(flavour, graph, profiles, options, timing_cache)
        with open(temporary, "wb") as file:
            file.write(memoryview(plan))


def _build(
    flavour: Flavour, graph: Graph, profiles: list[Shapes], options: BuildOptions, timing_cache: str | Path | None
) -> Any:
    polygraphy = flavour.polygraphy("polygraphy.backend.trt")
    logger = flavour.polygraphy("polygraphy.logger").G_LOGGER
    common: dict[str, Any] = {
        "profiles": [_profile(polygraphy, graph, shapes) for shapes in profiles],
        "profiling_verbosity": flavour.trt.ProfilingVerbosity.LAYER_NAMES_ONLY,
        "builder_optimization_level": options.optimization_level,
    }
    if options.workspace is not None:
        common["memory_pool_limits"] = {flavour.trt.MemoryPoolType.WORKSPACE: options.workspace}
    timings = None if timing_cache is None else str(timing_cache)
    if timings is not None and Path(timings).is_file():
        common["load_timing_cache"] = timings
    # Polygraphy prints; what it says is in the exception. And it sets a timing cache, which RTX warns of.
    with logger.verbosity(logger.CRITICAL + 1), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        builder, network, parser = polygraphy.network_from_onnx_path(
            str(graph.path), strongly_typed=flavour.has_typing_flag
        )
        _tuned_to_inputs(flavour, graph, network)
        _let_attention_decompose(flavour, network)
        config = flavour.create_config(options.compute_capabilities, **common)
        # The parser holds the weights that the network points to.
        return polygraphy.engine_bytes_from_network((builder, network, parser), config, save_timing_cache=timings)


def _profile(polygraphy: Any, graph: Graph, shapes: Shapes) -> Any:
    profile = polygraphy.Profile()
    for spec in graph.inputs:
        if any(isinstance(axis, str) for axis in spec.shape):
            shape = shapes[spec.name]
            profile.add(spec.name, min=shape, opt=shape, max=shape)
    return profile


def _tuned_to_inputs(flavour: Flavour, graph: Graph, network: Any) -> None:
    """Make inputs of the tuned weights, which the parser takes for constants, since they have a default value.

    Raises:
        EngineError: the network has no such weight as a tensor of its own, or one of another dtype or shape.
    """
    if not graph.tuned:
        return
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    constants = {layer.name: layer.get_output(0) for layer in layers if layer.type == flavour.trt.LayerType.CONSTANT}
    inputs = {}
    for spec in graph.tuned:
        tensor = constants.get(spec.name)
        dtype = getattr(flavour.trt, spec.dtype, None)
        if tensor is None or tensor.dtype != dtype or tuple(tensor.shape) != spec.shape:
            got = "none" if tensor is None else f"{tensor.dtype}{list(tensor.shape)}"
            raise EngineError(
                f"the {graph.name} graph has to have the tuned weight {spec.name!r} ({spec}) as a tensor of its own, "
                f"which {flavour.title} can make an input of; got {got}. Export the bundle again, tuned in linear "
                "layers only."
            )
        inputs[tensor.name] = network.add_input(spec.name, dtype, spec.shape)
    for layer in layers:
        for index in range(layer.num_inputs):
            tensor = layer.get_input(index)  # None where an optional one is left out
            if tensor is not None and tensor.name in inputs:
                layer.set_input(index, inputs[tensor.name])


def _let_attention_decompose(flavour: Flavour, network: Any) -> None:
    """Let attention run as matrix products where no fused kernel takes its dtype and width; without, that fails."""
    if not hasattr(flavour.trt.LayerType, "ATTENTION_INPUT"):  # TensorRT before 10.14 has no such layer
        return
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == flavour.trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = flavour.trt.IAttentionInputLayer  # as TensorRT's bindings want it
            layer.attention.decomposable = True


@contextlib.contextmanager
def _errors_of(flavour: Flavour, graph: Graph) -> Iterator[None]:
    """What goes wrong in a build, as one ``EngineError`` with TensorRT's own words."""
    flavour.log.clear()
    try:
        yield
    except TavError:
        raise
    except MemoryError as error:
        raise EngineError(
            f"{flavour.title} ran out of memory while it built the {graph.name} graph; close other programs, or build "
            "on a machine with more (the U-Net of Stable Diffusion 1.4 took 6.2 GB)"
        ) from error
    except Exception as error:  # Polygraphy's and TensorRT's errors have no common base
        said = str(flavour.log)
        hint = "; it ran out of memory: close other programs, or lower workspace" if "memory" in said.lower() else ""
        what = " ".join(str(error).split())
        raise EngineError(
            f"{flavour.title} cannot build the {graph.name} graph {graph.path}: {said} ({what}){hint}"
        ) from error
