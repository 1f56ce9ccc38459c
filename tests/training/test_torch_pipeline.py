"""The SDK's pipeline on a base and an inflated U-Net that were never exported."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("diffusers")

from tav_sdk.bundle.layout import GRAPHS
from tav_sdk.errors import InputError
from tav_sdk.training import InflationOptions, PretrainedBase, inflate, trainable_parameters
from tav_sdk.training.torch_pipeline import torch_pipeline, unet_engine


@pytest.fixture
def base(tiny_base):
    return PretrainedBase(str(tiny_base))


@pytest.fixture
def unet(base):
    return inflate(base.load_unet(), InflationOptions(), 4)


def pipeline_of(base, unet):
    return torch_pipeline(base, unet, prompt="a man", height=64, width=64, fps=8.0)


def test_it_is_what_the_base_says(base, unet):
    with pipeline_of(base, unet) as pipeline:
        assert pipeline.engine == "torch-cpu"
        assert tuple(pipeline.manifest.graphs) == GRAPHS
        assert pipeline.manifest.latents_shape == (1, 4, 4, 64 // base.vae_scale_factor, 64 // base.vae_scale_factor)
        assert pipeline.manifest.scaling_factor == base.scaling_factor
        assert pipeline.manifest.num_inference_steps == base.recommended.num_inference_steps
        assert pipeline.schedule == base.schedule
        folder = pipeline.bundle.folder
    assert not folder.exists()


def test_weights_that_change_later_count(base, unet):
    with pipeline_of(base, unet) as pipeline:
        one = pipeline.generate("a cat", seed=1, num_inference_steps=2).frames
        again = pipeline.generate("a cat", seed=1, num_inference_steps=2).frames
        for parameter in trainable_parameters(unet).values():
            parameter.data += 0.5
        two = pipeline.generate("a cat", seed=1, num_inference_steps=2).frames
    assert one.shape == (4, 64, 64, 3)
    np.testing.assert_array_equal(one, again)
    assert (one != two).any()


def test_its_unet_alone_takes_what_an_exported_one_takes(base, unet):
    engine = unet_engine(base, unet, height=64, width=64)
    assert [spec.name for spec in engine.inputs] == ["sample", "timestep", "encoder_hidden_states"]
    with pytest.raises(InputError, match="unet input 'sample': expected float32"):
        engine.run({"sample": np.zeros((1, 4, 4, 2, 2), np.float32)})
