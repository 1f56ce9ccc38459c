"""What a graph has to compute and to move, counted from its nodes; a machine's speed makes a floor of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of one call of a graph.

    Attributes:
        flops: floating-point operations of its matrix products, convolutions and attention, two for a multiply-add.
        bytes: of its weights, once, and of what goes in and out of those operators; everything between them is taken
            as fused, and nothing as kept in a cache.
        by_operator: ``flops`` by the operator's type.
    """

    flops: int
    bytes: int
    by_operator: Mapping[str, int]


def count_work(path: str | Path, axes: Mapping[str, int]) -> Work:
    """Count a graph that the SDK exported.

    Args:
        path: the ``.onnx`` file; weights are not read.
        axes: the length of every axis of any length, such as ``{"batch": 2}``.

    Raises:
        ValueError: a shape is not known, or depends on an axis that is not in ``axes``.
    """
    graph = onnx_ir.load(path).graph
    by_operator: dict[str, int] = {}
    moved = sum(value.const_value.nbytes for value in graph.initializers.values() if value.const_value is not None)
    for node in graph.all_nodes():
        count = _COUNTED.get(node.op_type)
        if count is None:
            continue
        tensors = [value for value in (*node.inputs, *node.outputs) if value is not None]
        shapes = {id(value): _shape(value, axes) for value in tensors}
        inputs = [() if value is None else shapes[id(value)] for value in node.inputs]
        flops = count(inputs, shapes[id(node.outputs[0])], node)
        by_operator[node.op_type] = by_operator.get(node.op_type, 0) + flops
        moved += sum(
            math.prod(shapes[id(value)]) * value.dtype.itemsize
            for value in tensors
            if value.dtype is not None and value.name not in graph.initializers
        )
    return Work(flops=sum(by_operator.values()), bytes=int(moved), by_operator=by_operator)


def _shape(value: onnx_ir.Value, axes: Mapping[str, int]) -> tuple[int, ...]:
    if value.shape is None:
        raise ValueError(f"the shape of {value.name} is not known")
    dims = value.shape.evaluate(axes)
    if any(not isinstance(dim, int) for dim in dims):
        raise ValueError(f"the shape of {value.name}, {value.shape}, depends on more axes than {', '.join(axes)}")
    return tuple(int(dim) for dim in dims)  # type: ignore[arg-type]


def _matmul(inputs: list[tuple[int, ...]], output: tuple[int, ...], node: onnx_ir.Node) -> int:
    return 2 * math.prod(output) * inputs[0][-1]


def _gemm(inputs: list[tuple[int, ...]], output: tuple[int, ...], node: onnx_ir.Node) -> int:
    transposed = node.attributes.get_int("transA", 0)
    return 2 * math.prod(output) * inputs[0][0 if transposed else -1]


def _conv(inputs: list[tuple[int, ...]], output: tuple[int, ...], node: onnx_ir.Node) -> int:
    return 2 * math.prod(output) * math.prod(inputs[1][1:])  # (out, in / groups, k, k)


def _attention(inputs: list[tuple[int, ...]], output: tuple[int, ...], node: onnx_ir.Node) -> int:
    *batch, queries, width = inputs[0]  # (b, heads, n, d)
    keys, values = inputs[1][-2], inputs[2][-1]
    return 2 * math.prod(batch) * queries * keys * (width + values)


_COUNTED = {"MatMul": _matmul, "Gemm": _gemm, "Conv": _conv, "Attention": _attention}
