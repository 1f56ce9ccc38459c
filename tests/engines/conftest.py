import numpy as np
import pytest

from tav_sdk.engines import TensorSpec, Weights

WIDTH = 64
TUNED = ("out.bias", "out.weight", "q.weight")


@pytest.fixture(scope="session")
def rtx(tensorrt_rtx):
    """TensorRT for RTX, loaded; it needs no GPU for that."""
    from tav_sdk.engines.trt.api import load

    return load("tensorrt-rtx")


@pytest.fixture(scope="session")
def attention(tmp_path_factory):
    """A real export of attention between two tuned linear layers, and two clips' weights.

    The first clip's are those that were exported with it.
    """
    import torch
    from torch import nn

    from tav_sdk.export.graphs import GraphContract
    from tav_sdk.export.to_onnx import export_graph

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
            self.out = nn.Linear(WIDTH, WIDTH)

        def forward(self, x, step):
            q, k = (layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.q, self.k))
            attended = torch.nn.functional.scaled_dot_product_attention(q, k, k)
            return self.out(attended.transpose(1, 2).flatten(-2)) + step

    torch.manual_seed(0)
    module = Attention().eval()
    contract = GraphContract(
        name="attention",
        inputs=(TensorSpec("x", "float32", ("batch", 5, WIDTH)), TensorSpec("step", "int64", ())),
        outputs=(TensorSpec("y", "float32", ("batch", 5, WIDTH)),),
        tolerance=1e-4,
        high={"step": 10},
        axes={"batch": (1, 2)},
    )
    path = export_graph(module, contract, tmp_path_factory.mktemp("attention"), tuned=TUNED).path
    values = {name: value.numpy() for name, value in module.state_dict().items()}
    specs = tuple(TensorSpec(name, "float32", values[name].shape) for name in TUNED)
    rng = np.random.default_rng(0)
    other = {name: rng.standard_normal(values[name].shape, np.float32) / 8 for name in TUNED}
    clips = [Weights("a", {name: values[name] for name in TUNED}), Weights("b", other)]
    return contract.graph(path, specs), clips, values["k.weight"]
