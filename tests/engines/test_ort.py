import dataclasses

import numpy as np
import onnx
import pytest

from tav_sdk.engines import (
    EngineStatus,
    Graph,
    TensorSpec,
    Weights,
    available_engines,
    choose_engine,
    open_engine,
    select,
)
from tav_sdk.errors import EngineError, InputError

INPUTS = (TensorSpec("x", "float32", ("batch", 3)),)
OUTPUTS = (TensorSpec("y", "float32", ("batch", 3)),)


@pytest.fixture
def graph(tmp_path):
    """y = x + 1, where 1 is a tuned weight"""
    from onnx import TensorProto, helper

    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    body = helper.make_graph(
        [helper.make_node("Add", ["x", "one"], ["y"])],
        "g",
        [*value[:1], helper.make_tensor_value_info("one", TensorProto.FLOAT, [1])],
        value[1:],
        [one],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    tuned = (TensorSpec("one", "float32", (1,)),)
    return Graph(name="plus", path=path, inputs=INPUTS, outputs=OUTPUTS, tuned=tuned)


def test_a_graph_runs_on_the_cpu_with_any_batch(graph):
    with open_engine(graph, engine="onnxruntime-cpu") as engine:
        for batch in (1, 4):
            x = np.arange(3 * batch, dtype=np.float32).reshape(batch, 3)
            np.testing.assert_array_equal(engine.run({"x": x})["y"], x + 1)


def test_an_input_is_checked_before_it_runs(graph):
    with (
        open_engine(graph) as engine,
        pytest.raises(InputError, match=r"plus input 'x': expected float32\[batch, 3\], got float32\[2, 4\]"),
    ):
        engine.run({"x": np.zeros((2, 4), np.float32)})


def test_auto_takes_the_first_engine_that_works_here(graph):
    assert choose_engine("auto")[0] == next(iter(available_engines()))
    with open_engine(graph) as engine:
        assert engine.backend == choose_engine("auto")[0]


def test_the_cpu_is_always_available():
    assert available_engines()["onnxruntime-cpu"].startswith("ONNX Runtime ")


def test_an_unknown_engine_lists_those_that_work():
    with pytest.raises(EngineError, match="there is no engine 'tensorflow'; those that work here: auto"):
        choose_engine("tensorflow")


def test_a_damaged_graph_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"ONNX Runtime cannot load the plus graph .*model.onnx"):
        open_engine(Graph(name="plus", path=path, inputs=INPUTS, outputs=OUTPUTS), engine="onnxruntime-cpu")


def weights(*values, key=None):
    return Weights(key or str(values), {"one": np.array(values, np.float32)})


def test_weights_of_a_clip_replace_the_graphs_own(graph):
    x = np.zeros((1, 3), np.float32)
    with open_engine(graph, engine="onnxruntime-cpu") as engine:
        results = [engine.run({"x": x}, given)["y"][0, 0] for given in (None, weights(5), weights(7), weights(5), None)]
    assert results == [1, 5, 7, 5, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Weights("a", {}), r"tuned weight 'one' of the plus graph: expected float32\[1\], got none"),
        (
            weights(1, 2),
            r"tuned weight 'one' of the plus graph: expected float32\[1\], got float32\[2\]; .* other infl",
        ),
        (
            Weights("b", {"two": np.ones(1, np.float32)}),
            r"the plus graph takes no tuned weight 'two' \(1 of 1 are unkn",
        ),
        (
            Weights("c", {"one": np.ones(1, np.float16)}),
            r"expected float32\[1\], got float16\[1\]; .*another base, precis",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(graph, given, message):
    with open_engine(graph, engine="onnxruntime-cpu") as engine, pytest.raises(InputError, match=message):
        engine.run({"x": np.zeros((1, 3), np.float32)}, given)


def test_bfloat16_is_refused_on_the_cpu_with_what_to_do(graph):
    half = dataclasses.replace(graph, precision="bf16")
    text = (
        "onnxruntime-cpu has no bfloat16 kernels, and the plus graph is in bf16; choose openvino-cpu, or an engine on "
        "a GPU, or export the run again in precision fp32"
    )
    with pytest.raises(EngineError, match=text):
        open_engine(half, engine="onnxruntime-cpu")


def test_int8_is_refused_elsewhere_than_on_the_cpu(graph, monkeypatch):
    runs = EngineStatus(engine="onnxruntime-cuda", runs=True, builds=True, detail="a GPU")
    monkeypatch.setattr(select, "engine_status", lambda engine: runs)
    monkeypatch.setattr(select, "available_engines", lambda: {"onnxruntime-cuda": "", "onnxruntime-cpu": ""})
    int8 = dataclasses.replace(graph, precision="int8")
    text = (
        "onnxruntime-cuda does not run int8, which is made for onnxruntime-cpu, and the plus graph is in int8; choose "
        "the engine onnxruntime-cpu, or export the run again in precision fp32"
    )
    for use in (select.open_engine, select.build_engine):
        with pytest.raises(EngineError, match=text):
            use(int8, engine="onnxruntime-cuda")
    why = "the best engine that works here; onnxruntime-cuda does not run int8, which is made for onnxruntime-cpu"
    assert select.choose_engine("auto", [int8]) == ("onnxruntime-cpu", why)
