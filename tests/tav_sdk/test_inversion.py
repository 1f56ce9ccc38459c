import numpy as np
import pytest

from tav_sdk.errors import CancelledError
from tav_sdk.inversion import ddim_invert
from tav_sdk.sampling import ddim_sample
from tav_sdk.schedule import DDIMSchedule

SCHEDULE = DDIMSchedule(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, set_alpha_to_one=False
)
STATES = np.zeros((1, 3, 5), np.float32)


def source() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 4, 2, 4, 4), dtype=np.float32)


def smooth_unet(sample, timestep, encoder_hidden_states):
    """A model whose prediction depends on latents and time, mildly, as that of a trained one does."""
    return (0.6 * np.tanh(sample) + 0.3 * np.cos(timestep / 300)).astype(np.float32)


def test_the_unet_sees_the_destination_timestep_with_the_source_latents():
    seen = []

    def unet(sample, timestep, encoder_hidden_states):
        seen.append((int(timestep), sample.copy(), timestep.shape, timestep.dtype))
        return np.zeros_like(sample)

    ddim_invert(unet, source(), STATES, SCHEDULE, 10)
    assert [timestep for timestep, *_ in seen] == list(range(1, 1000, 100))
    np.testing.assert_array_equal(seen[0][1], source())
    assert seen[0][2:] == ((), np.int64)


def test_the_update_is_the_released_codes_formula():
    schedule, x, eps, n = SCHEDULE, source(), 0.1, 10
    expected = x.astype(np.float64)
    for t in range(1, 1000, 1000 // n):
        a_from = schedule.alphas_cumprod[t - 100] if t >= 100 else schedule.alphas_cumprod[0]
        a_to = schedule.alphas_cumprod[t]
        expected = np.sqrt(a_to) * (expected - np.sqrt(1 - a_from) * eps) / np.sqrt(a_from) + np.sqrt(1 - a_to) * eps
    got = ddim_invert(lambda s, t, e: np.full_like(s, eps), x, STATES, schedule, n)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_sampling_without_guidance_reconstructs_the_latents():
    errors = []
    for steps in (50, 200):
        noise = ddim_invert(smooth_unet, source(), STATES, SCHEDULE, steps)
        back = ddim_sample(smooth_unet, noise, STATES, None, SCHEDULE, steps, 1.0)
        errors.append(np.abs(back - source()).mean() / np.abs(source()).mean())
    assert errors[0] < 0.15
    assert errors[1] < 0.4 * errors[0]  # a first-order method


def test_the_trajectory_is_reported():
    steps = []
    result = ddim_invert(smooth_unet, source(), STATES, SCHEDULE, 4, lambda progress: steps.append(progress))
    assert [(s.stage, s.step, s.total, s.timestep) for s in steps] == [
        ("inversion", 1, 4, 1),
        ("inversion", 2, 4, 251),
        ("inversion", 3, 4, 501),
        ("inversion", 4, 4, 751),
    ]
    np.testing.assert_array_equal(steps[-1].latents, result)


def test_a_callback_cancels():
    with pytest.raises(CancelledError, match="inversion was cancelled after step 2 of 10"):
        ddim_invert(smooth_unet, source(), STATES, SCHEDULE, 10, lambda progress: progress.step < 2)
