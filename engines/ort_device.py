"""Running an ONNX Runtime session on a GPU: its inputs, outputs and tuned weights in buffers of their own.

Buffers are made once for every combination of shapes and stay at their addresses, so that ONNX Runtime can record the
whole run as a CUDA graph and replay it; another clip's weights are copied over those before.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tav_sdk.engines.base import TensorSpec, Weights
from tav_sdk.engines.ort_import import import_onnxruntime

_BF16 = 16  # onnx.TensorProto.BFLOAT16, for which numpy has no type


class DeviceRunner:
    """A session's buffers on one device; it runs for one thread at a time.

    Args:
        session: an ``onnxruntime.InferenceSession``.
        outputs: the graph's outputs.
        tuned: the weights that it takes.
        device: ``cuda``, or ``cpu`` to try the same on the CPU.
        records: whether the session records CUDA graphs.
    """

    def __init__(
        self,
        session: Any,
        outputs: Sequence[TensorSpec],
        tuned: Sequence[TensorSpec],
        *,
        device: str = "cuda",
        records: bool = False,
    ) -> None:
        self._session, self._outputs, self._tuned = session, tuple(outputs), tuple(tuned)
        self._device, self._records = device, records
        self._lock = threading.Lock()
        self._weights: dict[str, Any] = {}
        self._resident: str | None = None
        self._runs: dict[tuple[object, ...], _Run] = {}

    def run(self, feeds: Mapping[str, np.ndarray], weights: Weights | None) -> dict[str, np.ndarray]:
        """One run on checked feeds and weights; see :meth:`~tav_sdk.engines.base.Engine.run`."""
        with self._lock:
            if weights is not None and weights.key != self._resident:
                self._resident = None  # whatever happens in between
                for spec in self._tuned:
                    if spec.name not in self._weights:
                        self._weights[spec.name] = self._buffer(spec.shape, spec.dtype)
                    self._weights[spec.name].update_inplace(np.ascontiguousarray(weights.tensors[spec.name]))
                self._resident = weights.key
            key = (weights is None, *(array.shape for array in feeds.values()))
            if key not in self._runs:
                self._runs[key] = self._make_run(feeds, self._weights if weights is not None else {})
            return self._runs[key].run(feeds)

    def _make_run(self, feeds: Mapping[str, np.ndarray], weights: Mapping[str, Any]) -> _Run:
        inputs = {name: self._buffer(array.shape, array.dtype.name) for name, array in feeds.items()}
        lengths: dict[Any, Any] = {
            axis: length
            for spec in self._session.get_inputs()
            if spec.name in feeds
            for axis, length in zip(spec.shape, feeds[spec.name].shape, strict=True)
            if isinstance(axis, str)
        }
        outputs = {
            spec.name: self._buffer([lengths.get(axis, axis) for axis in spec.shape], spec.dtype)
            for spec in self._outputs
        }
        binding = self._session.io_binding()
        for name, value in (*inputs.items(), *weights.items()):
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        return _Run(self._session, binding, inputs, outputs, len(self._runs) if self._records else None)

    def _buffer(self, shape: Sequence[Any], dtype: str) -> Any:
        kind = _BF16 if dtype == "bfloat16" else np.dtype(dtype).type
        return import_onnxruntime().OrtValue.ortvalue_from_shape_and_type(list(shape), kind, self._device, 0)


class _Run:
    """Buffers and their binding for one combination of shapes."""

    def __init__(
        self, session: Any, binding: Any, inputs: dict[str, Any], outputs: dict[str, Any], recording: int | None
    ) -> None:
        self._session, self._binding, self._inputs, self._outputs = session, binding, inputs, outputs
        self._options: Any = import_onnxruntime().RunOptions()
        if recording is not None:
            # Every combination has a CUDA graph of its own.
            self._options.add_run_config_entry("gpu_graph_id", str(recording + 1))

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        for name, value in self._inputs.items():
            value.update_inplace(feeds[name])
        self._session.run_with_iobinding(self._binding, self._options)
        # On the CPU numpy() may be the buffer itself, which the next run overwrites.
        return {name: np.array(value.numpy()) for name, value in self._outputs.items()}
