import errno
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tav_sdk.cache.store import Cache
from tav_sdk.engines import Graph, TensorSpec
from tav_sdk.engines.trt import build as trt_build
from tav_sdk.engines.trt import cuda, plan_cache
from tav_sdk.engines.trt.api import Flavour, Log, load
from tav_sdk.engines.trt.build import BuildOptions, build_plan
from tav_sdk.engines.trt.plan_cache import PLAN_FILE, find_plan, has_plan, make_plan, plan_facts
from tav_sdk.engines.trt.profiles import profiles_of
from tav_sdk.errors import EngineError, InputError, OutputError

RTX = "tensorrt-rtx"
ADA = {"engine": RTX, "compute_capabilities": ("8.9",)}
WIDTH = 64


class FakeTrt:
    """TensorRT, as far as it has no GPU to do with."""

    __version__ = "11.4"

    class ILogger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=2)


TENSORRT = Flavour("tensorrt", FakeTrt, Log(FakeTrt))


def graph_of(**changes):
    """A graph that is not on disk."""
    values = TensorSpec("x", "float32", ("batch", 3)), TensorSpec("step", "int64", ())
    graph = Graph(
        name="unet", path=Path("model.onnx"), inputs=values, outputs=values[:1], axes={"batch": (1, 2)}, key="a"
    )
    return replace(graph, **changes)


@pytest.fixture(scope="session")
def graph(rtx, attention):
    """A real export; see the fixture."""
    return replace(attention[0], key="b" * 64)


def holds(plan, array):
    return array.tobytes() in plan or np.ascontiguousarray(array.T).tobytes() in plan


# --- profiles ---------------------------------------------------------------------------------------------------------


def test_every_length_has_a_static_profile():
    assert profiles_of(graph_of()) == [{"x": (1, 3), "step": ()}, {"x": (2, 3), "step": ()}]


def test_two_axes_have_a_profile_for_each_pair():
    inputs = (TensorSpec("x", "float32", ("batch", "frames")),)
    profiles = profiles_of(graph_of(inputs=inputs, axes={"frames": (4, 8), "batch": (1, 2)}))
    assert [shapes["x"] for shapes in profiles] == [(1, 4), (1, 8), (2, 4), (2, 8)]


def test_a_graph_without_axes_has_one_profile():
    assert profiles_of(graph_of(inputs=(TensorSpec("x", "float32", (3,)),), axes={})) == [{"x": (3,)}]


def test_an_axis_without_lengths_is_refused():
    with pytest.raises(EngineError, match="the unet graph does not say which lengths its axis 'batch' has"):
        profiles_of(graph_of(axes={"frames": (4,)}))


# --- building ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan(graph, tmp_path_factory):
    """The plan's bytes."""
    path = tmp_path_factory.mktemp("plan") / PLAN_FILE
    build_plan(graph, path, **ADA)
    return path.read_bytes()


def test_a_plan_holds_the_frozen_weights_alone(attention, plan):
    _, clips, frozen = attention
    assert holds(plan, frozen)
    assert [name for name, array in clips[0].tensors.items() if holds(plan, array)] == []


def test_tuned_weights_are_named_in_the_plan(graph, plan):
    assert [spec.name for spec in graph.tuned if spec.name.encode() not in plan] == []


def test_a_build_says_nothing(graph, tmp_path, capfd):
    build_plan(graph, tmp_path / PLAN_FILE, **ADA)
    assert capfd.readouterr() == ("", "")


def test_profiles_share_the_weights(rtx, tmp_path):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    width = 1024
    weight = np.random.default_rng(0).standard_normal((width, width), np.float32)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, width]) for name in "xy"]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    body = helper.make_graph([node], "g", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    specs = tuple(TensorSpec(name, "float32", ("batch", 4, width)) for name in "xy")
    graph = Graph(name="wide", path=path, inputs=specs[:1], outputs=specs[1:], axes={"batch": (1, 2, 3)})
    build_plan(graph, tmp_path / PLAN_FILE, **ADA)
    assert weight.nbytes < (tmp_path / PLAN_FILE).stat().st_size < 1.5 * weight.nbytes


def test_the_unet_of_a_bundle_builds_with_all_its_tuned_weights_as_inputs(rtx, tiny_bundle, tmp_path):
    from tav_sdk.bundle.bundle import Bundle
    from tav_sdk.bundle.layout import UNET

    bundle = Bundle(tiny_bundle)
    graph = replace(bundle.graph(UNET), axes={"batch": (2,)})
    build_plan(graph, tmp_path / PLAN_FILE, **ADA)
    plan = (tmp_path / PLAN_FILE).read_bytes()
    assert graph.tuned
    assert [spec.name for spec in graph.tuned if spec.name.encode() not in plan] == []
    weights = bundle.weights()
    assert weights is not None
    assert [name for name, array in weights.tensors.items() if array.any() and holds(plan, array)] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "k.bias"}, r"tuned weight 'k.bias' \(float32\[64, 64\]\) as a tensor of its own, .* got none"),
        ({"dtype": "float16"}, r"tuned weight 'q.weight' \(float16\[64, 64\]\) .* got DataType.FLOAT\[64, 64\]"),
        ({"shape": (64, 1)}, r"tuned weight 'q.weight' \(float32\[64, 1\]\) .* got DataType.FLOAT\[64, 64\]"),
    ],
)
def test_a_tuned_weight_that_the_graph_does_not_have_is_named(graph, tmp_path, change, message):
    spec = TensorSpec(**{"name": "q.weight", "dtype": "float32", "shape": (WIDTH, WIDTH), **change})
    with pytest.raises(EngineError, match=message):
        build_plan(replace(graph, tuned=(spec,)), tmp_path / PLAN_FILE, **ADA)


