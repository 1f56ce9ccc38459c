from itertools import pairwise

import numpy as np

from benchmarks.demo_clip import render_clip


def red_column(frame):
    red = (frame[..., 0] > 180) & (frame[..., 1] < 80)
    return np.nonzero(red)[1].mean()


def test_the_square_moves_to_the_right():
    columns = [red_column(frame) for frame in render_clip(num_frames=6, height=64, width=64).frames]
    assert all(later > earlier + 4 for earlier, later in pairwise(columns))


def test_the_clip_is_the_same_each_time():
    np.testing.assert_array_equal(render_clip().frames, render_clip().frames)
