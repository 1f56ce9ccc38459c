"""ONNX Runtime, on the CPU, on CUDA, and with TensorRT inside."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from tav_sdk.engines.backend import INT8, NOT_BUILT, Backend, EngineStatus, Obstacle, refuse_build_options
from tav_sdk.engines.base import Engine, Graph, Weights
from tav_sdk.engines.ort_device import DeviceRunner
from tav_sdk.engines.ort_import import import_onnxruntime, log_severity
from tav_sdk.engines.ort_placement import RECORD, has_compute_on_cpu, warn_of_cpu
from tav_sdk.engines.threads import default_threads
from tav_sdk.errors import EngineError
from tav_sdk.words import logger, said

CPU = "onnxruntime-cpu"
PROVIDERS = {
    "onnxruntime-tensorrt": "TensorrtExecutionProvider",
    "onnxruntime-tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
    "onnxruntime-cuda": "CUDAExecutionProvider",
    CPU: "CPUExecutionProvider",
}
"""Every engine that is ONNX Runtime, and its execution provider there."""

_log = logger(__name__)
_NO_BF16 = Obstacle(reason="has no bfloat16 kernels", fits=False, fix="choose openvino-cpu, or an engine on a GPU")
_GPU = 'pip install "tav-sdk[gpu]", then pip install --force-reinstall --no-deps onnxruntime-gpu'
_REPAIR = "Put its files back: pip install --force-reinstall --no-deps onnxruntime, or onnxruntime-gpu if you use that."
_FIXES = {
    "onnxruntime-tensorrt": f"{_GPU}. It needs TensorRT's libraries and an NVIDIA GPU as well.",
    "onnxruntime-tensorrt-rtx": "Needs a build of ONNX Runtime with the NvTensorRtRtx provider and an RTX GPU.",
    "onnxruntime-cuda": f"{_GPU}. It needs an NVIDIA GPU and its driver.",
    CPU: "pip install onnxruntime",
}


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

    def __init__(self, graph: Graph, *, engine: str = CPU, num_threads: int | None = None) -> None:
        super().__init__(graph.name, graph.inputs, graph.outputs, tuned=graph.tuned, precision=graph.precision)
        self.backend = engine
        self._session: Any
        self._session, records = _open_session(graph, engine, num_threads)
        if self._session.get_providers()[0] != PROVIDERS[engine]:
            raise EngineError(
                f"{engine} was asked for, but ONNX Runtime fell back to {self._session.get_providers()[0]}; "
                f"check the GPU driver and the CUDA libraries (TAV_DEBUG=1 shows what ONNX Runtime says of them), or "
                f"choose the engine {CPU}"
            )
        self._runner: DeviceRunner | None = (
            None if engine == CPU else DeviceRunner(self._session, self.outputs, self.tuned, records=records)
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
            raise EngineError(f"ONNX Runtime failed in the {self.name} graph: {said(error)}") from error

    def _close(self) -> None:
        self._session = self._runner = None


class OrtBackend:
    """ONNX Runtime, under the names of :data:`PROVIDERS`."""

    def status(self, engine: str) -> EngineStatus:
        """Whether this installation of ONNX Runtime has the engine's provider, and a GPU for it."""
        if importlib.util.find_spec("onnxruntime") is None:
            detail = "onnxruntime is not installed"
            return EngineStatus(engine=engine, runs=False, builds=False, detail=detail, fix=_FIXES[engine])
        try:
            onnxruntime = import_onnxruntime()
            version, providers = f"ONNX Runtime {onnxruntime.__version__}", onnxruntime.get_available_providers()
        except (ImportError, AttributeError) as error:  # onnxruntime and onnxruntime-gpu remove each other's files
            detail = f"onnxruntime is installed, but cannot be used: {error}"
            return EngineStatus(engine=engine, runs=False, builds=False, detail=detail, fix=_REPAIR)
        if PROVIDERS[engine] not in providers:
            detail = f"{version} here has no {PROVIDERS[engine]}"
            return EngineStatus(engine=engine, runs=False, builds=False, detail=detail, fix=_FIXES[engine])
        return EngineStatus(engine=engine, runs=True, builds=True, detail=version)

    def obstacle(self, graph: Graph, engine: str) -> Obstacle | None:
        """A precision without kernels; or TensorRT, whose engine a session builds when it is made."""
        if engine == CPU:
            return _NO_BF16 if graph.precision == "bf16" else None
        if graph.precision == "int8":
            return INT8
        return NOT_BUILT if "tensorrt" in engine else None

    def open(self, graph: Graph, engine: str) -> Engine:
        """Open a graph; see :class:`OrtEngine`."""
        return OrtEngine(graph, engine=engine)

    def build(self, graph: Graph, engine: str, **options: Any) -> None:
        """Nothing, since a session starts from the graph; an option is an :class:`~tav_sdk.errors.InputError`."""
        refuse_build_options(engine, options)


BACKEND: Backend = OrtBackend()


def _open_session(graph: Graph, engine: str, num_threads: int | None) -> tuple[Any, bool]:
    """A session, and whether it records CUDA graphs."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = log_severity()
    # 0 lets ONNX Runtime choose.
    options.intra_op_num_threads = num_threads or default_threads()
    provider = PROVIDERS[engine]
    if engine != CPU:
        _load_cuda_libraries(onnxruntime)
    rest = [] if engine == CPU else ["CPUExecutionProvider"]
    partly_on_cpu = False
    if engine == "onnxruntime-cuda":
        options.add_session_config_entry(RECORD, "1")
        try:
            recording = (provider, {"enable_cuda_graph": "1"})
            return onnxruntime.InferenceSession(str(graph.path), options, providers=[recording, *rest]), True
        except Exception as error:  # noqa: BLE001  a node that has to run on the CPU cannot be recorded
            partly_on_cpu = has_compute_on_cpu(error)
            _log.info("the %s graph runs without CUDA graphs: %s", graph.name, error)
    try:
        session = onnxruntime.InferenceSession(str(graph.path), options, providers=[provider, *rest])
    except Exception as error:  # ONNX Runtime's errors have no common base but Exception
        raise EngineError(f"ONNX Runtime cannot load the {graph.name} graph {graph.path}: {said(error)}") from error
    if partly_on_cpu:
        warn_of_cpu(graph.name, session)
    return session, False


def _load_cuda_libraries(onnxruntime: Any) -> None:
    """Load CUDA and cuDNN from the packages that the extra ``gpu`` installs; without them the system's are used."""
    try:
        installed = importlib.util.find_spec("nvidia.cudnn") is not None
    except ModuleNotFoundError:
        installed = False
    if installed and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
