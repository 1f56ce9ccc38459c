"""The reference engine: what it does by itself, and in the pipeline in place of ONNX Runtime."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import tav_sdk
from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import GRAPHS, UNET
from tav_sdk.diffusion.sampling import ddim_sample
from tav_sdk.engines import TensorSpec
from tav_sdk.errors import EngineError, InputError, NonFiniteOutputError
from tav_sdk.export.graphs import TextEncoderGraph, VaeDecoderGraph, VaeEncoderGraph
from tav_sdk.pipeline.pipeline import Pipeline
from tav_sdk.training import PretrainedBase, TorchEngine, inflate, load_run, trainable_parameters
from tav_sdk.training.checkpoint import load_tuned_weights

X, Y = TensorSpec("x", "float32", ("batch", 3)), TensorSpec("y", "float32", ("batch", 2))


def ones(batch: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.ones((batch, 3), np.float32)}


# --- the engine by itself -----------------------------------------------------------------------------------------


def test_it_computes_what_the_module_does():
    module = nn.Linear(3, 2)
    with TorchEngine(module, "line", [X], [Y]) as engine:
        result = engine.run(ones(4))
    assert engine.backend == "torch-cpu"
    np.testing.assert_array_equal(result["y"], module(torch.ones(4, 3)).detach().numpy())


def test_inputs_and_outputs_are_in_the_order_of_their_specs():
    class Swap(nn.Module):
        def forward(self, a, b):
            return b, a

    scalar, vector = TensorSpec("timestep", "int64", ()), TensorSpec("v", "float32", (2,))
    feeds = {"v": np.array([1, 2], np.float32), "timestep": np.array(7)}
    outputs = [TensorSpec("v2", "float32", (2,)), TensorSpec("t2", "int64", ())]
    result = TorchEngine(Swap(), "swap", [scalar, vector], outputs).run(feeds)
    assert list(result) == ["v2", "t2"]
    assert result["t2"].shape == ()
    np.testing.assert_array_equal(result["v2"], feeds["v"])


def test_a_module_that_works_in_place_leaves_the_feeds_alone():
    feeds = {"x": -ones()["x"]}
    feeds["x"].flags.writeable = False
    result = TorchEngine(nn.ReLU(inplace=True), "relu", [X], [TensorSpec("y", "float32", ("batch", 3))]).run(feeds)
    assert (feeds["x"] == -1).all()
    assert (result["y"] == 0).all()


def test_it_runs_in_evaluation_mode_and_restores_the_mode_of_each_part():
    module = nn.Sequential(nn.Dropout(0.9), nn.Linear(3, 2), nn.Dropout(0.9))
    module[2].eval()
    engine = TorchEngine(module, "line", [X], [Y])
    np.testing.assert_array_equal(engine.run(ones())["y"], engine.run(ones())["y"])
    assert [part.training for part in module] == [True, True, False]
    assert module.training


def test_modes_are_restored_after_a_failure():
    module = nn.Sequential(nn.Linear(5, 2))
    with pytest.raises(EngineError, match=r"PyTorch failed in the line graph: .*shapes cannot be multiplied"):
        TorchEngine(module, "line", [X], [Y]).run(ones())
    assert module.training


def test_half_weights_run_under_autocast_and_give_the_dtype_of_the_spec():
    module = nn.Linear(3, 2).to(torch.bfloat16)
    result = TorchEngine(module, "line", [X], [Y], autocast=torch.bfloat16).run(ones())
    assert result["y"].dtype == np.float32
    np.testing.assert_allclose(result["y"], module.float()(torch.ones(1, 3)).detach().numpy(), atol=0.02)


def test_feeds_are_checked_as_everywhere():
    with pytest.raises(InputError, match=r"line input 'x': expected float32\[batch, 3\], got float64\[1, 3\]"):
        TorchEngine(nn.Linear(3, 2), "line", [X], [Y]).run({"x": np.ones((1, 3))})


def test_nan_is_an_error():
    module = nn.Linear(3, 2)
    nn.init.constant_(module.bias, float("nan"))
    with pytest.raises(
        NonFiniteOutputError, match=r"the line engine \(torch-cpu, fp32\) returned NaN or infinity in 'y'"
    ):
        TorchEngine(module, "line", [X], [Y]).run(ones())


def test_another_number_of_outputs_is_an_error():
    with pytest.raises(EngineError, match="the line module returned 1 tensors, expected y, z"):
        TorchEngine(nn.Linear(3, 2), "line", [X], [Y, TensorSpec("z", "float32", (1,))]).run(ones())


def test_a_closed_engine_does_not_run():
    engine = TorchEngine(nn.Linear(3, 2), "line", [X], [Y])
    engine.close()
    with pytest.raises(EngineError, match="the line engine is closed"):
        engine.run(ones())


# --- in the pipeline ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tiny_bundle) -> Bundle:
    return Bundle(tiny_bundle)


@pytest.fixture(scope="module")
def modules(tiny_run) -> dict[str, nn.Module]:
    """What the bundle's graphs were traced from."""
    run = load_run(tiny_run)
    base = PretrainedBase(run.config.base)
    unet = inflate(base.load_unet(), run.config.inflation, run.config.num_frames)
    load_tuned_weights(unet, run.tuned_path)
    vae = base.load_vae()
    parts = (TextEncoderGraph(base.load_text_encoder()), VaeEncoderGraph(vae), VaeDecoderGraph(vae), unet)
    return dict(zip(GRAPHS, parts, strict=True))


