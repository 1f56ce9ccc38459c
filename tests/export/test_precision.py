"""Half precision, decided at export: what is converted, what stays float32, and what is refused."""

import importlib

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import GRAPHS, TUNED_FILE
from tav_sdk.bundle.precision import TOLERANCES, check_precision
from tav_sdk.engines import TensorSpec, open_engine
from tav_sdk.errors import ConfigError, ParityError
from tav_sdk.export import ExportOptions, export_bundle, export_clip
from tav_sdk.export.graphs import GraphContract
from tav_sdk.export.parity import check_parity
from tav_sdk.export.precision import graph_precision, kept_islands, to_half
from tav_sdk.export.reference import evaluate
from tav_sdk.export.to_onnx import export_graph

FLOAT, FLOAT16, BFLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16


@pytest.fixture(scope="session")
def fp16_bundle(made_once, tiny_run, traced_once):
    """``tiny_run`` exported in fp16; do not write into it."""
    return made_once("fp16_bundle", lambda path: export_bundle(tiny_run, path, ExportOptions(precision="fp16")))


def contract(precision):
    spec = TensorSpec("x", "float32", ("batch", 4))
    made = GraphContract(name="small", inputs=(spec,), outputs=(TensorSpec("y", "float32", ("batch", 4)),))
    return made.computing_in(precision)


def exported(module, precision, folder, x):
    """A module's float32 reference for ``x``, and its graph in a precision."""
    here = contract(precision)
    reference = evaluate(module, here, {"x": x})
    if precision != "fp32":
        to_half(module, precision)
    return reference, here, export_graph(module, here, folder).path


class Scaled(nn.Module):
    """``x`` times two weights, which is large in between."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = Weighted(first), Weighted(second)

    def forward(self, x):
        return self.second(self.first(x))


class Weighted(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.full((4,), float(weight)))

    def forward(self, x):
        return x * self.weight


class Shifted(nn.Module):
    """``x`` plus a weight, minus it again."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return (x + self.weight) - self.weight


# --- a bundle -------------------------------------------------------------------------------------------------------


def test_the_manifest_says_of_each_graph_what_it_computes_in(fp16_bundle):
    manifest = Bundle(fp16_bundle).manifest
    assert manifest.precision == "fp16"
    assert {name: graph.precision for name, graph in manifest.graphs.items()} == {
        "text_encoder": "fp16",
        "vae_encoder": "fp32",
        "vae_decoder": "fp32",
        "unet": "fp16",
        "windowed_unet": "fp16",
    }
    for name in ("unet", "windowed_unet"):
        assert manifest.graphs[name].kept == ("sinusoids", "conv_in", "conv_out")
    for graph in manifest.graphs.values():
        assert graph.parity_max_abs is not None
        assert 0 < graph.parity_max_abs < TOLERANCES[graph.precision]


def test_weights_are_stored_in_half_under_the_names_of_float32(fp16_bundle, tiny_bundle):
    half, full = (
        onnx.load(path / "unet/model.onnx", load_external_data=False).graph for path in (fp16_bundle, tiny_bundle)
    )
    stored = {tensor.name: tensor.data_type for tensor in half.initializer if tensor.external_data}
    assert stored.keys() == {tensor.name for tensor in full.initializer if tensor.external_data}
    kept = {name for name, dtype in stored.items() if dtype == FLOAT}
    assert kept == {
        f"{part}.{kind}" for part in ("conv_in", "conv_norm_out", "conv_out") for kind in ("weight", "bias")
    }
    assert {stored[name] for name in stored.keys() - kept} == {FLOAT16}


def test_tuned_weights_are_half_and_inputs_of_the_graph(fp16_bundle, tiny_bundle):
    entries = [Bundle(path).manifest.graphs["unet"].tuned for path in (fp16_bundle, tiny_bundle)]
    assert [tensor.name for tensor in entries[0]] == [tensor.name for tensor in entries[1]]
    assert {tensor.dtype for tensor in entries[0]} == {"float16"}
    inputs = onnx.load(fp16_bundle / "unet/model.onnx", load_external_data=False).graph.input
    assert {value.name for value in inputs} >= {tensor.name for tensor in entries[0]}
    assert (fp16_bundle / "unet" / TUNED_FILE).stat().st_size < 0.6 * (tiny_bundle / "unet" / TUNED_FILE).stat().st_size


