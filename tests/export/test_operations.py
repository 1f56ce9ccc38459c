"""What a graph has to compute, and what this machine can."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import UNET
from tav_sdk.errors import InputError
from tav_sdk.export.bench.peaks import SIZES, bandwidth, matmul_peak
from tav_sdk.export.bench.peers import EXPLICIT, PEERS, SDPA, explicit_attention, peer_engines
from tav_sdk.export.bench.work import count_work
from tav_sdk.training.run_folder import load_run


@pytest.fixture(scope="module")
def feeds(tiny_bundle):
    rng = np.random.default_rng(0)
    specs = Bundle(tiny_bundle).graph(UNET).inputs
    shapes = {spec.name: tuple(2 if isinstance(axis, str) else axis for axis in spec.shape) for spec in specs}
    made = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items() if shape}
    return {**made, "timestep": np.asarray(500, np.int64)}


@pytest.fixture(scope="module")
def sdpa(tiny_bundle, tiny_run):
    return peer_engines(SDPA, load_run(tiny_run), Bundle(tiny_bundle))


def test_operations_are_those_that_pytorch_counts(tiny_bundle, tiny_run, feeds):
    work = count_work(Bundle(tiny_bundle).graph(UNET).path, {"batch": 2})
    # With explicit products: PyTorch does not count its fused attention on a CPU.
    unet = peer_engines(EXPLICIT, load_run(tiny_run), Bundle(tiny_bundle))[UNET]
    with FlopCounterMode(display=False) as counter:
        unet.run(feeds)
    assert sum(work.by_operator.values()) == work.flops
    assert {"Conv", "MatMul", "Attention"} <= work.by_operator.keys()
    assert work.flops == pytest.approx(counter.get_total_flops(), rel=0.001)


def test_operations_grow_with_the_batch_and_weights_do_not(tiny_bundle):
    path = Bundle(tiny_bundle).graph(UNET).path
    one, two = (count_work(path, {"batch": batch}) for batch in (1, 2))
    assert two.flops == pytest.approx(2 * one.flops, rel=0.01)
    assert one.bytes < two.bytes < 2 * one.bytes


def test_an_axis_without_a_length_is_named(tiny_bundle):
    with pytest.raises(ValueError, match="depends on more axes than"):
        count_work(Bundle(tiny_bundle).graph(UNET).path, {})


def test_the_machine_multiplies_and_copies(monkeypatch):
    monkeypatch.setattr("tav_sdk.export.bench.peaks.SIZES", (64,))
    monkeypatch.setattr("tav_sdk.export.bench.peaks._COPIED", 2**20)
    assert SIZES[0] == 1024
    peaks = matmul_peak(repeats=1)
    assert peaks.keys() == {"fp32", "bf16"}
    assert all(1e6 < peak < 1e15 for peak in peaks.values())
    assert 1e6 < bandwidth(repeats=1) < 1e13


def test_explicit_products_are_attention():
    query, key, value = torch.randn(3, 2, 4, 5, 8).unbind(0)
    mask = torch.ones(5, 5, dtype=torch.bool).tril(1)
    cases: tuple[dict[str, Any], ...] = ({}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": mask})
    for how in cases:
        expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, **how)
        torch.testing.assert_close(explicit_attention(query, key, value, **how), expected)


def test_peers_give_what_the_bundle_gives(tiny_bundle, tiny_run, sdpa, feeds):
    explicit = peer_engines(EXPLICIT, load_run(tiny_run), Bundle(tiny_bundle))[UNET].run(feeds)["out_sample"]
    np.testing.assert_allclose(explicit, sdpa[UNET].run(feeds)["out_sample"], atol=1e-4)
    np.testing.assert_allclose(explicit, _onnxruntime(tiny_bundle, feeds), atol=1e-4)


def _onnxruntime(bundle, feeds):
    from tav_sdk.engines import open_engine

    opened = Bundle(bundle)
    with open_engine(opened.graph(UNET), engine="onnxruntime-cpu") as engine:
        return engine.run(feeds, opened.weights())["out_sample"]


def test_an_unknown_peer_lists_them(tiny_bundle, tiny_run):
    with pytest.raises(InputError, match=f"there is no peer 'jax'; choose one of {', '.join(PEERS)}"):
        peer_engines("jax", load_run(tiny_run), Bundle(tiny_bundle))


def test_a_peer_in_a_precision_that_pytorch_lacks_is_refused(tiny_bundle, tiny_run):
    with pytest.raises(InputError, match="a peer cannot compute in 'int8'; choose one of fp32, fp16, bf16"):
        peer_engines(SDPA, load_run(tiny_run), Bundle(tiny_bundle), precision="int8")


def test_a_peer_in_half_the_precision_gives_about_the_same(tiny_bundle, tiny_run, sdpa, feeds):
    half = peer_engines(SDPA, load_run(tiny_run), Bundle(tiny_bundle), precision="bf16")[UNET].run(feeds)["out_sample"]
    full = sdpa[UNET].run(feeds)["out_sample"]
    assert 1e-4 < abs(half - full).max() / abs(full).max() < 0.1