def test_what_tensorrt_says_is_in_the_error_and_nothing_is_left_behind(graph, tmp_path):
    damaged, out = tmp_path / "model.onnx", tmp_path / "out" / PLAN_FILE
    damaged.write_bytes(b"no graph")
    with pytest.raises(
        EngineError, match=r"TensorRT for RTX \S+ cannot build the attention graph .*model.onnx: .*parse"
    ):
        build_plan(replace(graph, path=damaged), out, **ADA)
    assert not out.parent.exists()


def test_a_build_without_memory_is_an_engine_error(graph, tmp_path, monkeypatch):
    monkeypatch.setattr(trt_build, "_build", lambda *_: np.empty(2**60, np.uint8))
    with pytest.raises(EngineError, match="ran out of memory while it built the attention graph; close other programs"):
        build_plan(graph, tmp_path / PLAN_FILE, **ADA)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no full disk to write to")
def test_a_full_disk_leaves_no_half_plan(graph, tmp_path, monkeypatch):
    monkeypatch.setattr(trt_build, "_build", lambda *_: b"plan")
    monkeypatch.setattr(trt_build, "open", lambda *_: open("/dev/full", "wb"), raising=False)  # noqa: SIM115
    with pytest.raises(OutputError, match=os.strerror(errno.ENOSPC)):
        build_plan(graph, tmp_path / PLAN_FILE, **ADA)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute_capabilities": ("9.9",)}, r"cannot build for compute capability '9.9'; it knows 7.5, 8.0, 8.6, 8.9"),
        ({"compute_capabilities": ("ada",)}, "cannot build for compute capability 'ada'"),
        ({"optimization_level": 6}, "optimization_level must be 0 to 5, got 6"),
        ({"timing_cache": "timings"}, "measures nothing when it builds, so it has no use for a timing_cache"),
        ({"workspace": 0}, "workspace must be a positive number of bytes, got 0"),
    ],
)
def test_options_are_checked(rtx, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        build_plan(graph_of(), tmp_path / PLAN_FILE, engine=RTX, **options)


def test_tensorrt_builds_for_its_own_gpu_alone():
    with pytest.raises(InputError, match=r"tensorrt builds for the GPU that it runs on, got compute capability 8.9"):
        TENSORRT.check_capabilities(("8.9",))


def test_a_process_builds_with_one_flavour(plan):
    with pytest.raises(EngineError, match="has set up Polygraphy for TensorRT for RTX, and it serves only one"):
        TENSORRT.polygraphy("polygraphy.backend.trt")


def test_a_process_loads_one_flavour(plan, tmp_path, monkeypatch):
    (tmp_path / "tensorrt.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match="has loaded TensorRT for RTX, and can load only one of the two"):
        load("tensorrt")


def test_libraries_that_do_not_load_are_an_engine_error(tmp_path, monkeypatch):
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.11: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    with pytest.raises(
        EngineError, match=r"tensorrt is installed, but cannot be loaded: libnvinfer.so.11: cannot open"
    ):
        load("tensorrt")


# --- the cache --------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_gpu(monkeypatch):
    def device():
        raise EngineError("no GPU")

    monkeypatch.setattr(cuda, "device", device)


@pytest.fixture
def quick(monkeypatch):
    """Builds take no time; the names of those that were made."""
    built = []
    monkeypatch.setattr(trt_build, "_build", lambda flavour, graph, *_: built.append(graph.name) or b"plan")
    return built


@pytest.fixture
def cache(tmp_path):
    return Cache("engines", root=tmp_path)


def test_a_plan_is_built_once(graph, cache, no_gpu):
    assert not has_plan(graph, RTX, cache=cache)
    path = make_plan(graph, RTX, cache=cache)
    assert path.stat().st_size > WIDTH * WIDTH * 4
    assert has_plan(graph, RTX, cache=cache)
    before = path.stat().st_mtime_ns
    assert make_plan(graph, RTX, cache=cache) == find_plan(graph, RTX, cache=cache) == path
    assert path.stat().st_mtime_ns == before


def test_the_entry_says_what_it_is(graph, cache, no_gpu, quick):
    make_plan(graph, RTX, cache=cache)
    (entry,) = cache.entries()
    facts = entry.facts
    assert (facts["name"], facts["graph"], facts["engine"], facts["gpus"]) == ("attention", "b" * 64, RTX, ["default"])
    assert facts["version"] == load(RTX).version


def test_a_failed_build_leaves_no_entry(graph, cache, no_gpu, tmp_path):
    with pytest.raises(EngineError, match="cannot build the attention graph"):
        make_plan(replace(graph, path=tmp_path / "missing.onnx"), RTX, cache=cache)
    assert cache.entries() == []


@pytest.mark.parametrize(
    "changes",
    [{"key": "c" * 64}, {"precision": "fp16"}, {"axes": {"batch": (1,)}}, {"axes": {"batch": (2, 1)}}, {"tuned": ()}],
)
def test_another_graph_has_another_plan(graph, cache, no_gpu, quick, changes):
    make_plan(graph, RTX, cache=cache)
    assert not has_plan(replace(graph, **changes), RTX, cache=cache)


def test_another_clip_has_the_same_plan(graph, cache, no_gpu, quick, tmp_path):
    make_plan(graph, RTX, cache=cache)
    assert has_plan(replace(graph, path=tmp_path / "other" / "model.onnx"), RTX, cache=cache)


@pytest.mark.parametrize("options", [{"compute_capabilities": ("8.6",)}, {"optimization_level": 1}, {"workspace": 1}])
def test_other_options_make_another_plan(graph, options):
    facts = [plan_facts(graph, load(RTX), some) for some in (BuildOptions(), BuildOptions(**options))]
    assert facts[0] != facts[1]


def test_the_order_of_gpus_does_not_matter(graph):
    orders = [("8.9", "12.0"), ("12.0", "8.9", "8.9")]
    facts = [plan_facts(graph, load(RTX), BuildOptions(compute_capabilities=order)) for order in orders]
    assert facts[0] == facts[1]
    assert facts[0]["gpus"] == ["8.9", "12.0"]


@pytest.mark.parametrize(
    ("built", "capability", "found"),
    [
        (("8.9",), "8.9", True),
        (("8.9",), "8.6", False),
        (("8.9",), "", False),
        (("8.6", "8.9"), "8.6", True),
        ((), "8.9", True),
        ((), "12.1", True),
        ((), "", True),
        ((), "7.5", False),
    ],
)
def test_a_plan_for_this_gpu_is_found_and_one_for_another_is_not(
    graph, cache, quick, monkeypatch, built, capability, found
):
    make_plan(graph, RTX, options=BuildOptions(compute_capabilities=built, optimization_level=5), cache=cache)
    monkeypatch.setattr(plan_cache, "_capability", lambda: capability)
    assert has_plan(graph, RTX, cache=cache) is found
    assert (find_plan(graph, RTX, cache=cache) is not None) is found


def test_a_plan_for_this_gpu_alone_comes_first(graph, cache, quick, monkeypatch):
    orders = [("8.9",), ("8.6", "8.9"), ("8.6",), ()]
    plans = [make_plan(graph, RTX, options=BuildOptions(compute_capabilities=order), cache=cache) for order in orders]
    monkeypatch.setattr(plan_cache, "_capability", lambda: "8.9")
    for plan in (plans[0], plans[1], plans[3]):
        assert find_plan(graph, RTX, cache=cache) == plan
        cache.remove(plan.parent.name)
    assert not has_plan(graph, RTX, cache=cache)


def test_a_damaged_plan_is_not_found(graph, cache, no_gpu, quick):
    make_plan(graph, RTX, cache=cache).write_bytes(b"nalp")
    assert find_plan(graph, RTX, cache=cache) is None


def test_a_turing_gpu_has_a_plan_of_its_own(graph, cache, quick, monkeypatch):
    monkeypatch.setattr(cuda, "device", lambda: cuda.Device("GPU", "7.5"))
    make_plan(graph, RTX, cache=cache)
    assert [entry.facts["gpus"] for entry in cache.entries()] == [["7.5"]]
    assert has_plan(graph, RTX, cache=cache)


def test_a_tensorrt_plan_is_for_one_kind_of_gpu(graph, monkeypatch):
    monkeypatch.setattr(cuda, "device", lambda: cuda.Device("NVIDIA L4", "8.9"))
    assert plan_facts(graph, TENSORRT, BuildOptions())["gpus"] == ["NVIDIA L4 (8.9)"]


def test_a_graph_without_a_key_is_not_cached(graph, cache):
    with pytest.raises(InputError, match="the attention graph has no key, so its plan cannot be cached"):
        make_plan(replace(graph, key=None), RTX, cache=cache)
    assert not has_plan(replace(graph, key=None), RTX, cache=cache)
    assert find_plan(replace(graph, key=None), RTX, cache=cache) is None