def test_tuning_is_scaled_in_half(fp16_bundle, tiny_bundle):
    bundles = [Bundle(path) for path in (fp16_bundle, tiny_bundle)]
    assert {tensor.dtype for tensor in bundles[0].manifest.graphs["unet"].untuned} == {"float16"}
    half, full = (bundle.weights(0.5) for bundle in bundles)
    assert half is not None
    assert full is not None
    for name, tensor in half.tensors.items():
        assert tensor.dtype == np.float16
        np.testing.assert_allclose(tensor, full.tensors[name], rtol=2e-3, atol=1e-6)


def test_inputs_and_outputs_are_those_of_float32(fp16_bundle, tiny_bundle):
    for name in GRAPHS:
        half, full = Bundle(fp16_bundle).manifest.graphs[name], Bundle(tiny_bundle).manifest.graphs[name]
        assert (half.inputs, half.outputs) == (full.inputs, full.outputs)


def test_another_clip_is_exported_onto_it(fp16_bundle, other_run, tmp_path):
    from safetensors.numpy import load_file

    weights = Bundle(export_clip(other_run, tmp_path / "out", bundle=fp16_bundle)).weights()
    assert weights is not None
    tuned = load_file(other_run / "tuned.safetensors")
    for name, tensor in weights.tensors.items():
        np.testing.assert_array_equal(tensor, tuned[name].astype(np.float16))


def test_its_key_leaves_references_out(tiny_bundle, bundle_copy, edit_manifest):
    edit_manifest(lambda manifest: manifest["files"]["reference/unet.npz"].update(sha256="0" * 64))
    assert Bundle(bundle_copy, verify=False).graph("unet").key == Bundle(tiny_bundle).graph("unet").key


def test_tensorrt_parses_it(tensorrt_rtx, fp16_bundle):
    trt = importlib.import_module("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    for name in GRAPHS:
        network = trt.Builder(logger).create_network(0)
        parser = trt.OnnxParser(network, logger)
        assert parser.parse_from_file(str(fp16_bundle / name / "model.onnx")), parser.get_error(0).desc()


# --- what is converted ----------------------------------------------------------------------------------------------


def test_the_vae_stays_in_float32_whatever_the_precision():
    assert {graph_precision(name, "fp16") for name in ("vae_encoder", "vae_decoder")} == {"fp32"}
    assert {graph_precision(name, "bf16") for name in ("vae_encoder", "vae_decoder", "text_encoder")} == {"fp32"}


def test_a_base_that_says_so_keeps_its_attention():
    assert "attention" not in kept_islands("unet", "fp16")
    assert "attention" in kept_islands("unet", "fp16", upcast_attention=True)
    assert "attention" not in kept_islands("unet", "bf16", upcast_attention=True)
    assert kept_islands("unet", "fp32", upcast_attention=True) == ()


def small_unet():
    from diffusers import UNet2DConditionModel

    from tav_sdk.training import inflate

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("UpBlock2D",),  # one place with attention: tracing takes its time
        mid_block_type=None,
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=2,
    )
    return inflate(unet, num_frames=3).eval()


def unet_contract(precision):
    from tav_sdk.export import graphs

    made = graphs.unet_contract(
        channels=4, num_frames=3, height=8, width=8, num_tokens=7, text_width=12, num_timesteps=1000
    )
    return made.computing_in(precision)


@pytest.mark.parametrize(("kept", "dtype"), [((), BFLOAT16), (("attention",), FLOAT)])
def test_attention_computes_in_what_is_asked_for(kept, dtype, tmp_path):
    model, here = small_unet(), unet_contract("bf16")
    reference = evaluate(model, here, here.dummy_feeds(seed=1, axis_length=1))
    names = list(model.state_dict())
    to_half(model, "bf16", kept)
    assert list(model.state_dict()) == names
    path = export_graph(model, here, tmp_path).path
    assert 1e-4 < check_parity(reference, here, path) < here.tolerance
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    attention = [node for node in graph.node if node.op_type == "Attention"]
    assert attention
    assert {types[node.output[0]] for node in attention} == {dtype}


