"""The digest under which the tests' exports share graphs: equal for equal modules, whatever their weights."""

from __future__ import annotations

import shutil

import torch

from tav_sdk.export.graphs import VaeEncoderGraph, vae_encoder_contract
from tav_sdk.export.precision import to_half
from tav_sdk.export.to_onnx import export_graph
from tav_sdk.training import InflationOptions, PretrainedBase, inflate
from tests.traced_graphs import digest_of, traced_once


def unet(base, **options):
    return inflate(PretrainedBase(base).load_unet(), InflationOptions(**options), 4, seed=0).eval()


def test_equal_modules_share_a_digest_wherever_they_come_from(tiny_base, tmp_path):
    copy = shutil.copytree(tiny_base, tmp_path / "copy")
    first, second = digest_of(unet(tiny_base)), digest_of(unet(copy))
    assert first is not None
    assert first == second


def test_values_of_parameters_do_not_count(tiny_base):
    assert digest_of(unet(tiny_base)) == digest_of(moved(unet(tiny_base)))


def test_a_shared_graph_is_the_one_that_would_have_been_traced(tiny_base, made_once, tmp_path):
    base = PretrainedBase(tiny_base)
    contract = vae_encoder_contract(channels=4, num_frames=4, height=64, width=64, factor=8)
    shared, anew = (tmp_path / name for name in ("shared", "anew"))
    for folder in (shared, anew):
        folder.mkdir()
    first, second = VaeEncoderGraph(base.load_vae()), moved(VaeEncoderGraph(base.load_vae()))
    once = traced_once(made_once)
    (tmp_path / "first").mkdir()
    once(first, contract, tmp_path / "first")
    assert once(second, contract, shared).tuned == export_graph(second, contract, anew).tuned
    names = sorted(path.name for path in anew.iterdir())
    assert names == sorted(path.name for path in shared.iterdir())
    assert all((shared / name).read_bytes() == (anew / name).read_bytes() for name in names)
    assert (shared / names[-1]).read_bytes() != (tmp_path / "first" / names[-1]).read_bytes()


def moved(module):
    with torch.no_grad():
        next(module.parameters()).view(-1)[0] += 1e-3
    return module


def test_other_options_dtypes_hooks_and_contracts_do_not(tiny_base):
    digests = [digest_of(unet(tiny_base)), digest_of(unet(tiny_base), "contract")]
    digests += [
        digest_of(unet(tiny_base, **options)) for options in ({"temporal_mask": "none"}, {"attention": "first"})
    ]
    for kept in ((), ("attention",)):
        half = unet(tiny_base)
        to_half(half, "bf16", kept)
        digests.append(digest_of(half))
    assert None not in digests
    assert len(set(digests)) == len(digests)


def test_what_has_no_pickle_has_no_digest(tiny_base):
    vae = VaeEncoderGraph(PretrainedBase(tiny_base).load_vae())
    assert digest_of(vae) is not None
    vae.register_forward_hook(lambda module, args, output: None)
    assert digest_of(vae) is None
