"""A real quantisation of the tiny base's U-Net: what becomes 8 bits, what stays, and what it still computes."""

import shutil
from collections import Counter

import numpy as np
import onnx
import pytest

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import TUNED_FILE, UNET, UNTUNED_FILE, WEIGHTS_FILE, WINDOWED_FILE
from tav_sdk.engines import open_engine
from tav_sdk.errors import CancelledError
from tav_sdk.export import export_clip
from tav_sdk.export.graphs import GraphContract
from tav_sdk.export.int8 import KEPT, LARGEST, STEPS, _integers, find_ranges, quantize

FILES = ["model.onnx", WEIGHTS_FILE, TUNED_FILE, UNTUNED_FILE]
ONLY_THE_UNET = shutil.ignore_patterns(WINDOWED_FILE)
"""A bundle in int8 has no windowed graph."""


@pytest.fixture(scope="session")
def contract(tiny_bundle) -> GraphContract:
    entry = Bundle(tiny_bundle).manifest.graphs[UNET]
    return GraphContract(
        name=UNET,
        inputs=tuple(tensor.spec for tensor in entry.inputs),
        outputs=tuple(tensor.spec for tensor in entry.outputs),
        high={"timestep": 1000},
    )


@pytest.fixture(scope="session")
def states(contract) -> np.ndarray:
    """Text states of nothing in particular."""
    return contract.dummy_feeds(seed=3, axis_length=1)["encoder_hidden_states"]


@pytest.fixture(scope="session")
def int8_unet(made_once, tiny_bundle, contract, states):
    """A folder with the tiny U-Net in int8; do not write into it."""

    def make(path):
        shutil.copytree(tiny_bundle / UNET, path, ignore=ONLY_THE_UNET)
        quantize(path / "model.onnx", contract, Bundle(tiny_bundle).schedule, states)

    return made_once("int8_unet", make)


@pytest.fixture
def unet_copy(tiny_bundle, tmp_path):
    """A copy of the float32 graph that a test may quantise."""
    return shutil.copytree(tiny_bundle / UNET, tmp_path / "unet", ignore=ONLY_THE_UNET) / "model.onnx"


def graph_of(folder):
    return onnx.load(folder / "model.onnx", load_external_data=False).graph


def run(path, contract, feeds, **how):
    with open_engine(contract.graph(path, **how), engine="onnxruntime-cpu") as engine:
        return engine.run(feeds)["out_sample"]


def rms(result, reference):
    return float(np.sqrt(np.square(result - reference).mean() / np.square(reference).mean()))


def tuned_specs(bundle):
    return tuple(tensor.spec for tensor in Bundle(bundle).manifest.graphs[UNET].tuned)


# --- what is quantised ----------------------------------------------------------------------------------------------


def test_frozen_layers_are_quantised_and_the_others_are_not(int8_unet, tiny_bundle):
    graph, before = graph_of(int8_unet), graph_of(tiny_bundle / UNET)
    stored = {tensor.name: tensor for tensor in graph.initializer}
    tuned = {spec.name for spec in tuned_specs(tiny_bundle)}
    linear = Counter(node.op_type for node in before.node)
    assert Counter(node.op_type for node in graph.node)["MatMulInteger"] == linear["MatMul"] + linear["Gemm"] - sum(
        name.endswith(".weight") for name in tuned
    )
    assert not [node for node in graph.node if node.op_type == "Gemm"]
    for node in graph.node:
        if node.op_type == "Conv":
            kept = node.input[1].removesuffix(".weight").endswith(KEPT)
            assert kept == (node.input[1] in stored), node.input[1]
    weights = [tensor for name, tensor in stored.items() if name.endswith(".weight_quantized")]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.INT8}
    assert not {tensor.name.replace("_quantized", "") for tensor in weights} & (stored.keys() | tuned)


def test_it_says_which_layers_stay_in_float32(unet_copy, contract, states, tiny_bundle):
    kept = quantize(unet_copy, contract, Bundle(tiny_bundle).schedule, states)
    stored = {tensor.name for tensor in graph_of(unet_copy.parent).initializer}
    assert kept[0] == "conv_in"
    assert kept[-1] == "conv_out"
    assert all(name.endswith(KEPT) and f"{name}.weight" in stored for name in kept)


def test_the_graph_is_valid_and_has_no_other_files(int8_unet):
    onnx.checker.check_model(int8_unet / "model.onnx", full_check=True)
    assert sorted(path.name for path in int8_unet.iterdir()) == sorted(FILES)


def test_frozen_weights_take_less_than_half(int8_unet, tiny_bundle):
    """A quarter in a large model; here scales and norms count as well."""
    sizes = [(folder / WEIGHTS_FILE).stat().st_size for folder in (int8_unet, tiny_bundle / UNET)]
    assert sizes[0] < 0.5 * sizes[1]


