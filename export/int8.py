"""8-bit integers for ONNX Runtime on the CPU: a U-Net's frozen convolutions and linear layers.

A convolution is quantised statically: input, weight and output pass through ``QuantizeLinear`` and
``DequantizeLinear``, which the runtime makes one integer operator of. The ranges come from the float32 graph itself, on
its way from noise to a clip. A linear layer is quantised dynamically: its input's range is found at every call, and its
output is float32. Each way is the faster one for its kind of layer, and for linear layers the more accurate one.

The operators are those that ``onnxruntime.quantization`` writes. Its quantiser itself needs a dozen times the memory of
the weights, and moves the tuned ones; here one weight is in memory at a time, and tuned weights stay where they are.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir
from onnx_ir.external_data import convert_tensors_to_external

from tav_sdk.bundle.layout import GRAPH_FILE, WEIGHTS_FILE
from tav_sdk.diffusion.sampling import ddim_sample
from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.engines.base import TensorSpec
from tav_sdk.engines.select import open_engine
from tav_sdk.export.graphs import GraphContract
from tav_sdk.progress import Callback, StepProgress, report
from tav_sdk.words import logger as named_logger

logger = named_logger(__name__)

KEPT = ("conv_in", "conv_out", "conv_shortcut")
"""Endings of the names of layers that stay in float32: alone, ``conv_in`` or the shortcuts make more error than all
linear layers together, and they are a fiftieth of the work."""

STEPS = 8
"""Steps of the trajectory that ranges come from; 4 and 16 give the same error."""

LARGEST = 63
"""The largest quantised weight: 7 of 8 bits. Processors without VNNI add two products in 16 bits, which 8 bits
overflow; the error grows by a twentieth."""

FLOAT, UINT8, INT32 = onnx_ir.DataType.FLOAT, onnx_ir.DataType.UINT8, onnx_ir.DataType.INT32
_INLINE = 256  # bytes: a smaller tensor stays in the graph's own file


@dataclass(frozen=True)
class Layer:
    """A frozen layer: its name as in PyTorch, its node, its weight ``(out, in, ...)`` and its bias, if it has one."""

    name: str
    node: onnx_ir.Node
    weight: onnx_ir.Value
    bias: onnx_ir.Value | None

    @property
    def input(self) -> onnx_ir.Value:
        """What the node reads; another value once the layer before it is quantised."""
        return cast(onnx_ir.Value, self.node.inputs[0])


def quantize(
    path: Path,
    contract: GraphContract,
    schedule: DDIMSchedule,
    encoder_hidden_states: np.ndarray,
    *,
    kept: tuple[str, ...] = KEPT,
    callback: Callback | None = None,
) -> tuple[str, ...]:
    """Quantise a U-Net's float32 graph in place; tuned weights stay as they are, inputs of the graph in float32.

    Args:
        path: the graph, with its weights in :data:`~tav_sdk.bundle.layout.WEIGHTS_FILE` beside it.
        contract: the graph's, from :func:`~tav_sdk.export.graphs.unet_contract`; a ControlNet's residuals are 0.
        schedule: the base's.
        encoder_hidden_states: ``(1, s, d)`` float32, text states of the clip's caption.
        kept: endings of the names of layers that stay in float32.
        callback: called after each of :data:`STEPS` calls of the graph; ``False`` cancels.

    Returns:
        The names of the frozen layers that stay in float32.

    Raises:
        EngineError: the float32 graph cannot be run.
        CancelledError: the callback returned ``False``; the graph is as it was.
    """
    ranges = find_ranges(path, contract, schedule, encoder_hidden_states, callback)
    model = onnx_ir.load(path)
    quantizer, layers = _Quantizer(model.graph, ranges), list(frozen_layers(model.graph))
    for layer in layers:
        if not layer.name.endswith(kept):
            quantizer.quantize(layer)
    _save(model, path)
    names = tuple(layer.name for layer in layers if layer.name.endswith(kept))
    logger.info("%s: %d layers in int8, %d kept in float32", contract.name, len(layers) - len(names), len(names))
    return names


def frozen_layers(graph: onnx_ir.Graph) -> Iterator[Layer]:
    """Convolutions and linear layers whose weight no clip changes, in the graph's order."""
    for node in graph:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.outputs[0].is_graph_output():
            continue
        weight, bias = (*node.inputs, None)[1:3]
        if node.op_type == "Gemm" and node.attributes.get_int("transB", 0) != 1:
            continue
        if node.op_type == "MatMul":  # of a weight that was stored as PyTorch has it
            transpose = None if weight is None else weight.producer()
            weight = transpose.inputs[0] if transpose is not None and transpose.op_type == "Transpose" else None
        if weight is None or not weight.is_initializer() or weight.is_graph_input():
            continue
        if len(weight.uses()) == 1:
            yield Layer(_name(weight).removesuffix(".weight"), node, weight, bias)


