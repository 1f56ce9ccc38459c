"""Blended windows, for U-Nets whose frames depend on later ones."""

import itertools

import numpy as np
import pytest

from tav_sdk.errors import InputError
from tav_sdk.pipeline.windows import BlendedUNet, LoopReport, blended_runs

T, STATES = np.asarray(500), np.zeros((1, 77, 4), np.float32)


def video(num_frames):
    frames = np.arange(num_frames, dtype=np.float32) + 1
    return np.broadcast_to(frames[:, None, None], (2, 3, num_frames, 4, 4)).copy()


@pytest.mark.parametrize(("num_frames", "length"), [(4, 3), (5, 3), (11, 3), (20, 3), (64, 7), (9, 1)])
def test_runs_cover_all_frames_and_overlap(num_frames, length):
    runs = blended_runs(num_frames, length)
    covered = [frame for start in runs for frame in range(start, start + length)]
    assert set(covered) == set(range(1, num_frames))
    assert runs == sorted(set(runs))
    if length > 1:
        assert all(later - former < length for former, later in itertools.pairwise(runs))


def test_a_u_net_of_single_frames_is_not_changed_by_blending():
    def unet(sample, timestep, states):
        assert sample.shape[2] == 4
        return 2 * sample

    np.testing.assert_allclose(BlendedUNet(unet, 4)(video(11), T, STATES), 2 * video(11), rtol=1e-6)


def test_frame_0_is_in_every_window():
    def unet(sample, timestep, states):
        assert (sample[:, :, 0] == 1).all()
        return sample

    np.testing.assert_allclose(BlendedUNet(unet, 4)(video(11), T, STATES), video(11), rtol=1e-6)


def test_there_is_no_jump_between_windows_that_disagree():
    calls = []

    def unet(sample, timestep, states):
        calls.append(1)
        return np.full_like(sample, len(calls) % 2)  # one window says 1, the next 0

    blended = BlendedUNet(unet, 8)(video(32), T, STATES)[0, 0, 1:, 0, 0]
    assert np.ptp(blended) > 0.9
    assert abs(np.diff(blended)).max() < 0.5


def test_windows_are_reported():
    seen = []
    unet = BlendedUNet(lambda sample, *_: sample, 4, LoopReport(seen.append, "sampling", 25))
    for _ in range(2):
        unet(video(11), T, STATES)
    assert {(step.stage, step.total) for step in seen} == {("sampling", 25)}
    count = seen[0].part.count
    assert [(step.step, step.part.index) for step in seen] == [(s, w + 1) for s in (1, 2) for w in range(count)]


def test_too_few_frames_are_refused():
    with pytest.raises(
        InputError, match="makes videos of at least 4 frames, since its frames depend on later ones; got 3"
    ):
        blended_runs(3, 3)
    with pytest.raises(InputError, match="a window of one frame cannot make a longer video"):
        blended_runs(3, 0)
