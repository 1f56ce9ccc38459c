"""Does an exported graph compute what its model computes? Part of every export, which refuses if not.

A graph in half precision is compared with the float32 model, by way of a copy whose operators compute in float32 and
whose every tensor is rounded to the half type. That is how engines on a GPU compute, and the CPU, where exports run,
does not: ONNX Runtime has no kernels for bfloat16 there, and leaves out the rounding between two operators in float16,
so that nothing overflows. What is rounded inside an operator, and how an engine adds up, only the engine itself shows:
``tav verify``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from onnx_ir.passes.common import ShapeInferencePass
from torch import nn

from tav_sdk.engines.base import Graph
from tav_sdk.engines.select import open_engine
from tav_sdk.errors import NonFiniteOutputError, ParityError
from tav_sdk.export.graphs import GraphContract
from tav_sdk.export.reference import Reference, evaluate

_HALF = {"fp16": onnx_ir.DataType.FLOAT16, "bf16": onnx_ir.DataType.BFLOAT16}
_RUNS_ON_CPU = ("fp32", "fp16", "int8")
_MOVES = {"Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile"}
_MOVES |= {"Transpose", "Unsqueeze"}
"""Operators whose outputs are elements of their inputs, which need no rounding."""
_MAKES_HALF = {"Cast", "Constant", "ConstantOfShape"}
"""Operators that take the type of their outputs from an attribute."""
_WIDER = {"fp16": "bf16 or fp32", "bf16": "fp32", "int8": "fp16, bf16 or fp32"}


def check_parity(model: nn.Module | Reference, contract: GraphContract, path: Path, *, axis_length: int = 1) -> float:
    """Compare a graph with the float32 model on one input.

    The graph's types and shapes are checked in every precision; in float32, float16 and int8 the graph as it is, on
    ONNX Runtime's CPU provider; in float16 and bfloat16 also the rounded copy (see above).

    Args:
        model: the float32 module, which then gets random inputs; or what it gave for others.
        contract: the graph's.
        path: the graph; the rounded copy stands beside it until the check ends.
        axis_length: of the random inputs, another than the graph was traced with.

    Returns:
        The largest absolute difference, relative to the output's largest magnitude; the largest of all comparisons.

    Raises:
        ParityError: it is above the contract's tolerance, or not finite; names graph, precision, tensor, difference
            and tolerance, and what to try.
    """
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ParityError(
            f"the {contract.name} graph in {contract.precision} is not valid: {error}; nothing was written. Report "
            "this with the base's configuration"
        ) from error
    if isinstance(model, nn.Module):
        model = evaluate(model, contract, contract.dummy_feeds(seed=1, axis_length=axis_length))
    differences = []
    if contract.precision in _RUNS_ON_CPU:
        differences.append(_difference(contract.graph(path), contract, model))
    if contract.precision in _HALF:
        with rounded(path, contract.precision) as copy:
            # To an engine it is a float32 graph.
            differences.append(_difference(replace(contract.graph(copy), precision="fp32"), contract, model))
    return max(differences)


def relative_difference(result: np.ndarray, reference: np.ndarray) -> float:
    """Largest absolute difference over the reference's largest magnitude; NaN if either has one."""
    scale = float(np.abs(reference).max())
    return float(np.abs(result - reference).max()) / max(scale, 1e-12)


def _difference(graph: Graph, contract: GraphContract, reference: Reference) -> float:
    what, advice = f"the {contract.name} graph", "Report this with the base's configuration"
    if contract.precision in _WIDER:
        what += f" in {contract.precision}"
        advice = f"Export with precision {_WIDER[contract.precision]}"
    with open_engine(graph, engine="onnxruntime-cpu") as engine:
        try:
            results = engine.run(reference.feeds)
        except NonFiniteOutputError as error:
            name, *more = reference.outputs
            where = "its outputs" if more else repr(name)
            raise ParityError(f"{what} gives NaN or infinity in {where}; nothing was written. {advice}") from error
    differences = {name: relative_difference(results[name], reference.outputs[name]) for name in reference.outputs}
    name = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
    if not differences[name] <= contract.tolerance:
        raise ParityError(
            f"{what} differs from the model in {name!r}: {differences[name]:.2e} of its largest magnitude, tolerance "
            f"{contract.tolerance:.0e}; nothing was written. {advice}"
        )
    return differences[name]


# --- the rounded copy ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def rounded(path: Path, precision: str) -> Iterator[Path]:
    """A copy of a graph in half precision that computes as a GPU does; it stands beside the graph, until the end."""
    copy = path.with_name(f"rounded-{path.name}")
    try:
        _write_rounded(path, copy, _HALF[precision])
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _write_rounded(path: Path, copy: Path, half: onnx_ir.DataType) -> None:
    """Write a graph's copy beside it for a runtime without half precision; its weights stay in the graph's files."""
    model = onnx_ir.load(path)
    ShapeInferencePass()(model)
    graph = model.graph
    for value in list(graph.inputs):
        if value.name in graph.initializers:  # a tuned weight
            graph.inputs.remove(value)
    nodes = list(graph)
    for value in graph.initializers.values():
        if value.dtype == half:
            graph.insert_before(nodes[0], _cast(value, onnx_ir.DataType.FLOAT))
    for node in nodes:
        for value in node.outputs:
            if value.dtype != half:
                continue
            if node.op_type in _MAKES_HALF:
                graph.insert_after(node, _cast(value, onnx_ir.DataType.FLOAT))
                continue
            value.dtype = onnx_ir.DataType.FLOAT
            if node.op_type not in _MOVES:
                rounded = _cast(value, half)
                graph.insert_after(node, [rounded, _cast(rounded.outputs[0], onnx_ir.DataType.FLOAT)])
    onnx_ir.save(model, copy)


def _cast(value: onnx_ir.Value, dtype: onnx_ir.DataType) -> onnx_ir.Node:
    """A node that casts a value; whoever read the value reads its output."""
    readers = list(value.uses())
    node = onnx_ir.node("Cast", [value], {"to": dtype})
    node.outputs[0].dtype, node.outputs[0].shape = dtype, value.shape
    for reader, index in readers:
        reader.replace_input_with(index, node.outputs[0])
    return node