def find_ranges(
    path: Path,
    contract: GraphContract,
    schedule: DDIMSchedule,
    encoder_hidden_states: np.ndarray,
    callback: Callback | None = None,
) -> dict[str, tuple[float, float]]:
    """The least and the greatest value of every convolution's input and output, on the way from noise to a clip.

    Args and errors are those of :func:`quantize`.

    Returns:
        By the tensor's name in the graph; 0 is always in between.
    """
    model = onnx_ir.load(path)
    names = set()
    for layer in frozen_layers(model.graph):
        if layer.node.op_type == "Conv":
            names |= {_name(layer.input), _name(layer.node.outputs[0])}
    values = {_name(value): value for node in model.graph for value in (*node.inputs, *node.outputs)}
    bounds = []
    for name in sorted(names):
        for op_type in ("ReduceMin", "ReduceMax"):
            node = onnx_ir.node(op_type, [values[name]], {"keepdims": 0})
            bound = node.outputs[0]
            bound.name, bound.dtype, bound.shape = f"{op_type}:{name}", FLOAT, onnx_ir.Shape([])
            model.graph.append(node)
            model.graph.outputs.append(bound)
            bounds.append(TensorSpec(bound.name, "float32", ()))
    ranges = dict.fromkeys(names, (0.0, 0.0))
    copy = path.with_name(f"ranges-{path.name}")
    onnx_ir.save(model, copy)
    graph = replace(contract.graph(copy), precision="fp32", outputs=(*contract.outputs, *bounds))
    try:
        with open_engine(graph, engine="onnxruntime-cpu") as engine:
            uncontrolled = {
                spec.name: np.zeros([1 if isinstance(axis, str) else axis for axis in spec.shape], np.float32)
                for spec in contract.inputs[3:]
            }

            def unet(*arrays: np.ndarray) -> np.ndarray:
                feeds = {spec.name: array for spec, array in zip(contract.inputs, arrays, strict=False)}
                results = engine.run({**feeds, **uncontrolled})
                for name, (low, high) in ranges.items():
                    here = float(results[f"ReduceMin:{name}"]), float(results[f"ReduceMax:{name}"])
                    ranges[name] = min(low, here[0]), max(high, here[1])
                return results[contract.outputs[0].name]

            def calibrated(step: StepProgress) -> None:
                report(callback, replace(step, stage="calibration"))

            shape = [1 if isinstance(axis, str) else axis for axis in contract.inputs[0].shape]
            noise = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
            # Without guidance: the empty prompt's half of a batch widens no range that matters.
            ddim_sample(unet, noise, encoder_hidden_states, None, schedule, STEPS, 1.0, calibrated)
    finally:
        copy.unlink()
    return ranges


