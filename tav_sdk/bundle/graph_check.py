"""May a graph of a stranger be opened? What it may compute, and how much its constants may make of it.

Every graph is checked before any engine's library sees it, the same way for all of them. No operator that is allowed
repeats anything or reads a file, so the work of a graph is bounded by the sizes of its tensors; and those that take a
size are held to :data:`MAX_ELEMENTS`, whether it is a constant or comes of the shape of what goes in and constants.
Tensors that grow from operator to operator are not followed.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable
from pathlib import Path

from tav_sdk.bundle.onnx_model import FLOAT, INT64, Node, OnnxModel, Tensor, Value, read_model
from tav_sdk.bundle.wire import WireError
from tav_sdk.engines.base import TensorSpec
from tav_sdk.errors import BundleError
from tav_sdk.reading import read_bytes

MAX_GRAPH_BYTES = 256 << 20
"""Largest graph file; weights lie in files of their own."""
MAX_ELEMENTS = 1 << 31
"""What one operator may make of constants: 8 GiB of float32."""
MAX_TIMES = 1 << 16
"""How many times as much as it takes one operator may make, where a constant says so."""
MAX_WINDOW = 64
"""Largest kernel, stride, padding and dilation of a convolution or a pooling."""
MIN_OPSET = 18
"""Oldest version of the operators: older ones take sizes where they are not looked for. Exports write a newer one."""
OPERATORS = frozenset({
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "Attention",
    "AveragePool", "BatchNormalization", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor",
    "Cast", "CastLike", "Ceil", "Celu", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "ConvInteger",
    "Cos", "Cosh", "CumSum", "DepthToSpace", "DequantizeLinear", "Div", "Dropout",
    "DynamicQuantizeLinear", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor", "Gather",
    "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater",
    "GreaterOrEqual", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization",
    "IsInf", "IsNaN", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax",
    "LpNormalization", "MatMul", "MatMulInteger", "Max", "MaxPool", "Mean", "MeanVarianceNormalization", "Min",
    "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pad", "Pow", "QLinearConv", "QLinearMatMul",
    "QuantizeLinear", "RMSNormalization", "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
    "Relu", "Reshape", "Resize", "RotaryEmbedding", "Round", "ScatterElements", "ScatterND", "Selu", "Shape",
    "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Slice", "Softmax", "Softplus", "Softsign",
    "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Tile",
    "TopK", "Transpose", "Trilu", "Unsqueeze", "Where", "Xor",
})  # fmt: skip
"""Operators of the standard that a graph may have: those of our exports, and arithmetic that others might need."""
_SIZES = {
    "Expand": (1,),
    "ConstantOfShape": (0,),
    "Tile": (1,),
    "Range": (0, 1, 2),
    "Pad": (1,),
    "Resize": (2, 3),
}
"""Operators that make more than they take, and which of their inputs say how much."""
_KEEP = frozenset({"Cast", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze"})
"""What may stand between a size and what it comes from: these give at most what their first input has,"""
_COMBINE = frozenset({"Add", "Concat", "Mul", "Sub"})
"""and these at most the product of what goes in, 2 at least of each."""
_LOCATION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*", re.ASCII)


def read_graph(path: Path, what: str) -> OnnxModel:
    """A graph that may be opened, as far as its own file says.

    Args:
        path: the ONNX file.
        what: names it in messages.

    Raises:
        BundleError: it is no graph, has an operator that is not in :data:`OPERATORS`, or makes too much of a constant.
    """
    content = read_bytes(path, max_bytes=MAX_GRAPH_BYTES, error=BundleError, advice="do not use it")
    try:
        model = read_model(content)
        _check_operators(model)
        _check_sizes(model)
    except WireError as error:
        raise BundleError(f"{what} cannot be used: {error}; do not use it, or export it again") from error
    return model


def external_files(model: OnnxModel, what: str) -> dict[str, list[Tensor]]:
    """The tensors that lie in other files, by the file's name as the graph says it, relative to the graph's folder.

    Raises:
        BundleError: a name is not a plain relative one.
    """
    found: dict[str, list[Tensor]] = {}
    for tensor in model.tensors:
        if tensor.location is not None:
            # Engines have names with a meaning of their own, such as an address in memory.
            if len(tensor.location) > 255 or not _LOCATION.fullmatch(tensor.location):
                raise BundleError(
                    f"{what} has weights in {ascii(tensor.location)[:80]}, which is no plain name of a file beside it; "
                    "do not use it"
                )
            found.setdefault(tensor.location, []).append(tensor)
    return found


def check_contract(model: OnnxModel, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec], what: str) -> None:
    """Check that a graph takes and gives what its manifest says.

    Raises:
        BundleError: a tensor is missing, or of another dtype, rank or length.
    """
    for kind, specs, values in (("input", inputs, model.inputs), ("output", outputs, model.outputs)):
        known = {value.name: value for value in values}
        for spec in specs:
            value = known.get(spec.name)
            if value is None or not _fits(spec, value):
                got = "none" if value is None else _described(value)
                raise BundleError(
                    f"{what} is not as its manifest says: expected the {kind} {spec.name!r} as {spec}, got {got}; "
                    "export it again"
                )


def _fits(spec: TensorSpec, value: Value) -> bool:
    if value.dtype != spec.dtype:
        return False
    if value.shape is None:
        return True  # what comes of it is checked when it runs
    return len(value.shape) == len(spec.shape) and all(
        got is None or expected == got for expected, got in zip(spec.shape, value.shape, strict=True)
    )


def _described(value: Value) -> str:
    axes = "..." if value.shape is None else ", ".join("?" if axis is None else str(axis) for axis in value.shape)
    return f"{value.dtype}[{axes}]"


def _check_operators(model: OnnxModel) -> None:
    for node in model.nodes:
        if node.operator not in OPERATORS:
            raise WireError(f"it has the operator {ascii(node.operator)[:60]}, which no export writes")


def _check_sizes(model: OnnxModel) -> None:
    if model.nodes and model.opset < MIN_OPSET:
        raise WireError(f"its operators are of version {model.opset}, expected {MIN_OPSET} or newer")
    constants = {tensor.name: tensor for tensor in model.tensors if tensor.name}
    computed: set[str] = set()  # from constants alone
    factors = {value.name: 1.0 for value in model.inputs}  # most that a name's values are, in lengths of what goes in
    for node in model.nodes:
        _check_window(node)
        _follow(node, constants, factors)
        for place in _SIZES.get(node.operator, ()):
            name = node.inputs[place] if place < len(node.inputs) else ""
            if name in constants:
                _check_size(node.operator, constants[name])
            elif name in computed:
                # An export computes such things itself, once.
                raise WireError(f"its operator {node.operator} takes a size that is computed from constants")
            elif name:
                _check_factor(node.operator, factors.get(name, math.inf))
        named = [name for name in node.inputs if name]
        if named and all(name in constants or name in computed for name in named):
            computed.update(node.outputs)


def _check_window(node: Node) -> None:
    if "Conv" not in node.operator and "Pool" not in node.operator:
        return
    for name in ("dilations", "kernel_shape", "pads", "strides"):
        if not all(0 <= value <= MAX_WINDOW for value in node.integers.get(name, ())):
            raise WireError(f"its operator {node.operator} has {name} that are not from 0 to {MAX_WINDOW}")


def _follow(node: Node, constants: dict[str, Tensor], factors: dict[str, float]) -> None:
    """Note how many times a length of what goes in the outputs of an operator may be, if they can be a size."""

    def factor(name: str) -> float:
        if (tensor := constants.get(name)) is None:
            return factors.get(name, math.inf)
        values = _values(tensor)
        return math.inf if values is None else math.prod(max(1.0, abs(value)) for value in values)

    if node.operator in ("Shape", "Size"):
        made = 1.0
    elif node.operator in _KEEP and node.inputs:
        made = factor(node.inputs[0])
    elif node.operator in _COMBINE:
        made = math.prod(max(2.0, factor(name)) for name in node.inputs)
    else:
        return
    factors.update(dict.fromkeys(node.outputs, made))


def _check_factor(operator: str, factor: float) -> None:
    if not factor <= MAX_ELEMENTS:
        raise WireError(
            f"its operator {operator} takes a size that is not held: expected one from shapes and small constants"
        )


def _check_size(operator: str, tensor: Tensor) -> None:
    values = _values(tensor)
    if values is None:
        raise WireError(f"its operator {operator} takes a size from {ascii(tensor.name)[:60]}, which is none")
    if operator == "Range":
        made = max(abs(value) for value in values) if values else 0
    elif operator == "Pad":
        made = sum(abs(value) for value in values)
    else:
        made = math.prod(abs(value) for value in values if value)
    most = MAX_TIMES if operator == "Tile" or tensor.dtype == FLOAT else MAX_ELEMENTS
    if not made <= most:
        told = f"{made:.3g}" if made < 1e300 else "endlessly many"
        raise WireError(f"its operator {operator} makes {told} elements or times as many, at most {most} are allowed")


def _values(tensor: Tensor) -> list[float] | None:
    """Some integers or floats in the graph's own file; ``None`` for anything else."""
    if tensor.location is not None or tensor.length > 8 * 64:
        return None
    if tensor.integers:
        return list(tensor.integers)
    item = {FLOAT: "f", INT64: "q"}.get(tensor.dtype)
    if item is None or len(tensor.raw) != tensor.length:
        return None
    return list(struct.unpack(f"<{len(tensor.raw) // struct.calcsize(item)}{item}", tensor.raw))
