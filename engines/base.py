"""The engine protocol, and the checks on what goes in and comes out, in one place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np

from tav_sdk.errors import EngineError, InputError, NonFiniteOutputError


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of a graph's input or output.

    Attributes:
        name: the tensor's name in the graph.
        dtype: numpy's name of its element type, such as ``float32``.
        shape: one entry per axis; a string names an axis of any length, equal wherever the name stands.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, kw_only=True)
class Graph:
    """An ONNX graph on disk, and what an engine has to know of it.

    Attributes:
        name: what it computes, for messages, such as ``unet``.
        path: the ``.onnx`` file; its external data lie beside it.
        inputs: what it takes.
        outputs: what it gives.
        precision: what it computes in: ``fp32``, ``fp16``, ``bf16`` or ``int8``; the graph is strongly typed.
        axes: the lengths in use of every axis of any length, by the axis's name, such as ``{"batch": (1, 2)}``.
        tuned: the weights that differ from clip to clip; inputs of the graph with a default value.
        key: SHA-256 of the graph and of its other weights. Graphs of one key may share an engine and its build;
            without a key nothing is shared or cached.
    """

    name: str
    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str = "fp32"
    axes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    tuned: tuple[TensorSpec, ...] = ()
    key: str | None = None


@dataclass(frozen=True)
class Weights:
    """One clip's tuned weights, which an engine takes beside its inputs.

    Attributes:
        key: SHA-256 of their file; equal keys are equal weights.
        tensors: by name; ``bfloat16`` as the ``uint16`` of its bits, since numpy has no such type.
    """

    key: str
    tensors: Mapping[str, np.ndarray] = field(repr=False)


_REMEDIES = {
    "fp32": "check the input for extreme values, or export the bundle again from a run that converged",
    "fp16": "its numbers may be too large for half precision: export the bundle again in precision bf16 or fp32",
    "bf16": "export the bundle again in precision fp32",
    "int8": "export the bundle again in precision fp32",
}
"""What to do about NaN or infinity, by the graph's precision."""


class Engine(ABC):
    """One graph, ready to run; numpy in, numpy out.

    Attributes:
        name: what it runs, for messages, such as ``unet``.
        inputs: what :meth:`run` takes.
        outputs: what :meth:`run` returns.
        tuned: the weights that :meth:`run` can take; none where they are fixed.
        precision: what it computes in.
    """

    backend: str = "engine"

    def __init__(
        self,
        name: str,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        tuned: Sequence[TensorSpec] = (),
        precision: str = "fp32",
    ) -> None:
        self.name = name
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.tuned = tuple(tuned)
        self.precision = precision
        self._closed = False
        self._checked_weights: str | None = None

    def run(
        self, feeds: Mapping[str, np.ndarray], weights: Weights | None = None, *, check_finite: bool = True
    ) -> dict[str, np.ndarray]:
        """Run the graph once; threads may share an engine.

        Args:
            feeds: an array for every input, of its dtype and shape.
            weights: the tuned weights to run with; by default those that the graph was exported with, where the engine
                has them: a plan of TensorRT holds none.
            check_finite: whether NaN or infinity in an output is an error; it is returned otherwise.

        Returns:
            An array for every output, by name.

        Raises:
            InputError: an input or a weight is missing, unknown, or of another dtype or shape.
            NonFiniteOutputError: an output has NaN or infinity in it.
            EngineError: the backend failed, gave something else than its outputs, or the engine is closed.
        """
        if self._closed:
            raise EngineError(f"the {self.name} engine is closed; load the bundle again")
        check_feeds(self.name, self.inputs, feeds)
        if weights is not None and weights.key != self._checked_weights:
            check_weights(self.name, self.tuned, weights)
            self._checked_weights = weights.key
        # Not ascontiguousarray, which would give a 0-dimensional timestep an axis.
        results = self._run({spec.name: np.asarray(feeds[spec.name], order="C") for spec in self.inputs}, weights)
        check_results(self.name, self.outputs, results)
        for name, array in results.items() if check_finite else ():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                # Such as the timestep.
                scalars = [f"{spec.name} {feeds[spec.name]}" for spec in self.inputs if feeds[spec.name].ndim == 0]
                raise NonFiniteOutputError(
                    f"the {self.name} engine ({self.backend}, {self.precision}) returned NaN or infinity in {name!r}"
                    + (f" at {', '.join(scalars)}; " if scalars else "; ")
                    + _REMEDIES.get(self.precision, _REMEDIES["fp32"])
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
    def _run(self, feeds: dict[str, np.ndarray], weights: Weights | None) -> dict[str, np.ndarray]:
        """Run on checked, contiguous feeds and checked weights."""

    @abstractmethod
    def _close(self) -> None:
        """Release what the backend holds."""


def check_weights(graph: str, specs: Sequence[TensorSpec], weights: Weights) -> None:
    """Compare tuned weights with those that a graph takes.

    Raises:
        InputError: says which weight, what was expected, and what came.
    """
    names = [spec.name for spec in specs]
    if unknown := sorted(set(weights.tensors) - set(names)):
        raise InputError(
            f"the {graph} graph takes no tuned weight {unknown[0]!r} ({len(unknown)} of {len(weights.tensors)} are "
            "unknown); they belong to another base or other inflation options"
        )
    for spec in specs:
        array = weights.tensors.get(spec.name)
        dtype = "uint16" if spec.dtype == "bfloat16" else spec.dtype
        if array is None or array.shape != spec.shape or array.dtype.name != dtype:
            got = "none" if array is None else f"{array.dtype.name}{list(array.shape)}"
            raise InputError(
                f"tuned weight {spec.name!r} of the {graph} graph: expected {spec}, got {got}; these weights belong to "
                "another base, precision or other inflation options"
            )


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


def check_results(graph: str, specs: Sequence[TensorSpec], results: Mapping[str, np.ndarray]) -> None:
    """Compare what a backend gave with what the graph's manifest says.

    Raises:
        EngineError: an output is missing, or of another dtype or shape.
    """
    for spec in specs:
        array = results.get(spec.name)
        fits = array is not None and array.dtype.name == spec.dtype and array.ndim == len(spec.shape)
        if array is None or not fits or not all(map(_is_length, spec.shape, array.shape)):
            got = "none" if array is None else f"{array.dtype.name}{list(array.shape)}"
            raise EngineError(
                f"the {graph} graph gave its output {spec.name!r} as {got}, expected {spec}; its manifest belongs to "
                "another graph: export the bundle again"
            )


def _is_length(expected: int | str, length: int) -> bool:
    return isinstance(expected, str) or expected == length
