"""The digest under which the tests' exports share graphs: equal for equal modules, and for no others."""

from __future__ import annotations

import shutil

import torch

from tav_sdk.export.graphs import VaeEncoderGraph
from tav_sdk.export.precision import to_half
from tav_sdk.training import InflationOptions, PretrainedBase, inflate
from tests.traced_graphs import digest_of


def unet(base, **options):
    return inflate(PretrainedBase(base).load_unet(), InflationOptions(**options), 4, seed=0).eval()


def test_equal_modules_share_a_digest_wherever_they_come_from(tiny_base, tmp_path):
    copy = shutil.copytree(tiny_base, tmp_path / "copy")
    first, second = digest_of(unet(tiny_base)), digest_of(unet(copy))
    assert first is not None
    assert first == second


def test_other_options_weights_hooks_and_contracts_do_not(tiny_base):
    digests = [digest_of(unet(tiny_base)), digest_of(unet(tiny_base), "contract")]
    digests += [
        digest_of(unet(tiny_base, **options)) for options in ({"temporal_mask": "none"}, {"attention": "first"})
    ]
    moved = unet(tiny_base)
    with torch.no_grad():
        next(moved.parameters()).view(-1)[0] += 1e-3
    digests.append(digest_of(moved))
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
