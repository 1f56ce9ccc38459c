"""Nodes that ONNX Runtime runs on the CPU though the GPU was asked for; the GPU here is pretended."""

from __future__ import annotations

import logging
from pathlib import Path

import onnxruntime
import pytest

from tav_sdk.engines import Graph, TensorSpec
from tav_sdk.engines.ort import OrtEngine
from tav_sdk.engines.ort_placement import RECORD, has_compute_on_cpu, nodes_on_cpu, warn_of_cpu

pytest.importorskip("onnx")

REFUSAL = (
    "[ONNXRuntimeError] : 1 : FAIL : This session cannot use the graph capture feature as requested by the user  as "
    "all compute graph nodes have not been partitioned to the CUDAExecutionProvider"
)
OTHER = "[ONNXRuntimeError] : 1 : FAIL : the model has control flow nodes which can't be supported by CUDA Graphs"


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    """y = sin(exp(exp(x)))"""
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in "xy")
    nodes = [
        helper.make_node(kind, [a], [b]) for kind, a, b in (("Exp", "x", "t"), ("Exp", "t", "u"), ("Sin", "u", "y"))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    onnx.save(model, tmp_path / "model.onnx")
    specs = [TensorSpec(name, "float32", ("batch",)) for name in "xy"]
    return Graph(name="unet", path=tmp_path / "model.onnx", inputs=(specs[0],), outputs=(specs[1],))


def session(graph: Graph, *, records: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    if records:
        options.add_session_config_entry(RECORD, "1")
    return onnxruntime.InferenceSession(str(graph.path), options, providers=["CPUExecutionProvider"])


def test_nodes_on_the_cpu_are_counted_by_operator(graph):
    assert nodes_on_cpu(session(graph, records=True)) == ({"Exp": 2, "Sin": 1}, 3)


def test_a_session_that_did_not_record_says_nothing(graph):
    assert nodes_on_cpu(session(graph, records=False)) == ({}, 0)


def test_an_older_onnx_runtime_says_nothing_and_is_warned_of_all_the_same(caplog):
    assert nodes_on_cpu(object()) == ({}, 0)
    warn_of_cpu("unet", object())
    assert "runs them on the CPU, which is slow; install a newer onnxruntime-gpu" in caplog.text


def test_only_compute_nodes_count():
    assert has_compute_on_cpu(RuntimeError(REFUSAL))
    assert not has_compute_on_cpu(RuntimeError(OTHER))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A GPU whose sessions are the CPU's; put in the list what ONNX Runtime says to recording a CUDA graph."""
    refusal: list[str] = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, path: str, options: onnxruntime.SessionOptions, providers: list) -> None:
            if refusal and any(isinstance(provider, tuple) for provider in providers):
                raise RuntimeError(refusal[0])
            super().__init__(path, options, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return refusal


def test_a_graph_that_runs_partly_on_the_cpu_is_told_once(graph, gpu, caplog):
    gpu.append(REFUSAL)
    OrtEngine(graph, engine="onnxruntime-cuda").close()
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning == (
        "the unet graph was to run on the GPU, but ONNX Runtime has no CUDA kernel for some of its nodes and runs them "
        "on the CPU, which is slow: 3 of 3 nodes, Exp (2), Sin (1); install a newer onnxruntime-gpu, or choose another "
        "engine (tav doctor lists them)"
    )


@pytest.mark.parametrize("refusal", ["", OTHER])
def test_a_graph_that_runs_on_the_gpu_alone_is_not_told(graph, gpu, caplog, refusal):
    gpu.extend([refusal] if refusal else [])
    OrtEngine(graph, engine="onnxruntime-cuda").close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
