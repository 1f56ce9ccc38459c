"""Graphs of equal modules are traced once in a test run: tracing is most of an export's time.

What is stored is what :func:`tav_sdk.export.to_onnx.export_graph` wrote, under a digest of everything that it was
given: the module with all its attributes, the contract, and the options, but not the values of its parameters, which
lie under their names in files of their own and are put there anew. The export around it is as ever, the comparison of
each graph with its model as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pickle
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PretrainedConfig

from tav_sdk.bundle.manifest import StoredTensor
from tav_sdk.export.graphs import GraphContract
from tav_sdk.export.to_onnx import ExportedGraph, export_graph

STORED = "stored.json"
LEFT_OUT = ("name_or_path", "_name_or_path", "_use_default_values")
"""Where a model came from, and what its configuration did not name."""
MadeOnce = Callable[[str, Callable[[Path], object]], Path]


class _Contents(pickle.Pickler):
    """Pickles a module by what it computes: without addresses, the process's numbers of hooks, and file names."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, nn.Parameter):
            return str, (str((type(obj), obj.dtype, tuple(obj.shape))),)
        if isinstance(obj, torch.Tensor):
            values = obj.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            return str, (str((type(obj), obj.dtype, tuple(obj.shape), hashlib.sha256(values).hexdigest())),)
        if isinstance(obj, nn.Module):
            parts = {name: part for name, part in vars(obj).items() if name not in LEFT_OUT}
            sets = {name: sorted(map(repr, part)) for name, part in parts.items() if isinstance(part, (set, frozenset))}
            return list, ([type(obj), *(parts | sets).items()],)
        if isinstance(obj, OrderedDict):
            return list, ([(None if isinstance(key, int) else key, obj[key]) for key in obj if key not in LEFT_OUT],)
        if isinstance(obj, PretrainedConfig):
            return dict, (sorted(obj.to_diff_dict().items()),)
        if isinstance(obj, RemovableHandle):
            return str, ()
        return NotImplemented


def digest_of(*given: object) -> str | None:
    """A digest that two equal lists of arguments may share and two unlike ones never do; none if one has no pickle."""
    written = io.BytesIO()
    try:
        pickler = _Contents(written)
        pickler.fast = True  # or two equal strings would not be pickled as one string twice is
        pickler.dump(given)
    except (AttributeError, TypeError, ValueError, RecursionError, pickle.PicklingError):  # a local function, a cycle
        return None
    return hashlib.sha256(written.getvalue()).hexdigest()


def traced_once(made_once: MadeOnce) -> Callable[..., ExportedGraph]:
    """``export_graph`` that takes from this run's shared folder what it, or another worker, has traced before."""

    def export(module: nn.Module, contract: GraphContract, folder: Path, **options: Any) -> ExportedGraph:
        tuned, weights_of = sorted(options.get("tuned", ())), options.get("weights_of")
        shared = None if weights_of is None else weights_of.tuned
        rest = {name: value for name, value in options.items() if name not in ("tuned", "weights_of")}
        # What it computes in shows in the module's weights; the contract's precision is for the comparison behind.
        same = dataclasses.replace(contract, precision="fp32", tolerance=0.0)
        digest = digest_of(module.eval(), same, tuned, shared, rest)
        if digest is None:
            return export_graph(module, contract, folder, **options)

        def make(path: Path) -> None:
            before = set(folder.iterdir())
            graph = export_graph(module, contract, folder, **options)
            path.mkdir()
            for file in set(folder.iterdir()) - before:
                shutil.copy2(file, path / file.name)
            stored = {"graph": graph.path.name, "tuned": [tensor.model_dump(mode="json") for tensor in graph.tuned]}
            (path / STORED).write_text(json.dumps(stored), encoding="utf-8")

        path = made_once(f"traced-{digest}", make)
        stored = json.loads((path / STORED).read_text(encoding="utf-8"))
        graph = folder / stored["graph"]
        if not graph.exists():
            shutil.copytree(path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(STORED))
            _fill(graph, module)
        return ExportedGraph(graph, tuple(StoredTensor.model_validate(tensor) for tensor in stored["tuned"]))

    return export


def _fill(graph: Path, module: nn.Module) -> None:
    """Write the module's parameters where the graph has them."""
    initializers = onnx_ir.load(graph).graph.initializers
    for name, parameter in module.state_dict().items():
        if name not in initializers:
            continue
        stored = initializers[name].const_value
        assert isinstance(stored, onnx_ir.ExternalTensor), name
        values = parameter.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        assert len(values) == stored.length, name
        with (graph.parent / stored.location).open("r+b") as file:
            file.seek(stored.offset or 0)
            file.write(values)
