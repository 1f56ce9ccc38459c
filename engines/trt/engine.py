"""TensorRT and TensorRT for RTX: running a graph's plan on an NVIDIA GPU."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tav_sdk.engines.base import Engine, Graph, TensorSpec, Weights
from tav_sdk.engines.trt import cuda
from tav_sdk.engines.trt.api import load
from tav_sdk.engines.trt.context import Context
from tav_sdk.engines.trt.plan import load_plan, rebuild_hint
from tav_sdk.engines.trt.profiles import choose_profile, profiles_of
from tav_sdk.errors import EngineError, InputError


class TrtEngine(Engine):
    """A plan on the GPU.

    Every combination of lengths that the graph runs with has an execution context, made when it is first met, with
    buffers of its own; from its second run on it is a CUDA graph. The tuned weights lie in buffers that all contexts
    read: another clip's are copied there, which takes as long as 149 MB take to the GPU, and the clip before comes back
    the same way, bit by bit.

    Threads may share an engine; it runs for one of them at a time, because one U-Net fills a GPU, and a second context
    would cost its scratch memory again.

    Args:
        graph: what the plan was built from.
        plan: the plan's file, which is not needed afterwards.
        engine: ``tensorrt`` or ``tensorrt-rtx``.

    Raises:
        EngineError: the plan is damaged, or for another version, GPU or graph; or there is no GPU, or too little
            memory.
    """

    def __init__(self, graph: Graph, plan: str | Path, *, engine: str) -> None:
        super().__init__(graph.name, graph.inputs, graph.outputs, tuned=graph.tuned, precision=graph.precision)
        self.backend = engine
        self._flavour = load(engine)
        self._profiles = profiles_of(graph)
        self._lock = threading.Lock()
        self._contexts: dict[int, Context] = {}
        self._weights: _Weights | None = None
        self._resident: str | None = None
        self._plan: Any = load_plan(self._flavour, graph, Path(plan))
        try:
            self._check_plan(Path(plan))
            self._weights = _Weights(self.tuned)
        except BaseException:
            self._free()
            raise

    def _check_plan(self, path: Path) -> None:
        """Check that the plan is this graph's, as far as names and profiles tell."""
        expected = {spec.name for spec in (*self.inputs, *self.outputs, *self.tuned)}
        got = {self._plan.get_tensor_name(index) for index in range(self._plan.num_io_tensors)}
        if got != expected or self._plan.num_optimization_profiles != len(self._profiles):
            differing = ", ".join(sorted(got ^ expected)[:3]) or "the number of profiles"
            raise EngineError(
                f"the plan {path} was built from another {self.name} graph: {differing}; {rebuild_hint(self.backend)}"
            )

    def _run(self, feeds: dict[str, np.ndarray], weights: Weights | None) -> dict[str, np.ndarray]:
        profile = choose_profile(self.name, self._profiles, feeds)
        if self.tuned and weights is None:
            raise InputError(
                f"the {self.name} plan holds no clip's weights: expected {len(self.tuned)} tuned weights, got none; "
                "give those of a bundle"
            )
        with self._lock:
            if self._plan is None or self._weights is None:  # another thread closed it meanwhile
                raise EngineError(f"the {self.name} engine is closed; load the bundle again")
            if weights is not None and weights.key != self._resident:
                self._resident = None  # whatever happens in between
                self._weights.fill(weights)
                self._resident = weights.key
            if profile not in self._contexts:
                self._contexts[profile] = Context(
                    self._flavour,
                    self._plan,
                    graph=self.name,
                    profile=profile,
                    shapes=self._profiles[profile],
                    dtypes={spec.name: spec.dtype for spec in (*self.inputs, *self.outputs)},
                    weights=self._weights.addresses,
                )
            return self._contexts[profile].run(feeds)

    def _close(self) -> None:
        with self._lock:
            self._free()

    def _free(self) -> None:
        for context in self._contexts.values():
            context.close()
        self._contexts.clear()
        if self._weights is not None:
            self._weights.close()
        self._weights = self._plan = None


class _Weights:
    """Where the tuned weights lie on the GPU."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._memories: dict[str, cuda.Memory] = {}
        try:
            for spec in specs:
                size = 2 if spec.dtype == "bfloat16" else np.dtype(spec.dtype).itemsize
                self._memories[spec.name] = cuda.Memory(size * math.prod(int(length) for length in spec.shape))
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> dict[str, int]:
        return {name: memory.address for name, memory in self._memories.items()}

    def fill(self, weights: Weights) -> None:
        for name, memory in self._memories.items():
            memory.fill(weights.tensors[name])

    def close(self) -> None:
        for memory in self._memories.values():
            memory.close()
