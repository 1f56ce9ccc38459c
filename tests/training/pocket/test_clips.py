from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tav_sdk.errors import InputError
from tav_sdk.training.pocket.clips import SAMPLE_CLIPS, render_clip
from tav_sdk.training.pocket.world import render


def test_frames_and_positions_are_deterministic():
    first, again = (render_clip(subject="car", background="road", color="red", seed=1) for _ in range(2))
    assert first.frames.shape == (8, 64, 64, 3)
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.centers, again.centers)
    assert first.caption == "a red car is moving on the road"


@pytest.mark.parametrize("name", sorted(SAMPLE_CLIPS))
def test_sample_clips_move_half_the_picture(name: str):
    arguments: dict[str, Any] = SAMPLE_CLIPS[name]
    clip = render_clip(**arguments)
    way = clip.centers[-1, 0] - clip.centers[0, 0]
    assert abs(way) >= 0.5
    assert way == pytest.approx(arguments["end"] - arguments["start"], abs=1e-6)


def test_the_position_is_where_the_subject_is_painted():
    clip = render_clip(subject="pig", background="night", start=0.25, end=0.75, seed=2)
    for scene, frame, center in zip(clip.scenes, clip.frames, clip.centers, strict=True):
        assert np.array_equal(render(scene), frame)
        pink = (frame[..., 0] > 200) & (frame[..., 2] < 215) & (frame[..., 1] > 120)
        pink[: frame.shape[0] // 3] = False  # the moon
        columns = np.nonzero(pink)[1]
        assert columns.mean() / 64 == pytest.approx(center[0], abs=0.06)


def test_bad_requests_are_refused():
    with pytest.raises(InputError, match="num_frames=1"):
        render_clip(subject="car", background="road", num_frames=1)
    with pytest.raises(InputError, match="Unknown subject 'panda'; there are: car"):
        render_clip(subject="panda", background="road")
