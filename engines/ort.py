"""ONNX Runtime, on the CPU, on CUDA, and with TensorRT inside."""

from __future__ import annotations

import importlib.util
import logging
import os
from typing import Any

import numpy as np

from tav_sdk.engines.base import Engine, EngineStatus, Graph, Weights
from tav_sdk.engines.ort_device import DeviceRunner
from tav_sdk.errors import EngineError, InputError

PROVIDERS = {
    "onnxruntime-tensorrt": "TensorrtExecutionProvider",
    "onnxruntime-tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
    "onnxruntime-cuda": "CUDAExecutionProvider",
    "onnxruntime-cpu": "CPUExecutionProvider",
}
_log = logging.getLogger(__name__)
_GPU = 'pip install "tav-sdk[gpu]", then pip install --force-reinstall --no-deps onnxruntime-gpu'
_REPAIR = "Put its files back: pip install --force-reinstall --no-deps onnxruntime, or onnxruntime-gpu if you use that."
_FIXES = {
    "onnxruntime-tensorrt": f"{_GPU}. It needs TensorRT's libraries and an NVIDIA GPU as well.",
    "onnxruntime-tensorrt-rtx": "Needs a build of ONNX Runtime with the NvTensorRtRtx provider and an RTX GPU.",
    "onnxruntime-cuda": f"{_GPU}. It needs an NVIDIA GPU and its driver.",
    "onnxruntime-cpu": "pip install onnxruntime",
}


def status(engine: str) -> EngineStatus:
    """Whether this installation of ONNX Runtime has the engine's provider, and a GPU for it."""
    if importlib.util.find_spec("onnxruntime") is None:
        return EngineStatus(
            engine=engine, runs=False, builds=False, detail="onnxruntime is not installed", fix=_FIXES[engine]
        )
    try:
        import onnxruntime

        version, providers = f"ONNX Runtime {onnxruntime.__version__}", onnxruntime.get_available_providers()
    except (ImportError, AttributeError) as error:  # onnxruntime and onnxruntime-gpu remove each other's files
        detail = f"onnxruntime is installed, but cannot be used: {error}"
        return EngineStatus(engine=engine, runs=False, builds=False, detail=detail, fix=_REPAIR)
    if PROVIDERS[engine] not in providers:
        detail = f"{version} here has no {PROVIDERS[engine]}"
        return EngineStatus(engine=engine, runs=False, builds=False, detail=detail, fix=_FIXES[engine])
    return EngineStatus(engine=engine, runs=True, builds=True, detail=version)


def unready(graph: Graph, engine: str) -> str:
    """Why the graph cannot start at once; empty if it can."""
    # A session with TensorRT inside builds its engine when it is made.
    return "has to be built first" if "tensorrt" in engine else ""


def open_graph(graph: Graph, engine: str) -> Engine:
    """Open a graph; see :class:`OrtEngine`."""
    return OrtEngine(graph, engine=engine)


def build_graph(graph: Graph, engine: str, **options: Any) -> None:
    """Nothing: a session starts from the graph itself.

    Raises:
        InputError: an option was given.
    """
    if options:
        raise InputError(f"{engine} has no build options; got {', '.join(options)}")


class OrtEngine(Engine):
    """A graph in an ONNX Runtime session, which threads may share.

    Tuned weights are inputs of the graph with a default value, so one session serves all clips on one base, and
    another clip's weights cost nothing but their own memory.

    Args:
        graph: what to run.
        engine: one of :data:`PROVIDERS`.
        num_threads: threads of one operator on the CPU; by default one for each physical core that this process may
            use. The environment variable ``TAV_NUM_THREADS`` sets another default.

    Raises:
        EngineError: the session cannot be made.
    """

    def __init__(self, graph: Graph, *, engine: str = "onnxruntime-cpu", num_threads: int | None = None) -> None:
        super().__init__(graph.name, graph.inputs, graph.outputs, tuned=graph.tuned, precision=graph.precision)
        self.backend = engine
        self._session: Any
        self._session, records = _open_session(graph, engine, num_threads)
        if self._session.get_providers()[0] != PROVIDERS[engine]:
            raise EngineError(
                f"{engine} was asked for, but ONNX Runtime fell back to {self._session.get_providers()[0]}; "
                "check the GPU driver and the CUDA libraries, or choose --engine onnxruntime-cpu"
            )
        self._runner: DeviceRunner | None = (
            None
            if engine == "onnxruntime-cpu"
            else DeviceRunner(self._session, self.outputs, self.tuned, records=records)
        )

    def _run(self, feeds: dict[str, np.ndarray], weights: Weights | None) -> dict[str, np.ndarray]:
        try:
            if self._runner is not None:
                return self._runner.run(feeds, weights)
            names = [spec.name for spec in self.outputs]
            # Weights are read where they are, so that all clips' runs share the session, and one clip's their memory.
            tensors = {} if weights is None else {spec.name: weights.tensors[spec.name] for spec in self.tuned}
            return dict(zip(names, self._session.run(names, {**feeds, **tensors}), strict=True))
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed in the {self.name} graph: {error}") from error

    def _close(self) -> None:
        self._session = self._runner = None


def _open_session(graph: Graph, engine: str, num_threads: int | None) -> tuple[Any, bool]:
    """A session, and whether it records CUDA graphs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # 0 lets ONNX Runtime choose.
    options.intra_op_num_threads = num_threads or int(os.environ.get("TAV_NUM_THREADS", "0"))
    provider = PROVIDERS[engine]
    if engine != "onnxruntime-cpu":
        _load_cuda_libraries(onnxruntime)
    rest = [] if engine == "onnxruntime-cpu" else ["CPUExecutionProvider"]
    if engine == "onnxruntime-cuda":
        try:
            recording = (provider, {"enable_cuda_graph": "1"})
            return onnxruntime.InferenceSession(str(graph.path), options, providers=[recording, *rest]), True
        except Exception as error:  # noqa: BLE001  a node that has to run on the CPU cannot be recorded
            _log.info("the %s graph runs without CUDA graphs: %s", graph.name, error)
    try:
        return onnxruntime.InferenceSession(str(graph.path), options, providers=[provider, *rest]), False
    except Exception as error:  # ONNX Runtime's errors have no common base but Exception
        raise EngineError(f"ONNX Runtime cannot load the {graph.name} graph {graph.path}: {error}") from error


def _load_cuda_libraries(onnxruntime: Any) -> None:
    """Load CUDA and cuDNN from the packages that the extra ``gpu`` installs; without them the system's are used."""
    try:
        installed = importlib.util.find_spec("nvidia.cudnn") is not None
    except ModuleNotFoundError:
        installed = False
    if installed and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
