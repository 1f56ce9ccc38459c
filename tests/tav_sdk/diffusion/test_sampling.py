import numpy as np
import pytest

from tav_sdk.diffusion.sampling import ddim_sample
from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.errors import CancelledError, InputError

SCHEDULE = DDIMSchedule(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, set_alpha_to_one=False
)
COND, UNCOND = np.ones((1, 3, 5), np.float32), np.zeros((1, 3, 5), np.float32)


def noise() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 4, 2, 4, 4), dtype=np.float32)


def by_text(sample, timestep, encoder_hidden_states):
    """Predicts 0.1 for the unconditional half and 0.3 for the conditional one."""
    level = 0.1 + 0.2 * encoder_hidden_states.mean(axis=(1, 2))
    return np.broadcast_to(level[:, None, None, None, None], sample.shape).astype(np.float32)


def test_guidance_is_one_batch_of_two_with_the_unconditional_half_first():
    seen = []

    def unet(sample, timestep, encoder_hidden_states):
        seen.append((sample.copy(), encoder_hidden_states.copy()))
        return by_text(sample, timestep, encoder_hidden_states)

    ddim_sample(unet, noise(), COND, UNCOND, SCHEDULE, 3, 7.5)
    assert len(seen) == 3
    sample, states = seen[0]
    np.testing.assert_array_equal(sample, np.concatenate([noise(), noise()]))
    np.testing.assert_array_equal(states, np.concatenate([UNCOND, COND]))


def test_guidance_extrapolates_from_unconditional_to_conditional():
    guided = ddim_sample(by_text, noise(), COND, UNCOND, SCHEDULE, 5, 4.0)
    constant = ddim_sample(
        lambda s, t, e: np.full_like(s, 0.1 + 4.0 * (0.3 - 0.1)), noise(), COND, None, SCHEDULE, 5, 1.0
    )
    np.testing.assert_allclose(guided, constant, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_without_guidance_there_is_one_evaluation_a_step(scale):
    batches = []

    def unet(sample, timestep, encoder_hidden_states):
        batches.append(len(sample))
        return np.zeros_like(sample)

    ddim_sample(unet, noise(), COND, None, SCHEDULE, 4, scale)
    assert batches == [1, 1, 1, 1]


def test_offsets_are_added_after_each_step():
    offsets = np.random.default_rng(1).standard_normal((3, *noise().shape), dtype=np.float32)
    got = ddim_sample(by_text, noise(), COND, UNCOND, SCHEDULE, 3, 4.0, offsets=offsets)
    latents = noise()
    for timestep, offset in zip(SCHEDULE.timesteps(3), offsets, strict=True):
        latents = SCHEDULE.step(np.full_like(latents, 0.9), timestep, latents, 3) + offset
    np.testing.assert_allclose(got, latents, atol=1e-5)


def test_offsets_of_another_number_of_steps_are_refused():
    text = "num_inference_steps must be 3, as many as the clip was inverted with, got 4: the direct correction has"
    with pytest.raises(InputError, match=text):
        ddim_sample(by_text, noise(), COND, None, SCHEDULE, 4, 1.0, offsets=np.zeros((3, *noise().shape), np.float32))


def test_the_loop_equals_diffusers():
    import torch
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(**{key: value for key, value in SCHEDULE.to_config().items() if key != "_class_name"})
    theirs.set_timesteps(20)
    latents = torch.from_numpy(noise())
    for timestep in theirs.timesteps.tolist():
        latents = theirs.step(torch.tanh(latents), timestep, latents).prev_sample  # pyright: ignore[reportAttributeAccessIssue]
    ours = ddim_sample(lambda s, t, e: np.tanh(s), noise(), COND, None, SCHEDULE, 20, 1.0)
    np.testing.assert_allclose(ours, latents.numpy(), rtol=1e-4, atol=1e-4)


def test_guidance_without_negative_states_is_refused():
    with pytest.raises(InputError, match="needs negative_encoder_hidden_states"):
        ddim_sample(by_text, noise(), COND, None, SCHEDULE, 3, 7.5)


def test_a_callback_cancels():
    with pytest.raises(CancelledError, match="sampling was cancelled after step 1 of 5"):
        ddim_sample(by_text, noise(), COND, UNCOND, SCHEDULE, 5, 7.5, lambda progress: False)
