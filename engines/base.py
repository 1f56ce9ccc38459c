"""The engine protocol, and the checks on what goes in and comes out, in one place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from tav_sdk.errors import EngineError, InputError, NonFiniteOutputError


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of a graph's input or output.

    Attributes:
        name: the tensor's name in the graph.
        dtype: numpy's name of its element type, such as ``float32``.
        shape: one entry an axis; a string names an axis of any length, equal wherever the name stands.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


class Engine(ABC):
    """One graph, ready to run; numpy in, numpy out.

    Attributes:
        name: what it runs, for messages, such as ``unet``.
        inputs: what :meth:`run` takes.
        outputs: what :meth:`run` returns.
    """

    backend: str = "engine"

    def __init__(self, name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self.name = name
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self._closed = False

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph once.

        Args:
            feeds: an array for every input, of its dtype and shape.

        Returns:
            An array for every output, by name.

        Raises:
            InputError: an input is missing, unknown, or of another dtype or shape.
            NonFiniteOutputError: an output has NaN or infinity in it.
            EngineError: the backend failed, or the engine is closed.
        """
        if self._closed:
            raise EngineError(f"the {self.name} engine is closed; load the bundle again")
        check_feeds(self.name, self.inputs, feeds)
        # Not ascontiguousarray, which would give a 0-dimensional timestep an axis.
        results = self._run({spec.name: np.asarray(feeds[spec.name], order="C") for spec in self.inputs})
        for name, array in results.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise NonFiniteOutputError(
                    f"the {self.name} engine ({self.backend}) returned NaN or infinity in {name!r}; check the input "
                    "for extreme values, or export the bundle again from a run that converged"
                )
        return results

    def close(self) -> None:
        """Release the backend's memory; the engine cannot run afterwards. Closing twice is allowed."""
        if not self._closed:
            self._closed = True
            self._close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run on checked, contiguous feeds."""

    @abstractmethod
    def _close(self) -> None:
        """Release what the backend holds."""


def check_feeds(graph: str, specs: Sequence[TensorSpec], feeds: Mapping[str, np.ndarray]) -> None:
    """Compare feeds with what a graph takes.

    Raises:
        InputError: says which graph and input, what was expected, and what came.
    """
    names = [spec.name for spec in specs]
    for name in feeds:
        if name not in names:
            raise InputError(f"the {graph} graph has no input {name!r}; its inputs are {', '.join(names)}")
    axes: dict[str, int] = {}
    for spec in specs:
        if spec.name not in feeds:
            raise InputError(f"the {graph} graph needs the input {spec.name!r} ({spec})")
        array = feeds[spec.name]
        if not isinstance(array, np.ndarray):
            raise InputError(f"{graph} input {spec.name!r} must be a numpy array, got {type(array).__name__}")
        known = f" with {', '.join(f'{axis} = {size}' for axis, size in axes.items())}" if axes else ""
        fits = array.ndim == len(spec.shape)
        for length, expected in zip(array.shape, spec.shape, strict=False):
            fits &= length == (axes.setdefault(expected, length) if isinstance(expected, str) else expected)
        if not fits or array.dtype.name != spec.dtype:
            raise InputError(
                f"{graph} input {spec.name!r}: expected {spec}{known}, got {array.dtype.name}{list(array.shape)}"
            )
