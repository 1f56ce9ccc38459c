"""Where the subject is, and how alike two trajectories are."""

from __future__ import annotations

import numpy as np
import pytest

from tav_sdk.errors import InputError
from tav_sdk.evaluation.trajectory import find_trajectory, motion
from tav_sdk.pocket import sample_clips
from tav_sdk.video.clip import read_video

CLIPS = sample_clips()


def moving_square(places, size=64, side=14, light=0):
    """Frames with a bright square whose left edge is at each of ``places``."""
    frames = np.full((len(places), size, size, 3), 60 + light, np.uint8)
    for frame, left in zip(frames, places, strict=True):
        frame[25 : 25 + side, left : left + side] = (230, 120, 40)
    return frames


def likeness(video: np.ndarray, source: np.ndarray) -> float:
    """:func:`motion` where the source moves."""
    found = motion(video, source)
    assert found is not None
    return found


RIGHT = moving_square(range(2, 50, 6))


def test_the_same_motion():
    path = find_trajectory(RIGHT)
    assert motion(path, path) == pytest.approx(1)


def test_place_size_and_light_of_the_subject_do_not_count():
    other = moving_square(range(8, 96, 11), size=128, side=20, light=50)
    assert likeness(find_trajectory(other), find_trajectory(RIGHT)) > 0.99


def test_the_reversed_motion():
    assert motion(find_trajectory(RIGHT[::-1]), find_trajectory(RIGHT)) == pytest.approx(-1)


def test_an_edit_that_stands_still_keeps_no_motion():
    still = np.repeat(RIGHT[:1], 8, axis=0)
    assert motion(find_trajectory(still), find_trajectory(RIGHT)) == 0


def test_noise_is_no_motion():
    noisy = np.random.default_rng(0).normal(0, 12, RIGHT.shape) + RIGHT[0]
    assert motion(find_trajectory(noisy.clip(0, 255).astype(np.uint8)), find_trajectory(RIGHT)) == 0


def test_without_motion_in_the_source_there_is_no_measure():
    assert motion(find_trajectory(RIGHT), np.full((8, 2), 0.4)) is None


def test_only_the_main_axis_counts():
    x = np.linspace(0.2, 0.8, 8)
    source, video = np.stack([x, 0.01 * np.cos(9 * x)], axis=1), np.stack([x, -0.2 * np.cos(9 * x)], axis=1)
    assert likeness(video, source) > 0.97


def test_trajectories_of_two_lengths():
    with pytest.raises(InputError, match="one length, got 7 of the video, 8"):
        motion(np.ones((7, 2)), np.ones((8, 2)))


@pytest.mark.parametrize("name", CLIPS)
def test_the_subject_of_a_sample_clip_is_found(name):
    found = find_trajectory(read_video(CLIPS[name].path).frames)
    assert likeness(found, CLIPS[name].centers) > 0.995
    assert np.abs(found - CLIPS[name].centers).max() < 0.12  # fractions of the frame


@pytest.mark.parametrize("name", CLIPS)
def test_noise_and_changes_of_light_are_tolerated(name):
    rng = np.random.default_rng(3)
    frames = read_video(CLIPS[name].path).frames * rng.uniform(0.92, 1.08, (8, 1, 1, 1))
    noisy = (frames + rng.normal(0, 12, frames.shape)).clip(0, 255).astype(np.uint8)
    assert likeness(find_trajectory(noisy), CLIPS[name].centers) > 0.98


def test_large_frames_are_looked_at_as_small_ones():
    large = RIGHT.repeat(4, axis=1).repeat(4, axis=2)
    np.testing.assert_allclose(find_trajectory(large), find_trajectory(RIGHT), atol=1e-5)
