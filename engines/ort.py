"""ONNX Runtime, on the CPU or on CUDA."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tav_sdk.engines.base import Engine, TensorSpec
from tav_sdk.errors import EngineError

PROVIDERS = {"onnxruntime-cpu": "CPUExecutionProvider", "onnxruntime-cuda": "CUDAExecutionProvider"}


def available() -> dict[str, str]:
    """Engine names that this installation of ONNX Runtime can run, with a word on each."""
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    return {name: f"ONNX Runtime {onnxruntime.__version__}" for name, p in PROVIDERS.items() if p in providers}


class OrtEngine(Engine):
    """A graph in an ONNX Runtime session.

    Args:
        path: the ``.onnx`` file; external data lie beside it.
        name: what it runs, for messages.
        inputs: the graph's inputs.
        outputs: the graph's outputs.
        engine: ``onnxruntime-cpu`` or ``onnxruntime-cuda``.
        num_threads: threads of one operator on the CPU; by default one for each physical core that this process may
            use. The environment variable ``TAV_NUM_THREADS`` sets another default.

    Raises:
        EngineError: the session cannot be made.
    """

    def __init__(
        self,
        path: str | Path,
        name: str,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        engine: str = "onnxruntime-cpu",
        num_threads: int | None = None,
    ) -> None:
        super().__init__(name, inputs, outputs)
        import onnxruntime

        self.backend = engine
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # 0 lets ONNX Runtime choose.
        options.intra_op_num_threads = num_threads or int(os.environ.get("TAV_NUM_THREADS", "0"))
        providers = [PROVIDERS[engine]] + (["CPUExecutionProvider"] if engine != "onnxruntime-cpu" else [])
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime's errors have no common base but Exception
            raise EngineError(f"ONNX Runtime cannot load the {name} graph {path}: {error}") from error
        if self._session.get_providers()[0] != PROVIDERS[engine]:
            raise EngineError(
                f"{engine} was asked for, but ONNX Runtime fell back to {self._session.get_providers()[0]}; "
                "check the GPU driver and the CUDA libraries, or choose --engine onnxruntime-cpu"
            )

    def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [spec.name for spec in self.outputs]
        try:
            return dict(zip(names, self._session.run(names, feeds), strict=True))
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed in the {self.name} graph: {error}") from error

    def _close(self) -> None:
        self._session = None
