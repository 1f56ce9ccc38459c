import numpy as np
import pytest

from tav_sdk.diffusion.inversion import ddim_invert, direct_offsets, multistep_invert
from tav_sdk.diffusion.sampling import ddim_sample
from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.errors import CancelledError, InputError
from tav_sdk.progress import StepProgress

SCHEDULE = DDIMSchedule(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, set_alpha_to_one=False
)
PREDICTIONS = [("epsilon", "leading"), ("v_prediction", "leading"), ("v_prediction", "trailing")]
STATES = np.zeros((1, 3, 5), np.float32)


def source() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 4, 2, 4, 4), dtype=np.float32)


def schedule_of(prediction_type: str, spacing: str) -> DDIMSchedule:
    config = {**SCHEDULE.to_config(), "prediction_type": prediction_type, "timestep_spacing": spacing}
    return DDIMSchedule.from_config(config | {"rescale_betas_zero_snr": spacing == "trailing"})


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


def trajectory(schedule, steps):
    """The latents of an inversion, clean first: ``(steps + 1, 1, c, f, h, w)``."""
    latents = [source()]

    def keep(step: StepProgress) -> None:
        assert step.latents is not None
        latents.append(step.latents)

    ddim_invert(smooth_unet, source(), STATES, schedule, steps, keep)
    return np.stack(latents)


@pytest.mark.parametrize(("prediction_type", "spacing"), PREDICTIONS)
def test_inversion_is_exact_where_the_prediction_does_not_change_with_the_latents(prediction_type, spacing):
    schedule = schedule_of(prediction_type, spacing)

    def unet(sample, timestep, encoder_hidden_states):
        return source()[..., ::-1] * np.float32(np.cos(timestep / 300))

    noise = ddim_invert(unet, source(), STATES, schedule, 20)
    assert np.abs(noise - source()).max() > 0.5
    np.testing.assert_allclose(ddim_sample(unet, noise, STATES, None, schedule, 20, 1.0), source(), atol=1e-4)


@pytest.mark.parametrize(("prediction_type", "spacing"), PREDICTIONS)
@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_inversion_of_gaussian_data_comes_back_and_gives_normal_noise(prediction_type, spacing, sigma):
    """The model that is perfect for data of that deviation is linear in the latents."""
    schedule, clean = schedule_of(prediction_type, spacing), sigma * source()

    def unet(sample, timestep, encoder_hidden_states):
        alpha = schedule.alpha_cumprod(int(timestep))
        total = alpha * sigma**2 + 1 - alpha  # the latents' variance at that level
        factor = np.sqrt(1 - alpha) if prediction_type == "epsilon" else np.sqrt(alpha * (1 - alpha)) * (1 - sigma**2)
        return np.float32(factor / total) * sample

    noise = ddim_invert(unet, clean, STATES, schedule, 50)
    assert noise.std() / source().std() == pytest.approx(1, abs=0.06)
    back = ddim_sample(unet, noise, STATES, None, schedule, 50, 1.0)
    assert np.abs(back - clean).mean() < 0.04 * np.abs(clean).mean()


@pytest.mark.parametrize(("prediction_type", "spacing"), PREDICTIONS)
def test_direct_offsets_lead_back_over_the_inversions_latents(prediction_type, spacing):
    schedule = schedule_of(prediction_type, spacing)
    path, back = trajectory(schedule, 10), []
    offsets = direct_offsets(smooth_unet, path, STATES, schedule)
    assert offsets.shape == (10, *source().shape)
    assert offsets.dtype == np.float32
    ddim_sample(
        smooth_unet,
        path[-1],
        STATES,
        None,
        schedule,
        10,
        1.0,
        lambda step: back.append(step.latents),
        offsets=offsets,
    )
    np.testing.assert_allclose(np.stack(back), path[-2::-1], atol=1e-4)
    plain = ddim_sample(smooth_unet, path[-1], STATES, None, schedule, 10, 1.0)
    assert np.abs(plain - source()).max() > 0.02


def test_direct_offsets_report_their_steps_and_can_be_cancelled():
    steps, path = [], trajectory(SCHEDULE, 4)
    direct_offsets(smooth_unet, path, STATES, SCHEDULE, lambda step: steps.append((step.stage, step.step, step.total)))
    assert steps == [("correction", index, 4) for index in (1, 2, 3, 4)]
    with pytest.raises(CancelledError, match="correction was cancelled after step 1 of 4"):
        direct_offsets(smooth_unet, path, STATES, SCHEDULE, lambda step: False)


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


# --- fewer evaluations ----------------------------------------------------------------------------------------------


def test_a_fast_inversion_asks_one_usual_step_ahead_and_ends_where_ddim_ends():
    seen, steps = [], []

    def unet(sample, timestep, encoder_hidden_states):
        seen.append(int(timestep))
        return np.full_like(sample, 0.1)

    fast = multistep_invert(unet, source(), STATES, SCHEDULE, 5, 10, steps.append)
    assert seen == [101, 281, 461, 641, 821]
    assert [step.timestep for step in steps] == [181, 361, 541, 721, 901]
    np.testing.assert_array_equal(steps[-1].latents, fast)
    usual = ddim_invert(unet, source(), STATES, SCHEDULE, 10)
    assert (fast.dtype, fast.shape) == (usual.dtype, usual.shape)
    np.testing.assert_allclose(fast, usual, atol=1e-5)  # noise that does not change is integrated exactly by both


def test_a_fast_inversion_is_of_second_order():
    def inverted(steps):
        return multistep_invert(smooth_unet, source(), STATES, SCHEDULE, steps, 50)

    exact = inverted(900)
    errors = [np.abs(inverted(steps) - exact).mean() for steps in (20, 40, 80)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_fast_inversion_is_near_that_of_ddim(prediction_type):
    schedule = schedule_of(prediction_type, "leading")
    usual = ddim_invert(smooth_unet, source(), STATES, schedule, 50)
    fast = multistep_invert(smooth_unet, source(), STATES, schedule, 25, 50)
    assert np.abs(fast - usual).mean() < 0.07 * np.abs(usual).mean()


def test_sampling_from_a_fast_inversion_comes_back_with_any_number_of_steps():
    noise = multistep_invert(smooth_unet, source(), STATES, SCHEDULE, 100, 200)
    start = int(SCHEDULE.timesteps(200)[0])
    for steps in (150, 200):
        back = ddim_sample(smooth_unet, noise, STATES, None, SCHEDULE, steps, 1.0, start_timestep=start)
        assert np.abs(back - source()).mean() < 0.02 * np.abs(source()).mean()


def test_a_fast_inversion_does_not_go_to_nothing_but_noise():
    schedule = schedule_of("v_prediction", "trailing")
    with pytest.raises(InputError, match=r"nothing but noise, as this base's schedule does .*'trailing'; invert by DD"):
        multistep_invert(smooth_unet, source(), STATES, schedule, 5, 10)


def test_a_fast_inversion_takes_a_number_of_steps_that_there_is():
    with pytest.raises(InputError, match=r"there are no 1001 timesteps from 901 down to 1 in \[0, 1000\)"):
        multistep_invert(smooth_unet, source(), STATES, SCHEDULE, 1000, 10)
    with pytest.raises(InputError, match=r"there are no 0 timesteps"):
        SCHEDULE.timesteps_between(901, 1, 0)


def test_a_fast_inversion_can_be_cancelled():
    with pytest.raises(CancelledError, match="inversion was cancelled after step 1 of 5"):
        multistep_invert(smooth_unet, source(), STATES, SCHEDULE, 5, 10, lambda step: False)