def test_every_weight_has_a_scale_for_each_output_and_fits_into_seven_bits():
    weight = np.random.default_rng(0).standard_normal((5, 4, 3, 3)).astype(np.float32)
    weight[1] *= 100
    weight[2] = 0
    integers, scales = _integers(weight)
    assert (integers.dtype, integers.shape, scales.shape) == (np.dtype("int8"), weight.shape, (5,))
    assert np.abs(integers).max() == LARGEST
    assert (np.abs(integers * scales[:, None, None, None] - weight) <= 0.5001 * scales[:, None, None, None]).all()
    assert not integers[2].any()


# --- what it computes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2])
def test_it_computes_about_what_float32_does(int8_unet, tiny_bundle, contract, batch):
    feeds = contract.dummy_feeds(seed=5, axis_length=batch)
    result, reference = (run(folder / "model.onnx", contract, feeds) for folder in (int8_unet, tiny_bundle / UNET))
    assert 1e-3 < rms(result, reference) < 0.12


def test_a_convolution_right_behind_another_one_is_quantised(unet_copy, contract, states, tiny_bundle):
    """A shortcut reads what a downsampler wrote."""
    feeds = contract.dummy_feeds(seed=5)
    reference = run(unet_copy, contract, feeds)
    assert quantize(unet_copy, contract, Bundle(tiny_bundle).schedule, states, kept=("conv_out",)) == ("conv_out",)
    assert rms(run(unet_copy, contract, feeds), reference) < 0.2


def test_onnx_runtime_makes_integer_operators_of_it(int8_unet, tmp_path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(int8_unet / "model.onnx", options, providers=["CPUExecutionProvider"])
    found = Counter(
        node.op_type for node in onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph.node
    )
    layers = Counter(node.op_type for node in graph_of(int8_unet).node)
    dequantised = sum(name.endswith(".weight_quantized") for name in names_of(int8_unet)) - layers["MatMulInteger"]
    assert found["QLinearConv"] == dequantised
    assert found["MatMulIntegerToFloat"] + found["DynamicQuantizeMatMul"] == layers["MatMulInteger"]


def names_of(folder):
    return [tensor.name for tensor in graph_of(folder).initializer]


# --- tuned weights --------------------------------------------------------------------------------------------------


def test_tuned_weights_stay_as_they_are(int8_unet, tiny_bundle):
    assert (int8_unet / TUNED_FILE).read_bytes() == (tiny_bundle / UNET / TUNED_FILE).read_bytes()
    inputs = {value.name: value.type.tensor_type.elem_type for value in graph_of(int8_unet).input}
    stored = {tensor.name: tensor for tensor in graph_of(int8_unet).initializer}
    for tensor in Bundle(tiny_bundle).manifest.graphs[UNET].tuned:
        assert inputs[tensor.name] == onnx.TensorProto.FLOAT
        place = {entry.key: entry.value for entry in stored[tensor.name].external_data}
        assert (place["location"], int(place["offset"]), int(place["length"])) == (
            TUNED_FILE,
            tensor.offset,
            tensor.length,
        )


def test_another_clips_weights_are_swapped_in_bit_for_bit(int8_unet, tiny_bundle, other_run, contract, tmp_path):
    other = Bundle(export_clip(other_run, tmp_path / "other", bundle=shutil.copytree(tiny_bundle, tmp_path / "first")))
    file = shutil.copytree(int8_unet, tmp_path / "file")
    shutil.copy(other.path(f"{UNET}/{TUNED_FILE}"), file)
    feeds = contract.dummy_feeds(seed=5)
    expected = run(file / "model.onnx", contract, feeds)
    graph = contract.graph(int8_unet / "model.onnx", tuned_specs(tiny_bundle))
    with open_engine(graph, engine="onnxruntime-cpu") as engine:
        before, swapped, back = (engine.run(feeds, w)["out_sample"] for w in (None, other.weights(), None))
    np.testing.assert_array_equal(swapped, expected)
    np.testing.assert_array_equal(back, before)
    assert not np.array_equal(swapped, before)


# --- calibration ----------------------------------------------------------------------------------------------------


def test_ranges_hold_zero_and_are_those_of_convolutions(unet_copy, contract, states, tiny_bundle):
    ranges = find_ranges(unet_copy, contract, Bundle(tiny_bundle).schedule, states)
    convolutions = [node for node in graph_of(unet_copy.parent).node if node.op_type == "Conv"]
    assert {node.input[0] for node in convolutions} <= ranges.keys()
    assert all(low <= 0 <= high and low < high for low, high in ranges.values())
    assert sorted(path.name for path in unet_copy.parent.iterdir()) == sorted(FILES)


def test_a_callback_sees_the_steps_and_cancels(unet_copy, contract, states, tiny_bundle):
    schedule, seen = Bundle(tiny_bundle).schedule, []
    before = {path.name: path.read_bytes() for path in unet_copy.parent.iterdir()}

    def callback(step):
        seen.append((step.stage, step.step, step.total))
        return len(seen) < 3

    with pytest.raises(CancelledError, match=f"calibration was cancelled after step 3 of {STEPS}"):
        quantize(unet_copy, contract, schedule, states, callback=callback)
    assert seen == [("calibration", step, STEPS) for step in (1, 2, 3)]
    assert {path.name: path.read_bytes() for path in unet_copy.parent.iterdir()} == before
