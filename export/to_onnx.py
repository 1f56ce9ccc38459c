"""Tracing a module to an ONNX graph whose weights keep their PyTorch names."""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir
import onnxscript.optimizer
import torch
from onnx_ir.external_data import convert_tensors_to_external
from onnx_ir.passes import common as passes
from torch import nn

from tav_sdk.bundle.layout import GRAPH_FILE, TUNED_FILE, WEIGHTS_FILE
from tav_sdk.bundle.manifest import StoredTensor
from tav_sdk.errors import EngineError
from tav_sdk.export.graphs import OPSET, GraphContract


@dataclass(frozen=True)
class ExportedGraph:
    """A graph on disk: its path, and where in :data:`~tav_sdk.bundle.layout.TUNED_FILE` its tuned weights lie."""

    path: Path
    tuned: tuple[StoredTensor, ...]


@torch.no_grad()
def export_graph(
    module: nn.Module,
    contract: GraphContract,
    folder: Path,
    *,
    tuned: Collection[str] = (),
    opset: int = OPSET,
    file: str = GRAPH_FILE,
    weights_of: ExportedGraph | None = None,
) -> ExportedGraph:
    """Trace ``module`` and write ``folder/model.onnx`` with its weights in external-data files beside it.

    Tuned weights are inputs of the graph with a default value, so that a session can run with another clip's. That
    costs nothing measurable: ``benchmarks/swap.py``.

    Args:
        module: takes the contract's inputs in order, float32 where they are no integers; on the CPU.
        contract: names, dtypes and axes.
        folder: an existing folder to write into.
        tuned: names of the weights that go to a file of their own.
        opset: version of the ONNX operator set.
        file: the graph's name in the folder.
        weights_of: a graph in the folder that has the same weights; its files are used, and none are written.

    Raises:
        EngineError: the exporter returned nothing, or ``weights_of`` lacks a weight.
    """
    feeds = contract.dummy_feeds()
    args = tuple(torch.from_numpy(array) for array in feeds.values())
    with _quiet():
        # optimize=False: the exporter's optimiser folds linear weights with their transposes and merges equal
        # weights, and they lose their names.
        program = torch.onnx.export(
            module.eval(),
            args,
            input_names=[spec.name for spec in contract.inputs],
            output_names=[spec.name for spec in contract.outputs],
            dynamic_shapes=_by_parameter(module, list(contract.dynamic_shapes().values())),
            opset_version=opset,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
        if program is None:  # only without dynamo
            raise EngineError(f"torch.onnx.export returned nothing for the {contract.name} graph")
        model = program.model
        initializers = model.graph.initializers
        weights = set(module.state_dict()) & set(initializers)
        _fold_constants(model, weights)
    if weights_of is None:
        _externalise(model, sorted(weights - set(tuned)), folder, WEIGHTS_FILE)
        stored = _externalise(model, sorted(weights & set(tuned)), folder, TUNED_FILE)
    else:
        _share(model, weights, weights_of)
        stored = weights_of.tuned
    model.graph.inputs.extend(initializers[tensor.name] for tensor in stored)
    path = folder / file
    onnx_ir.save(model, path)
    return ExportedGraph(path, stored)


def _share(model: onnx_ir.Model, weights: Collection[str], graph: ExportedGraph) -> None:
    """Take weights from where another graph in the same folder has them."""
    others = onnx_ir.load(graph.path).graph.initializers
    for name in weights:
        mine, other = model.graph.initializers[name], others.get(name)
        if other is None or other.shape != mine.shape or other.dtype != mine.dtype:
            raise EngineError(f"{graph.path} has no weight {name} as this graph needs it: {mine.dtype} {mine.shape}")
        mine.const_value = other.const_value


def _by_parameter(module: nn.Module, shapes: list[Any]) -> tuple[Any, ...]:
    """Dynamic shapes of all arguments as ``torch.export`` wants them: those of ``*args`` are one tuple."""
    parameters = inspect.signature(module.forward).parameters.values()
    count = sum(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)
    rest = tuple(shapes[count:])
    takes_more = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    return (*shapes[:count], rest) if takes_more and rest else tuple(shapes)


def _externalise(model: onnx_ir.Model, names: Sequence[str], folder: Path, file: str) -> tuple[StoredTensor, ...]:
    """Move initialisers to an external-data file; where each of them lies."""
    values = [model.graph.initializers[name] for name in names]
    if not values:
        return ()
    tensors = [value.const_value for value in values]
    external = convert_tensors_to_external(tensors, folder, file)  # type: ignore[arg-type]
    for value, tensor in zip(values, external, strict=True):
        value.const_value = tensor
    return tuple(
        StoredTensor(
            name=name,
            dtype=tensor.dtype.numpy().name,
            shape=tuple(tensor.shape.numpy()),
            offset=tensor.offset or 0,
            length=tensor.nbytes,
        )
        for name, tensor in zip(names, external, strict=True)
    )


def _fold_constants(model: onnx_ir.Model, weights: Collection[str]) -> None:
    """Compute everything that depends on no input and no weight, and drop what nothing uses."""

    def should_fold(node: onnx_ir.Node) -> bool | None:
        touches_weight = any(value is not None and value.name in weights for value in node.inputs)
        return False if touches_weight else None

    passes.InlinePass()(model)
    onnxscript.optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=should_fold)
    for clean in (
        passes.IdentityEliminationPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        # Stack traces of the exporter: megabytes, with the paths of the machine in them.
        passes.ClearMetadataAndDocStringPass(),
    ):
        clean(model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs every operator that it leaves out, and warns of its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
