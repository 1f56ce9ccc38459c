import itertools

import numpy as np
import pytest

from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.errors import ConfigError, InputError

SD14 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.2.2",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
CASES = list(
    itertools.product(
        ["linear", "scaled_linear", "squaredcos_cap_v2"],
        ["epsilon", "v_prediction"],
        ["leading", "trailing"],
        [True, False],
    )
)


def config(beta_schedule: str, prediction_type: str, timestep_spacing: str, set_alpha_to_one: bool) -> dict:
    return {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": beta_schedule,
        "prediction_type": prediction_type,
        "timestep_spacing": timestep_spacing,
        "set_alpha_to_one": set_alpha_to_one,
        "steps_offset": 1,
        "clip_sample": False,
    }


def arrays() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((1, 4, 2, 3, 3), dtype=np.float32), rng.standard_normal(
        (1, 4, 2, 3, 3), dtype=np.float32
    )


@pytest.mark.parametrize("case", CASES)
def test_sampling_steps_equal_diffusers(case):
    import torch
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(**config(*case))
    ours = DDIMSchedule.from_config(theirs.config)
    latents, noise = arrays()
    for steps in (1, 7, 10, 50):
        theirs.set_timesteps(steps)
        np.testing.assert_array_equal(ours.timesteps(steps), theirs.timesteps.numpy())
        for timestep in theirs.timesteps.tolist():
            expected = theirs.step(torch.from_numpy(noise), timestep, torch.from_numpy(latents)).prev_sample.numpy()  # pyright: ignore[reportAttributeAccessIssue]
            got = ours.step(noise, timestep, latents, steps)
            assert got.dtype == np.float32
            assert np.abs(got - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("case", [case for case in CASES if config(*case)["prediction_type"] != "v_prediction"])
def test_inversion_steps_equal_diffusers(case):
    import torch
    from diffusers import DDIMInverseScheduler

    theirs = DDIMInverseScheduler(**config(*case))
    ours = DDIMSchedule.from_config(theirs.config)
    latents, noise = arrays()
    for steps in (7, 10, 50):
        theirs.set_timesteps(steps)
        np.testing.assert_array_equal(ours.inversion_timesteps(steps), theirs.timesteps.numpy())
        for timestep in theirs.timesteps.tolist():
            expected = theirs.step(torch.from_numpy(noise), timestep, torch.from_numpy(latents)).prev_sample.numpy()  # pyright: ignore[reportAttributeAccessIssue]
            got = ours.inverse_step(noise, timestep, latents, steps)
            assert np.abs(got - expected).max() <= 1e-6 * np.abs(expected).max()


def test_the_scheduler_of_stable_diffusion_gives_its_known_timesteps():
    schedule = DDIMSchedule.from_config(SD14)
    assert schedule.timesteps(10).tolist() == list(range(901, 0, -100))
    assert schedule.timesteps(50)[[0, -1]].tolist() == [981, 1]
    assert schedule.inversion_timesteps(10).tolist() == list(range(1, 1000, 100))
    assert schedule.final_alpha_cumprod == pytest.approx(0.99915)


def test_linspace_timesteps_equal_diffusers():
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(timestep_spacing="linspace")
    theirs.set_timesteps(7)
    assert DDIMSchedule.from_config(theirs.config).timesteps(7).tolist() == theirs.timesteps.tolist()


def test_zero_terminal_snr_equals_diffusers():
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(**config("scaled_linear", "v_prediction", "trailing", False), rescale_betas_zero_snr=True)
    np.testing.assert_allclose(
        DDIMSchedule.from_config(theirs.config).alphas_cumprod, theirs.alphas_cumprod.numpy(), atol=1e-6
    )


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_inversion_is_the_inverse_of_sampling_for_the_same_prediction(prediction_type):
    schedule = DDIMSchedule.from_config({**SD14, "prediction_type": prediction_type})
    latents, prediction = arrays()
    up = schedule.inverse_step(prediction, 501, latents, 50)
    assert up.dtype == np.float32
    np.testing.assert_allclose(schedule.step(prediction, 501, up, 50), latents, atol=1e-5)


def test_inversion_by_velocity_to_nothing_but_noise_takes_two_steps():
    values = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    schedule = DDIMSchedule.from_config(values)
    latents, velocity = arrays()
    assert np.isfinite(schedule.inverse_step(velocity, 999, latents, 2)).all()
    with pytest.raises(InputError, match="cannot go from no noise to nothing but noise in one step; take at least 2"):
        schedule.inverse_step(velocity, 999, latents, 1)


def test_a_configuration_survives_the_round_trip():
    schedule = DDIMSchedule.from_config({**SD14, "prediction_type": "v_prediction"})
    assert DDIMSchedule.from_config(schedule.to_config()) == schedule


def test_more_steps_than_the_chain_has_are_refused():
    with pytest.raises(InputError, match="between 1 and 1000, got 1001"):
        DDIMSchedule.from_config(SD14).timesteps(1001)


def test_as_many_steps_as_the_chain_has_stay_inside_it():
    assert DDIMSchedule.from_config(SD14).timesteps(1000).max() == 999


def test_an_unknown_prediction_type_is_refused():
    with pytest.raises(ConfigError, match="prediction_type must be one of epsilon, v_prediction, sample, got 'flow'"):
        DDIMSchedule.from_config({"prediction_type": "flow"})


def test_a_flow_matching_scheduler_is_refused():
    with pytest.raises(ConfigError, match="FlowMatchEulerDiscreteScheduler is a flow-matching scheduler"):
        DDIMSchedule.from_config({"_class_name": "FlowMatchEulerDiscreteScheduler"})


def test_trained_betas_of_another_length_are_refused():
    with pytest.raises(ConfigError, match="must have 1000 values, got 3"):
        DDIMSchedule.from_config({"trained_betas": [0.1, 0.2, 0.3]})


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"num_train_timesteps": "1000"}, "num_train_timesteps must be a whole number from 1 to 100000, got '1000'"),
        ({"num_train_timesteps": 1e3}, "num_train_timesteps must be a whole number from 1 to 100000, got 1000.0"),
        ({"num_train_timesteps": 10**12}, "num_train_timesteps must be a whole number from 1 to 100000, got 1000000"),
        ({"num_train_timesteps": True}, "num_train_timesteps must be a whole number from 1 to 100000, got True"),
        ({"steps_offset": None}, "steps_offset must be a whole number from 0 to 100000, got None"),
        ({"beta_start": "x"}, "beta_start must be a number between 0 and 1, got 'x'"),
        ({"beta_end": float("nan")}, "beta_end must be a number between 0 and 1, got nan"),
        ({"beta_end": [0.1]}, r"beta_end must be a number between 0 and 1, got \[0.1\]"),
        ({"beta_schedule": None}, "beta_schedule must be one of linear, .*, got None"),
        ({"beta_schedule": {}}, "beta_schedule must be one of linear, .*, got {}"),
        ({"set_alpha_to_one": "no"}, "set_alpha_to_one must be true or false, got 'no'"),
        ({"trained_betas": 3}, "trained_betas must be a list, got 3"),
        ({"trained_betas": "x" * 1000}, "trained_betas must be a list, got 'xxx"),
        ({"trained_betas": [None] * 1000}, "trained_betas must be numbers from 0 to 1, got None"),
        ({"trained_betas": [0.1] * 999 + [float("inf")]}, "trained_betas must be numbers from 0 to 1, got inf"),
        (
            {"num_train_timesteps": 1, "rescale_betas_zero_snr": True},
            "variances lead to no noise levels; check its configuration",
        ),
    ],
)
def test_values_of_wrong_types_and_out_of_range_are_refused(values, text):
    with pytest.raises(ConfigError, match=text):
        DDIMSchedule.from_config(values)


@pytest.mark.parametrize("config", [None, [], "x", 3])
def test_a_configuration_that_is_no_mapping_is_refused(config):
    with pytest.raises(ConfigError, match="a schedule's configuration must hold keys and values, got "):
        DDIMSchedule.from_config(config)
