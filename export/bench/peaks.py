"""How fast this machine multiplies matrices and moves memory: what measured times are compared with."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch

from tav_sdk.engines.base import Graph, TensorSpec
from tav_sdk.engines.select import open_engine

SIZES = (1024, 2048, 3072)
"""Rows and columns of the matrices on a CPU."""
GPU_SIZES = (4096, 8192)
"""A GPU needs larger ones to be busy."""
_COPIED = 2**27


def matmul_peak(device: str = "cpu", *, repeats: int = 8) -> dict[str, float]:
    """The fastest product of two square matrices that any library here computes, in FLOP/s, by precision.

    Args:
        device: a torch device; on ``cpu`` ONNX Runtime, OpenVINO, numpy and torch compete.
        repeats: of every product; the best one counts.

    Returns:
        ``fp32`` and ``bf16``; of a GPU also ``fp16``.
    """
    found: dict[str, float] = {}
    for size in SIZES if device == "cpu" else GPU_SIZES:
        for precision, product in _products(size, device):
            product()
            best = min(_seconds(product) for _ in range(repeats))
            found[precision] = max(found.get(precision, 0.0), 2 * size**3 / best)
    return found


def bandwidth(device: str = "cpu", *, repeats: int = 8) -> float:
    """Bytes per second of a copy, those that are read and those that are written."""
    source = torch.ones(_COPIED // 4, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        _wait(device)

    copy()
    return 2 * _COPIED / min(_seconds(copy) for _ in range(repeats))


def _products(size: int, device: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16} | ({} if device == "cpu" else {"fp16": torch.float16})
    for precision, dtype in dtypes.items():
        matrix = torch.ones(size, size, dtype=dtype, device=device)
        out = torch.empty_like(matrix)

        def multiply(matrix: torch.Tensor = matrix, out: torch.Tensor = out) -> None:
            torch.mm(matrix, matrix, out=out)
            _wait(device)

        yield precision, multiply
    if device != "cpu":
        return
    array = np.ones((size, size), np.float32)
    result = np.empty_like(array)
    yield "fp32", lambda: np.matmul(array, array, out=result)
    with TemporaryDirectory() as folder:
        graph = _matmul_graph(Path(folder), size)
        for engine in ("onnxruntime-cpu", *(["openvino-cpu"] if importlib.util.find_spec("openvino") else [])):
            with open_engine(graph, engine=engine) as opened:
                yield "fp32", lambda opened=opened: opened.run({"x": array})


def _matmul_graph(folder: Path, size: int) -> Graph:
    from onnx import TensorProto, helper, numpy_helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size]) for name in ("x", "y")]
    weight = numpy_helper.from_array(np.ones((size, size), np.float32), "w")
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "matmul", values[:1], values[1:], [weight]
    )
    path = folder / "matmul.onnx"
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    specs = [TensorSpec(name, "float32", (size, size)) for name in ("x", "y")]
    return Graph(name="matmul", path=path, inputs=(specs[0],), outputs=(specs[1],))


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)
