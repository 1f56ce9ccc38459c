"""Running a plan in one profile: TensorRT's execution context, buffers at fixed addresses, and a recorded run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tav_sdk.engines.trt import cuda
from tav_sdk.engines.trt.api import Flavour
from tav_sdk.engines.trt.profiles import Shapes
from tav_sdk.errors import EngineError


class Context:
    """An execution context of one profile, with its buffers and its CUDA graph; everything in it stays at its address.

    Args:
        flavour: what the plan was built with.
        plan: the plan, loaded.
        graph: the graph's name, for messages.
        profile: the profile's number.
        shapes: the shape of every input in that profile.
        dtypes: of every input and output that has a buffer here.
        weights: where the tuned weights are on the GPU, by name.

    Raises:
        EngineError: TensorRT cannot make it, or the GPU's memory is full.
    """

    def __init__(
        self,
        flavour: Flavour,
        plan: Any,
        *,
        graph: str,
        profile: int,
        shapes: Shapes,
        dtypes: Mapping[str, str],
        weights: Mapping[str, int],
    ) -> None:
        self._flavour, self._graph = flavour, graph
        self._recording: cuda.Recording | None = None
        self._runs = 0
        self._outputs = tuple(name for name in dtypes if name not in shapes)
        self._buffers: dict[str, cuda.Buffer] = {}
        addresses = dict(weights)
        flavour.log.clear()
        with contextlib.ExitStack() as stack:
            self._context: Any = self._expect(flavour.create_context(plan), "make an execution context")
            self._stream = cuda.Stream()
            stack.callback(self._stream.close)
            set_profile = self._context.set_optimization_profile_async
            self._expect(set_profile(profile, self._stream.handle), "set a profile")
            self._stream.synchronize()
            for name, shape in shapes.items():
                if tuple(self._context.get_tensor_shape(name)) != shape:  # -1 where any length goes
                    self._expect(self._context.set_input_shape(name, shape), f"take {name} of shape {list(shape)}")
            for name, dtype in dtypes.items():
                shape = shapes[name] if name in shapes else tuple(self._context.get_tensor_shape(name))
                buffer = self._buffers[name] = cuda.Buffer(shape, dtype)
                stack.callback(buffer.close)
                addresses[name] = buffer.address
            for name, address in addresses.items():
                self._expect(self._context.set_tensor_address(name, address), f"bind {name}")
            self._owned = stack.pop_all()

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once on inputs of the profile's shapes; what is returned is the caller's.

        Raises:
            EngineError: TensorRT or CUDA failed.
        """
        for name, array in feeds.items():
            self._buffers[name].upload(array, self._stream)
        self._launch()
        for name in self._outputs:
            self._buffers[name].download(self._stream)
        self._stream.synchronize()
        return {name: self._buffers[name].host.copy() for name in self._outputs}

    def _launch(self) -> None:
        # The first run sets things up that must not be in a recording; if the second cannot be recorded, none can.
        if self._runs == 1 and not self._flavour.records_graphs:
            self._recording = self._stream.record(self._enqueue)
        self._runs += 1
        if self._recording is not None:
            self._recording.launch()
        else:
            self._flavour.log.clear()
            self._expect(self._enqueue(), "run")

    def _enqueue(self) -> bool:
        return self._context.execute_async_v3(self._stream.handle)

    def _expect(self, result: Any, what: str) -> Any:
        """What a call returned, which is ``None`` or ``False`` if it failed; the log says why."""
        if not result:
            raise EngineError(f"{self._flavour.title} cannot {what} for the {self._graph} graph: {self._flavour.log}")
        return result

    def close(self) -> None:
        """Free all of it."""
        if self._recording is not None:
            self._recording.close()
        self._context = None  # before the buffers that it points to
        self._owned.close()
