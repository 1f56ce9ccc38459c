"""The table of engines, and what each one's backend says before its library is needed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tav_sdk.engines import Graph, engine_status
from tav_sdk.engines.backend import INT8
from tav_sdk.engines.select import MODULES, backend_of, obstacle


def graph(precision: str) -> Graph:
    return Graph(name="unet", path=Path("model.onnx"), inputs=(), outputs=(), precision=precision)


@pytest.mark.parametrize("engine", MODULES)
def test_every_engine_says_how_it_is_and_what_to_do(engine):
    status = engine_status(engine)
    assert status.engine == engine
    assert status.detail
    assert bool(status.fix) is not status.runs


@pytest.mark.parametrize("engine", [engine for engine in MODULES if engine != "onnxruntime-cpu"])
def test_int8_fits_no_engine_but_one(engine):
    assert obstacle(graph("int8"), engine) == INT8
    assert not INT8.fits


@pytest.mark.parametrize(
    ("engine", "precision", "reason", "fits"),
    [
        ("onnxruntime-cpu", "bf16", "has no bfloat16 kernels", False),
        ("onnxruntime-tensorrt", "fp32", "has to be built first", True),
        ("onnxruntime-tensorrt-rtx", "bf16", "has to be built first", True),
    ],
)
def test_an_obstacle_tells_what_does_not_fit_from_what_has_to_be_built(engine, precision, reason, fits):
    found = obstacle(graph(precision), engine)
    assert found is not None
    assert (found.reason, found.fits) == (reason, fits)


@pytest.mark.parametrize(
    ("engine", "precision"),
    [
        ("onnxruntime-cpu", "fp32"),
        ("onnxruntime-cpu", "int8"),
        ("onnxruntime-cuda", "bf16"),
        ("openvino-cpu", "bf16"),
    ],
)
def test_nothing_is_in_the_way_of_what_starts_from_the_graph(engine, precision):
    assert backend_of(engine).obstacle(graph(precision), engine) is None


def test_a_backend_is_imported_only_when_it_is_needed():
    code = (
        "import sys, tav_sdk, tav_sdk.engines; from tav_sdk.engines.select import MODULES;"
        "sys.exit(', '.join({*MODULES.values(), 'onnxruntime', 'openvino', 'tensorrt'} & {*sys.modules}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
