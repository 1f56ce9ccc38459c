"""OpenVINO on the CPU: bfloat16 where the processor has it, and larger models mostly faster than on ONNX Runtime."""

# OpenVINO's bindings are annotated loosely:
# pyright: reportAttributeAccessIssue=false, reportMissingImports=false

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import threading
from typing import Any

import numpy as np

from tav_sdk.engines.backend import INT8, Backend, EngineStatus, Obstacle, refuse_build_options
from tav_sdk.engines.base import Engine, Graph, Weights
from tav_sdk.engines.threads import default_threads
from tav_sdk.errors import EngineError
from tav_sdk.words import said

_FIX = 'pip install "tav-sdk[openvino]"'


class OpenVinoEngine(Engine):
    """A graph compiled by OpenVINO for the CPU; threads take turns.

    Tuned weights become inputs of the compiled model, so that one serves all clips on one base. A graph in bf16 is
    computed in it where the processor can, every other one in float32.

    Args:
        graph: what to run.
        num_threads: by default all cores that this process may use. The environment variable ``TAV_NUM_THREADS`` sets
            another default.

    Raises:
        EngineError: the graph cannot be compiled.
    """

    backend = "openvino-cpu"

    def __init__(self, graph: Graph, *, num_threads: int | None = None) -> None:
        super().__init__(graph.name, graph.inputs, graph.outputs, tuned=graph.tuned, precision=graph.precision)
        num_threads = num_threads or default_threads()
        properties: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if graph.precision == "bf16" and _has_bf16() else "f32",
        }
        if num_threads:
            properties["INFERENCE_NUM_THREADS"] = num_threads
        try:
            model = _read(str(graph.path))
            self._own: dict[str, np.ndarray] = _open_weights(model, {spec.name for spec in graph.tuned})
            self._request: Any = _core().compile_model(model, "CPU", properties).create_infer_request()
        except Exception as error:  # OpenVINO raises RuntimeError for everything
            raise EngineError(f"OpenVINO cannot load the {graph.name} graph {graph.path}: {said(error)}") from error
        self._lock = threading.Lock()
        self._loaded: str | None = None
        self._load(None)

    def _run(self, feeds: dict[str, np.ndarray], weights: Weights | None) -> dict[str, np.ndarray]:
        with self._lock:
            try:
                if (weights.key if weights else None) != self._loaded:
                    self._load(weights)
                for name, array in feeds.items():
                    self._fill(name, array)
                self._request.infer()
                return {spec.name: self._request.get_tensor(spec.name).data.copy() for spec in self.outputs}
            except Exception as error:
                raise EngineError(f"OpenVINO failed in the {self.name} graph: {said(error)}") from error

    def _load(self, weights: Weights | None) -> None:
        """Copy a clip's weights, or those of the graph, to their inputs."""
        self._loaded = ""  # in between they are nobody's
        for spec in self.tuned:
            self._fill(spec.name, self._own[spec.name] if weights is None else weights.tensors[spec.name])
        self._loaded = weights.key if weights else None

    def _fill(self, name: str, array: np.ndarray) -> None:
        """Copy to the request's own tensor; OpenVINO takes no array that is read-only, as a file's is."""
        tensor = self._request.get_tensor(name)
        if tuple(tensor.shape) != array.shape:
            tensor.shape = array.shape
        # As bytes, since numpy has no bfloat16.
        np.copyto(tensor.data.reshape(-1).view(np.uint8), np.ascontiguousarray(array).reshape(-1).view(np.uint8))

    def _close(self) -> None:
        self._request, self._own = None, {}


class OpenVinoBackend:
    """OpenVINO on the CPU; a graph is compiled when it is opened, in about a second."""

    def status(self, engine: str) -> EngineStatus:
        """Whether OpenVINO is installed, and whether this processor has bfloat16."""
        if importlib.util.find_spec("openvino") is None:
            return EngineStatus(engine=engine, runs=False, builds=False, detail="openvino is not installed", fix=_FIX)
        try:
            bf16 = "with bfloat16" if _has_bf16() else "without bfloat16, which is computed in float32"
        except Exception as error:  # noqa: BLE001  a library of its own that may be missing parts
            return EngineStatus(engine=engine, runs=False, builds=False, detail=f"openvino fails: {error}", fix=_FIX)
        detail = f"OpenVINO {importlib.metadata.version('openvino')} on the CPU, {bf16}"
        return EngineStatus(engine=engine, runs=True, builds=True, detail=detail)

    def obstacle(self, graph: Graph, engine: str) -> Obstacle | None:
        """The obstacle of int8, which is the only one."""
        return INT8 if graph.precision == "int8" else None

    def open(self, graph: Graph, engine: str) -> Engine:
        """Open a graph; see :class:`OpenVinoEngine`."""
        return OpenVinoEngine(graph)

    def build(self, graph: Graph, engine: str, **options: Any) -> None:
        """Nothing; an option is an :class:`~tav_sdk.errors.InputError`."""
        refuse_build_options(engine, options)


BACKEND: Backend = OpenVinoBackend()


def _open_weights(model: Any, names: set[str]) -> dict[str, np.ndarray]:
    """Make parameters of a model's constants; their values, by name."""
    from openvino import opset13

    values, parameters = {}, []
    for constant in model.get_ops():
        name = constant.get_friendly_name()
        if constant.get_type_name() != "Constant" or name not in names:
            continue
        output = constant.output(0)
        values[name] = np.array(constant.get_data())
        parameter = opset13.parameter(output.get_shape(), output.get_element_type(), name)
        for target in output.get_target_inputs():
            target.replace_source_output(parameter.output(0))
        parameter.output(0).set_names({name})
        parameters.append(parameter)
    model.add_parameters(parameters)
    model.validate_nodes_and_infer_types()
    return values


def _read(path: str) -> Any:
    """A graph as OpenVINO's model, read as ONNX: left to guess, its other readers write to standard error."""
    from openvino.frontend import FrontEndManager

    front_end = FrontEndManager().load_by_framework("onnx")
    return front_end.convert(front_end.load(path))


@functools.cache
def _core() -> Any:
    import openvino

    return openvino.Core()


@functools.cache
def _has_bf16() -> bool:
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
