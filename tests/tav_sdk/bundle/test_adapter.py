import numpy as np
import numpy.typing as npt
import pytest

from tav_sdk.bundle.tuned_weights import check_adapter_scale, is_in_base, scale_tensors, scale_tuned_weights
from tav_sdk.engines.base import Weights
from tav_sdk.errors import InputError

BLOCK = "up_blocks.1.attentions.0.transformer_blocks.0"
QUERY, OUTPUT, INNER = (
    f"{BLOCK}.attn1.to_q.weight",
    f"{BLOCK}.attn_temp.to_out.0.bias",
    f"{BLOCK}.attn_temp.to_q.weight",
)


def array(*values: float, dtype: npt.DTypeLike = np.float32) -> np.ndarray:
    return np.array(values, np.float32).astype(dtype)


def bfloat16(*values):
    """Their bits; values that bfloat16 holds exactly."""
    return (np.array(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def test_queries_come_from_the_base_and_the_temporal_attention_from_nothing():
    assert is_in_base(QUERY)
    assert not is_in_base(OUTPUT)
    assert not is_in_base(INNER)
    tuned = {QUERY: array(3, -1), OUTPUT: array(4, 2), INNER: array(5, 6)}
    scaled = scale_tensors(tuned, {QUERY: array(1, 1)}, 0.25)
    np.testing.assert_array_equal(scaled[QUERY], array(1.5, 0.5))
    np.testing.assert_array_equal(scaled[OUTPUT], array(1, 0.5))
    np.testing.assert_array_equal(scaled[INNER], tuned[INNER])


@pytest.mark.parametrize(("scale", "want"), [(0.0, 1.0), (0.5, 2.0), (1.5, 4.0), (2.0, 5.0)])
@pytest.mark.parametrize("make", [array, lambda *v: array(*v, dtype=np.float16), bfloat16])
def test_it_is_a_straight_line_in_every_dtype(scale, want, make):
    scaled = scale_tensors({QUERY: make(3)}, {QUERY: make(1)}, scale)[QUERY]
    np.testing.assert_array_equal(scaled, make(want))
    assert scaled.dtype == make(1).dtype


def test_bfloat16_is_rounded_to_the_nearest():
    import torch

    tuned, base = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    want = (base.float() + np.float32(0.7) * (tuned.float() - base.float())).bfloat16()
    bits = [tensor.view(torch.uint16).numpy() for tensor in (tuned, base, want)]
    np.testing.assert_array_equal(scale_tensors({QUERY: bits[0]}, {QUERY: bits[1]}, 0.7)[QUERY], bits[2])


def test_scaled_weights_have_a_key_of_their_own_and_1_is_the_tuned_ones():
    tuned, untuned = Weights("t", {QUERY: array(3)}), Weights("u", {QUERY: array(1)})
    assert scale_tuned_weights(tuned, untuned, 1.0) is tuned
    keys = {scale_tuned_weights(tuned, untuned, scale).key for scale in (0.0, 0.5, 1.0)}
    assert len(keys) == 3
    assert scale_tuned_weights(tuned, untuned, 0.5).key in keys


@pytest.mark.parametrize("scale", [-0.01, 2.01, float("nan"), float("inf")])
def test_a_scale_out_of_range_is_refused(scale):
    with pytest.raises(
        InputError, match=rf"adapter_scale must be from 0 \(the base\) to 2, got {scale}; 1 is as it was"
    ):
        check_adapter_scale(scale)
