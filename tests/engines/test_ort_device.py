"""The buffers that a session on a GPU runs with, tried on the CPU."""

import numpy as np
import onnx
import pytest

from tav_sdk.engines import TensorSpec, Weights
from tav_sdk.engines.ort_device import DeviceRunner

TUNED = (TensorSpec("one", "float32", (1,)),)
OUTPUTS = (TensorSpec("y", "float32", ("batch", 3)),)


@pytest.fixture
def runner(tmp_path):
    """y = x + step + 1, where 1 is a tuned weight."""
    from onnx import TensorProto, helper
    from onnxruntime import InferenceSession

    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y"))
    step = helper.make_tensor_value_info("step", TensorProto.FLOAT, [])
    weight = helper.make_tensor_value_info("one", TensorProto.FLOAT, [1])
    nodes = [helper.make_node("Add", ["x", "one"], ["z"]), helper.make_node("Add", ["z", "step"], ["y"])]
    body = helper.make_graph(nodes, "g", [x, step, weight], [y], [one])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return DeviceRunner(session, OUTPUTS, TUNED, device="cpu", records=True)


def feeds(value, batch=2):
    return {"x": np.full((batch, 3), value, np.float32), "step": np.asarray(10, np.float32)}


def weights(value):
    return Weights(str(value), {"one": np.array([value], np.float32)})


def test_each_run_gets_its_own_inputs_whatever_the_batch(runner):
    results = {(value, batch): runner.run(feeds(value, batch), None)["y"] for value in (1, 2) for batch in (1, 2, 1)}
    for (value, batch), result in results.items():
        np.testing.assert_array_equal(result, np.full((batch, 3), value + 11, np.float32))


def test_weights_change_and_come_back(runner):
    given = [weights(5), None, weights(7), weights(5)]
    assert [runner.run(feeds(0), one)["y"][0, 0] for one in given] == [15, 11, 17, 15]


def test_buffers_stay_where_they_are(runner):
    """A CUDA graph reads and writes the addresses that it was recorded with."""
    runner.run(feeds(0), weights(5))
    (run,) = runner._runs.values()
    values = [*runner._weights.values(), *run._inputs.values(), *run._outputs.values()]
    before = [value.data_ptr() for value in values]
    runner.run(feeds(1), weights(7))
    assert list(runner._runs.values()) == [run]
    assert [value.data_ptr() for value in values] == before


def test_weights_that_fail_half_way_are_not_taken_for_whole(runner):
    runner.run(feeds(0), weights(5))
    with pytest.raises(KeyError):
        runner.run(feeds(0), Weights("broken", {}))
    assert runner.run(feeds(0), weights(5))["y"][0, 0] == 15


def test_bfloat16_weights_are_copied_as_their_bits(tmp_path):
    from onnx import TensorProto, helper
    from onnxruntime import InferenceSession

    weight = helper.make_tensor_value_info("w", TensorProto.BFLOAT16, [2])
    default = helper.make_tensor("w", TensorProto.BFLOAT16, [2], np.zeros(2, np.uint16).tobytes(), raw=True)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    nodes = [
        helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    path = tmp_path / "model.onnx"
    body = helper.make_graph(nodes, "g", [x, weight], [y], [default])
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    runner = DeviceRunner(
        InferenceSession(str(path), providers=["CPUExecutionProvider"]),
        (TensorSpec("y", "float32", (2,)),),
        (TensorSpec("w", "bfloat16", (2,)),),
        device="cpu",
    )
    bits = np.array([0x3F80, 0xC000], np.uint16)  # 1 and -2
    result = runner.run({"x": np.zeros(2, np.float32)}, Weights("a", {"w": bits}))
    np.testing.assert_array_equal(result["y"], [1, -2])
