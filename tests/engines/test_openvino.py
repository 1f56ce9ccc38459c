"""OpenVINO beside ONNX Runtime, on real exports."""

import dataclasses

import numpy as np
import pytest

from tav_sdk.engines import available_engines, build_engine, engine_status, open_engine
from tav_sdk.engines.openvino import OpenVinoEngine
from tav_sdk.errors import EngineError, InputError


@pytest.fixture
def feeds():
    rng = np.random.default_rng(1)
    return {"x": rng.standard_normal((2, 5, 64), np.float32), "step": np.asarray(3, np.int64)}


def test_it_works_here_and_comes_before_onnx_runtime():
    names = list(available_engines())
    assert names.index("openvino-cpu") < names.index("onnxruntime-cpu")
    assert engine_status("openvino-cpu").detail.startswith("OpenVINO 20")


def test_it_gives_what_onnx_runtime_gives_for_every_clip(attention, feeds):
    graph, clips, _ = attention
    with open_engine(graph, engine="openvino-cpu") as mine, open_engine(graph, engine="onnxruntime-cpu") as reference:
        own = mine.run(feeds)["y"]
        for weights in (*clips, clips[0], None):
            result, expected = mine.run(feeds, weights)["y"], reference.run(feeds, weights)["y"]
            np.testing.assert_allclose(result, expected, atol=1e-5)
        np.testing.assert_array_equal(mine.run(feeds, clips[0])["y"], own)
        assert abs(mine.run(feeds, clips[1])["y"] - own).max() > 1e-2
        np.testing.assert_array_equal(mine.run(feeds, clips[0])["y"], own)


def test_any_batch_and_read_only_inputs(attention, feeds):
    graph, _, _ = attention
    with open_engine(graph, engine="openvino-cpu") as engine:
        whole = engine.run(feeds)["y"]
        half = feeds["x"][:1].copy()
        half.flags.writeable = False
        np.testing.assert_allclose(engine.run({**feeds, "x": half})["y"], whole[:1], atol=1e-6)


def test_results_are_the_callers(attention, feeds):
    graph, _, _ = attention
    with open_engine(graph, engine="openvino-cpu") as engine:
        first = engine.run(feeds)["y"]
        kept = first.copy()
        engine.run({**feeds, "x": feeds["x"] * 2})
        np.testing.assert_array_equal(first, kept)


def test_a_damaged_graph_is_refused(attention, tmp_path):
    graph, _, _ = attention
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"OpenVINO cannot load the attention graph .*model.onnx"):
        OpenVinoEngine(dataclasses.replace(graph, path=path))


def test_there_is_nothing_to_build(attention):
    graph, _, _ = attention
    assert build_engine(graph, engine="openvino-cpu") is None
    with pytest.raises(InputError, match="openvino-cpu has no build options, got workspace; leave them out"):
        build_engine(graph, engine="openvino-cpu", workspace=1)


def test_int8_is_left_to_onnx_runtime(attention):
    graph, _, _ = attention
    with pytest.raises(EngineError, match=r"openvino-cpu does not run int8, which is made for onnxruntime-cpu"):
        open_engine(dataclasses.replace(graph, precision="int8"), engine="openvino-cpu")


def test_a_missing_library_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status = engine_status("openvino-cpu")
    assert (status.runs, status.fix) == (False, 'pip install "tav-sdk[openvino]"')
