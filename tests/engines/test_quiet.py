"""What the engines' libraries write by themselves: nothing beside the message, and no file."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tav_sdk
from tav_sdk.engines import open_engine
from tav_sdk.engines.threads import default_threads
from tav_sdk.errors import ConfigError

ROOT = Path(__file__).parents[2]
PACKAGE = Path(tav_sdk.__file__).parent
OPEN = """
import sys
from pathlib import Path
import numpy as np
from tav_sdk.engines import Graph, TensorSpec, open_engine
from tav_sdk.errors import TavError
x, shape = TensorSpec("x", "float32", (4,)), TensorSpec("shape", "int64", (1,))
graph = Graph(name="unet", path=Path(sys.argv[1]), inputs=(x, shape), outputs=(TensorSpec("y", "float32", ("n",)),))
try:
    with open_engine(graph, engine=sys.argv[2]) as engine:
        engine.run({"x": np.zeros(4, np.float32), "shape": np.array([3])})
except TavError as error:
    sys.stderr.write(f"{error}\\n")
"""


def python(code: str, *args: object, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "TAV_DEBUG")}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env={**env, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_importing_onnx_runtime_writes_no_file_and_follows_no_link(tmp_path):
    folder, target = tmp_path / "tmp", tmp_path / "mine"
    folder.mkdir()
    target.write_text("kept")
    (folder / ".ses").symlink_to(target)
    code = "import os; from tav_sdk.engines import engine_status; engine_status('onnxruntime-cpu'); "
    result = python(code + "print(os.environ['ORT_DISABLE_TELEMETRY'])", TMPDIR=str(folder))
    assert result.stdout == "1\n", result.stderr
    assert target.read_text() == "kept"
    assert [path.name for path in folder.iterdir()] == [".ses"]


def test_what_the_user_set_stays():
    code = "import os; from tav_sdk.engines import engine_status; engine_status('onnxruntime-cpu'); "
    result = python(code + "print(os.environ['ORT_DISABLE_TELEMETRY'])", ORT_DISABLE_TELEMETRY="0")
    assert result.stdout == "0\n", result.stderr


def test_one_place_imports_onnx_runtime():
    """Another would do it with telemetry."""
    found = set()
    modules = [Path(folder, name) for folder, _, names in os.walk(PACKAGE, followlinks=True) for name in names]
    for path in (path for path in modules if path.suffix == ".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "onnxruntime" for name in names):
                found.add(path.name)
            if isinstance(node, ast.Call) and "import_module('onnxruntime" in ast.unparse(node):
                found.add(path.name)
    assert found == {"ort_import.py"}


@pytest.mark.parametrize("engine", ["onnxruntime-cpu", "openvino-cpu"])
def test_a_graph_that_cannot_be_opened_leaves_one_line(engine, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph\n")
    result = python(OPEN, path, engine)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert f"cannot load the unet graph {path}: " in result.stderr
    assert result.stdout == ""


def test_a_run_that_fails_leaves_one_line(tmp_path):
    """ONNX Runtime logs a node that fails, and raises the same."""
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Reshape", ["x", "shape"], ["y"])
    kind = onnx.TensorProto
    inputs = [onnx.helper.make_tensor_value_info("x", kind.FLOAT, [4])]
    inputs += [onnx.helper.make_tensor_value_info("shape", kind.INT64, [1])]
    outputs = [onnx.helper.make_tensor_value_info("y", kind.FLOAT, ["n"])]
    graph = onnx.helper.make_graph([node], "graph", inputs, outputs)
    path = tmp_path / "model.onnx"
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    result = python(OPEN, path, "onnxruntime-cpu")
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("ONNX Runtime failed in the unet graph: [ONNXRuntimeError]")


@pytest.mark.parametrize("engine", ["onnxruntime-cpu", "openvino-cpu"])
@pytest.mark.parametrize("text", ["abc", "-1", "1.5", "99999999999", "٣", "1025"])
def test_a_number_of_threads_that_is_none_is_refused(attention, monkeypatch, engine, text):
    graph, _, _ = attention
    monkeypatch.setenv("TAV_NUM_THREADS", text)
    with pytest.raises(ConfigError) as error:
        open_engine(graph, engine=engine)
    assert str(error.value) == (
        f"TAV_NUM_THREADS must be a whole number from 0 to 1024, got '{text}'; leave it out to let the engine choose"
    )


@pytest.mark.parametrize(("text", "number"), [("", 0), (" 3 ", 3), ("1024", 1024)])
def test_a_number_of_threads(monkeypatch, text, number):
    monkeypatch.setenv("TAV_NUM_THREADS", text)
    assert default_threads() == number