def engine_for(graph: str, module: nn.Module, bundle: Bundle) -> TorchEngine:
    entry = bundle.manifest.graphs[graph]
    return TorchEngine(module, graph, [t.spec for t in entry.inputs], [t.spec for t in entry.outputs])


@pytest.fixture
def engines(modules, bundle) -> dict[str, TorchEngine]:
    return {graph: engine_for(graph, module, bundle) for graph, module in modules.items()}


@pytest.fixture
def clip(bundle, clip_path):
    manifest = bundle.manifest
    return tav_sdk.read_video(clip_path, num_frames=manifest.num_frames, size=(manifest.height, manifest.width))


def test_pytorch_and_onnx_runtime_give_the_same_edit(bundle, engines, clip):
    latents, edits, videos = [], [], []
    for pipeline in (Pipeline(bundle, engines=engines), Pipeline(bundle, engine="onnxruntime-cpu")):
        with pipeline:
            inversion = pipeline.invert(clip, prompt="a red square", num_inversion_steps=4)
            states, negative = pipeline.encode_prompt("a blue circle"), pipeline.encode_prompt("")
            latents.append(inversion.latents)
            edits.append(
                ddim_sample(pipeline.unet, inversion.latents, states, negative, pipeline.schedule, 4, 7.5, None)
            )
            videos.append(pipeline.edit("a blue circle", inversion, num_inference_steps=4, guidance_scale=7.5))
    np.testing.assert_allclose(*latents, atol=1e-3)
    np.testing.assert_allclose(*edits, atol=1e-3)
    difference = np.abs(videos[0].frames.astype(int) - videos[1].frames)
    assert difference.max() <= 1  # a level, where the two are on both sides of a rounding
    assert difference.mean() / 255 < 1e-3


def test_given_engines_are_named_and_stay_open(bundle, engines):
    with Pipeline(bundle, engines=engines) as pipeline:
        first = pipeline.encode_prompt("a man")
    assert pipeline.engine == "torch-cpu"
    np.testing.assert_array_equal(pipeline.encode_prompt("a man"), first)


def test_all_engines_given_need_no_other(bundle, engines, monkeypatch):
    def refuse(engine: str, graphs: object) -> tuple[str, str]:
        raise EngineError(engine)

    monkeypatch.setattr("tav_sdk.pipeline.engines.choose_engine", refuse)
    Pipeline(bundle, engines=engines)
    with pytest.raises(EngineError):
        Pipeline(bundle, engines={UNET: engines[UNET]})


def test_a_unet_can_be_previewed_between_two_steps_of_tuning(bundle, modules, clip):
    unet = copy.deepcopy(modules[UNET]).train()
    with Pipeline(bundle, engines={UNET: engine_for(UNET, unet, bundle)}) as pipeline:
        sample, states = pipeline.encode(clip), pipeline.encode_prompt("a man")
        one = pipeline.unet(sample, np.array(10), states)
        tuned = list(trainable_parameters(unet).values())
        unet(torch.from_numpy(sample), torch.tensor(10), torch.from_numpy(states)).square().mean().backward()
        torch.optim.SGD(tuned, lr=0.1).step()
        two = pipeline.unet(sample, np.array(10), states)
    assert unet.training
    assert (one != two).any()


def test_an_engine_of_no_graph_is_refused(bundle, engines):
    with pytest.raises(
        InputError, match=r"the bundle has no 'u_net' graph; its graphs are text_encoder, .*, unet, windowed_unet$"
    ):
        Pipeline(bundle, engines={"u_net": engines[UNET]})


def test_an_engine_of_another_shape_is_refused(bundle, modules):
    entry = bundle.manifest.graphs[UNET]
    outputs = [TensorSpec("out_sample", "float32", ("batch", 4, 2, 8, 8))]
    engine = TorchEngine(modules[UNET], UNET, [tensor.spec for tensor in entry.inputs], outputs)
    with pytest.raises(InputError, match=r"expected the outputs out_sample float32\[batch, 4, 4, 8, 8\], got out_sam"):
        Pipeline(bundle, engines={UNET: engine})
