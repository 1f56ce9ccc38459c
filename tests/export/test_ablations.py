"""Every way to inflate exports, and its graph computes what its model does."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from tav_sdk.export.graphs import unet_contract
from tav_sdk.export.parity import check_parity
from tav_sdk.export.to_onnx import export_graph
from tav_sdk.training import InflationOptions, inflate, trainable_parameters

FRAMES = 3


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "original"},
        {"attention": "spatial"},
        {"attention": "first", "temporal": False},
        {"attention": "causal"},
        {"attention": "full", "temporal_mask": "none"},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_an_ablation_exports(options, tmp_path):
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
    model = inflate(unet, InflationOptions(**options), FRAMES).eval()
    for parameter in trainable_parameters(model).values():
        torch.nn.init.normal_(parameter, std=0.3)
    contract = unet_contract(
        channels=4, num_frames=FRAMES, height=8, width=8, num_tokens=7, text_width=12, num_timesteps=1000
    )
    path = export_graph(model, contract, tmp_path, tuned=trainable_parameters(model)).path
    assert check_parity(model, contract, path, axis_length=1) < 1e-5
    assert check_parity(model, contract, path, axis_length=2) < 1e-5
