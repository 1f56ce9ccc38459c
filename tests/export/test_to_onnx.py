import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tav_sdk.bundle.layout import TUNED_FILE, WEIGHTS_FILE
from tav_sdk.engines import TensorSpec
from tav_sdk.errors import ParityError
from tav_sdk.export.graphs import GraphContract
from tav_sdk.export.parity import check_parity
from tav_sdk.export.to_onnx import export_graph

CONTRACT = GraphContract(
    name="two_layers",
    inputs=(TensorSpec("x", "float32", ("batch", 6)), TensorSpec("step", "int64", ())),
    outputs=(TensorSpec("y", "float32", ("batch", 5)),),
    tolerance=1e-5,
    high={"step": 100},
)


class TwoLayers(nn.Module):
    """Two linear layers with equal biases, which an optimiser would merge, and a constant of no input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 5)
        nn.init.zeros_(self.first.bias)
        nn.init.zeros_(self.second.bias)

    def forward(self, x, step):
        table = torch.tensor([1.0, 2.0, 3.0]).sum()
        return self.second(torch.relu(self.first(x))) * table + step


@pytest.fixture
def module() -> TwoLayers:
    torch.manual_seed(0)
    return TwoLayers().eval()


def external(path):
    model = onnx.load(path, load_external_data=False)
    return {
        tensor.name: next(entry.value for entry in tensor.external_data if entry.key == "location")
        for tensor in model.graph.initializer
        if tensor.external_data
    }


def test_every_weight_keeps_its_name_and_goes_to_its_file(module, tmp_path):
    path = export_graph(module, CONTRACT, tmp_path, tuned={"second.weight", "second.bias"}).path
    assert external(path) == {
        "first.weight": WEIGHTS_FILE,
        "first.bias": WEIGHTS_FILE,
        "second.weight": TUNED_FILE,
        "second.bias": TUNED_FILE,
    }


def test_the_tuned_file_holds_the_tuned_weights_alone(module, tmp_path):
    (tensor,) = export_graph(module, CONTRACT, tmp_path, tuned={"second.weight"}).tuned
    assert (tensor.name, tensor.dtype, tensor.shape, tensor.length) == ("second.weight", "float32", (5, 5), 100)
    stored = np.fromfile(tmp_path / TUNED_FILE, np.float32, count=25, offset=tensor.offset).reshape(5, 5)
    np.testing.assert_array_equal(stored, module.second.weight.detach().numpy())


def test_what_depends_on_no_input_is_computed_at_export(module, tmp_path):
    model = onnx.load(export_graph(module, CONTRACT, tmp_path).path, load_external_data=False)
    assert "ReduceSum" not in {node.op_type for node in model.graph.node}


def test_the_graph_holds_no_path_of_the_machine(module, tmp_path):
    assert b".py" not in export_graph(module, CONTRACT, tmp_path).path.read_bytes()


@pytest.mark.parametrize("batch", [1, 3])
def test_the_graph_computes_what_the_module_does(module, tmp_path, batch):
    path = export_graph(module, CONTRACT, tmp_path).path
    assert check_parity(module, CONTRACT, path, axis_length=batch) < 1e-6


def test_a_graph_of_another_model_is_refused(module, tmp_path):
    path = export_graph(module, CONTRACT, tmp_path).path
    with torch.no_grad():
        module.second.bias += 0.1
    with pytest.raises(ParityError, match=r"the two_layers graph differs from the model in 'y': .*tolerance 1e-05"):
        check_parity(module, CONTRACT, path)


def test_dummy_inputs_fit_the_contract():
    feeds = CONTRACT.dummy_feeds(axis_length=3)
    assert {name: (array.shape, array.dtype.name) for name, array in feeds.items()} == {
        "x": ((3, 6), "float32"),
        "step": ((), "int64"),
    }
    assert 1 <= feeds["step"] < 100
