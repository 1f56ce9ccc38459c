import numpy as np
import pytest

from tav_sdk.engines import TensorSpec, available_engines, open_engine
from tav_sdk.engines.select import resolve_engine
from tav_sdk.errors import EngineError, InputError

onnx = pytest.importorskip("onnx")

INPUTS = [TensorSpec("x", "float32", ("batch", 3))]
OUTPUTS = [TensorSpec("y", "float32", ("batch", 3))]


@pytest.fixture
def graph(tmp_path):
    """y = x + 1"""
    from onnx import TensorProto, helper

    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    body = helper.make_graph([helper.make_node("Add", ["x", "one"], ["y"])], "g", value[:1], value[1:], [one])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_a_graph_runs_on_the_cpu_with_any_batch(graph):
    with open_engine(graph, "plus", INPUTS, OUTPUTS, engine="onnxruntime-cpu") as engine:
        for batch in (1, 4):
            x = np.arange(3 * batch, dtype=np.float32).reshape(batch, 3)
            np.testing.assert_array_equal(engine.run({"x": x})["y"], x + 1)


def test_an_input_is_checked_before_it_runs(graph):
    with (
        open_engine(graph, "plus", INPUTS, OUTPUTS) as engine,
        pytest.raises(InputError, match=r"plus input 'x': expected float32\[batch, 3\], got float32\[2, 4\]"),
    ):
        engine.run({"x": np.zeros((2, 4), np.float32)})


def test_auto_takes_the_first_engine_that_works_here(graph):
    assert resolve_engine("auto") == next(iter(available_engines()))
    with open_engine(graph, "plus", INPUTS, OUTPUTS) as engine:
        assert engine.backend == resolve_engine("auto")


def test_the_cpu_is_always_available():
    assert available_engines()["onnxruntime-cpu"].startswith("ONNX Runtime ")


def test_an_unknown_engine_lists_those_that_work():
    with pytest.raises(
        EngineError, match="there is no engine 'tensorflow' on this machine; those that work here: auto"
    ):
        resolve_engine("tensorflow")


def test_a_damaged_graph_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"ONNX Runtime cannot load the plus graph .*model.onnx"):
        open_engine(path, "plus", INPUTS, OUTPUTS)