@pytest.mark.parametrize("timestep", [1, 333, 999])
def test_a_timestep_that_half_precision_cannot_hold_makes_no_difference(timestep):
    model, here = small_unet(), unet_contract("bf16")
    feeds = here.dummy_feeds() | {"timestep": np.asarray(timestep)}
    seen = []
    model.get_submodule("time_embedding").register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    full = evaluate(model, here, feeds).outputs["out_sample"]
    to_half(model, "bf16", kept_islands("unet", "bf16"))
    half = evaluate(model, here, feeds).outputs["out_sample"]
    torch.testing.assert_close(seen[1].float(), seen[0], rtol=0, atol=1e-6)
    assert np.abs(half - full).max() < 0.05 * np.abs(full).max()


# --- parity ---------------------------------------------------------------------------------------------------------


def test_a_graph_that_overflows_in_float16_is_refused(tmp_path):
    reference, here, path = exported(Scaled(300, 1e-4), "fp16", tmp_path, np.full((1, 4), 300, np.float32))
    with open_engine(here.graph(path), engine="onnxruntime-cpu") as engine:  # which does not round in between
        assert np.isfinite(engine.run(reference.feeds)["y"]).all()
    text = r"the small graph in fp16 gives NaN or infinity in 'y'; nothing was written. Export with precision bf16"
    with pytest.raises(ParityError, match=text):
        check_parity(reference, here, path)


def test_the_same_graph_fits_into_bfloat16(tmp_path):
    reference, here, path = exported(Scaled(300, 1e-4), "bf16", tmp_path, np.full((1, 4), 300, np.float32))
    assert check_parity(reference, here, path) < here.tolerance


@pytest.mark.parametrize(("precision", "shift"), [("fp16", 2.0**-11), ("bf16", 2.0**-8)])
def test_parity_rounds_between_operators(precision, shift, tmp_path):
    """1 + shift lies between 1 and the next number."""
    x = np.array([[1, 1, 1, 1 + 2 * shift]], np.float32) * 0.5  # 0.5 + 1 is 1.5, exactly; the last is lost
    reference, here, path = exported(Shifted(), precision, tmp_path, x)
    assert check_parity(reference, here, path) == pytest.approx(shift / x.max(), rel=0.01)


def test_a_precision_that_is_too_coarse_is_refused(tmp_path):
    x = np.array([[1e-3, 2e-3, 3e-3, 4e-3]], np.float32)
    reference, here, path = exported(Shifted(), "bf16", tmp_path, x)
    text = r"the small graph in bf16 differs from the model in 'y': .* tolerance 5e-02; .* Export with precision fp32"
    with pytest.raises(ParityError, match=text):
        check_parity(reference, here, path)


def test_parity_leaves_nothing_beside_the_graph(tmp_path):
    reference, here, path = exported(Shifted(), "bf16", tmp_path, np.ones((1, 4), np.float32))
    before = sorted(tmp_path.iterdir())
    check_parity(reference, here, path)
    assert sorted(tmp_path.iterdir()) == before


def test_a_graph_of_mixed_types_is_refused(tmp_path):
    """ONNX Runtime's CPU provider would not load it in bfloat16, mixed or not."""
    reference, here, path = exported(Shifted(), "bf16", tmp_path, np.ones((1, 4), np.float32))
    model = onnx.load(path)
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == BFLOAT16:
                attribute.i = FLOAT16
    onnx.save(model, path)
    with pytest.raises(ParityError, match="the small graph in bf16 is not valid: "):
        check_parity(reference, here, path)


# --- bad input ------------------------------------------------------------------------------------------------------


def test_an_unknown_precision_lists_those_that_are_known():
    text = "there is no precision 'fp8'; choose one of fp32, fp16, bf16"
    with pytest.raises(ConfigError, match=text):
        check_precision("fp8")
    with pytest.raises(ConfigError, match=text):
        ExportOptions(precision="fp8")  # pyright: ignore[reportArgumentType]


def test_the_command_line_refuses_an_unknown_precision(tav, tiny_run, tmp_path):
    result = tav("export", tiny_run, "--out", tmp_path / "out", "--precision", "half")
    assert result.exit_code == 2
    assert "choose one of fp32, fp16, bf16" in result.stderr


def test_a_precision_beside_a_bundle_is_refused(tav, tiny_run, tiny_bundle, tmp_path):
    result = tav("export", tiny_run, "--out", tmp_path / "out", "--bundle", tiny_bundle, "--precision", "fp16")
    assert result.exit_code == 2
    assert "with --bundle, which decides the precision" in result.stderr