class _Quantizer:
    """Rewrites the layers of one graph."""

    def __init__(self, graph: onnx_ir.Graph, ranges: dict[str, tuple[float, float]]) -> None:
        self.graph, self.ranges = graph, ranges
        self._inputs: dict[onnx_ir.Value, tuple[onnx_ir.Value, float]] = {}
        self._dynamic: dict[onnx_ir.Value, onnx_ir.Node] = {}

    def quantize(self, layer: Layer) -> None:
        """Rewrite one layer, and drop its weight."""
        if layer.node.op_type == "Conv":
            self._conv(layer)
        else:
            self._linear(layer)
        for value in (layer.weight, layer.bias):
            if value is not None and not value.uses():
                del self.graph.initializers[_name(value)]

    def _conv(self, layer: Layer) -> None:
        node = layer.node
        x, y = layer.input, node.outputs[0]
        if x not in self._inputs:
            scale, zero_point = self._activation(_name(x))
            self._inputs[x] = self._rounded(x, scale, zero_point, before=node), _number(scale)
        x, x_scale = self._inputs[x]
        weight = _array(layer.weight)
        bias = np.zeros(len(weight)) if layer.bias is None else _array(layer.bias).astype(np.float64)
        # At least so large a scale that the bias fits into 32 bits.
        integers, scales = _integers(weight, np.abs(bias) / (x_scale * 2.0**30))
        node.replace_input_with(0, x)
        node.replace_input_with(1, self._constant(f"{layer.name}.weight", integers, scales, before=node))
        if layer.bias is not None:
            steps = scales * x_scale
            integers = np.round(bias / steps).astype(np.int32)
            node.replace_input_with(2, self._constant(f"{layer.name}.bias", integers, steps, before=node))
        readers = list(y.uses())
        scale, zero_point = self._activation(_name(y))
        rounded = self._rounded(y, scale, zero_point, after=node)
        self._inputs[rounded] = rounded, _number(scale)  # for a convolution that follows at once
        for reader, index in readers:
            reader.replace_input_with(index, rounded)

    def _linear(self, layer: Layer) -> None:
        node = layer.node
        x, y = layer.input, node.outputs[0]
        if x not in self._dynamic:
            self._dynamic[x] = self._add("DynamicQuantizeLinear", [x], before=node, num_outputs=3)
        quantized, x_scale, zero_point = self._dynamic[x].outputs
        integers, scales = _integers(_array(layer.weight))
        weight = self._initializer(f"{layer.name}.weight_quantized", integers.T)  # (in, out)
        weight_scale = self._initializer(f"{layer.name}.weight_scale", scales)
        weight_zero = self._initializer(f"{layer.name}.weight_zero_point", np.zeros(len(scales), np.int8))
        product = self._add("MatMulInteger", [quantized, weight, zero_point, weight_zero], before=node)
        product = self._add("Cast", product.outputs, before=node, to=FLOAT)
        scale = self._add("Mul", [x_scale, weight_scale], before=node)
        last = self._add("Mul", [product.outputs[0], scale.outputs[0]], before=node)
        if layer.bias is not None:
            last = self._add("Add", [last.outputs[0], layer.bias], before=node)
        for reader, index in list(y.uses()):
            reader.replace_input_with(index, last.outputs[0])
        self.graph.remove(node, safe=True)
        for transpose, _ in list(layer.weight.uses()):
            self.graph.remove(transpose, safe=True)

    # -- parts -----------------------------------------------------------------------------------------------------

    def _activation(self, name: str) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        """Scale and zero point of a tensor with a known range."""
        low, high = self.ranges[name]
        scale = np.float32(max(high - low, 1e-12) / 255)
        zero_point = np.uint8(np.clip(np.round(-low / scale), 0, 255))
        return self._initializer(f"{name}_scale", scale), self._initializer(f"{name}_zero_point", zero_point)

    def _rounded(
        self, value: onnx_ir.Value, scale: onnx_ir.Value, zero_point: onnx_ir.Value, **where: onnx_ir.Node
    ) -> onnx_ir.Value:
        """The value as 8 bits hold it."""
        nodes = [onnx_ir.node("QuantizeLinear", [value, scale, zero_point])]
        nodes.append(onnx_ir.node("DequantizeLinear", [nodes[0].outputs[0], scale, zero_point]))
        if "before" in where:
            self.graph.insert_before(where["before"], nodes)
        else:
            self.graph.insert_after(where["after"], nodes)
        return nodes[1].outputs[0]

    def _constant(self, name: str, integers: np.ndarray, scales: np.ndarray, *, before: onnx_ir.Node) -> onnx_ir.Value:
        """Integers that stand for themselves times the scale of their row."""
        parts = {
            "quantized": integers,
            "scale": scales.astype(np.float32),
            "zero_point": np.zeros(len(scales), integers.dtype),
        }
        values = [self._initializer(f"{name}_{part}", array) for part, array in parts.items()]
        return self._add("DequantizeLinear", values, before=before, axis=0).outputs[0]

    def _add(
        self, op_type: str, inputs: Any, *, before: onnx_ir.Node, num_outputs: int = 1, **how: Any
    ) -> onnx_ir.Node:
        node = onnx_ir.node(op_type, inputs, how, num_outputs=num_outputs)
        self.graph.insert_before(before, node)
        return node

    def _initializer(self, name: str, array: np.ndarray | np.generic) -> onnx_ir.Value:
        tensor = onnx_ir.tensor(np.asarray(array, order="C"), name=name)
        value = onnx_ir.Value(
            name=name, shape=onnx_ir.Shape(np.shape(array)), type=onnx_ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.graph.register_initializer(value)
        return value


def _integers(weight: np.ndarray, least: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A weight ``(out, in, ...)`` as int8, and the scale of every output, ``(out,)`` float32, at least ``least``."""
    peaks = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scales = np.maximum(np.maximum(peaks / LARGEST, least), 1e-12).astype(np.float32)
    columns = scales.reshape(-1, *(1,) * (weight.ndim - 1))
    return np.clip(np.round(weight / columns), -LARGEST, LARGEST).astype(np.int8), scales


def _save(model: onnx_ir.Model, path: Path) -> None:
    """Replace a graph and its weights; the tuned weights keep their file."""
    graph = model.graph
    stored = [
        value
        for value in graph.initializers.values()
        if value.const_value is not None
        and not value.is_graph_input()
        and (isinstance(value.const_value, onnx_ir.ExternalTensor) or value.const_value.nbytes >= _INLINE)
    ]
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        tensors: Any = [value.const_value for value in stored]
        for value, tensor in zip(stored, convert_tensors_to_external(tensors, work, WEIGHTS_FILE), strict=True):
            value.const_value = tensor
        onnx_ir.save(model, Path(work, GRAPH_FILE))
        os.replace(Path(work, WEIGHTS_FILE), path.with_name(WEIGHTS_FILE))
        os.replace(Path(work, GRAPH_FILE), path)


def _name(value: onnx_ir.Value | None) -> str:
    return "" if value is None else str(value.name)


def _array(value: onnx_ir.Value) -> np.ndarray:
    return np.asarray(value.const_value)


def _number(value: onnx_ir.Value) -> float:
    return float(_array(value))
