from __future__ import annotations

import math

import numpy as np
import pytest

from tav_sdk.errors import InputError
from tav_sdk.evaluation.evaluate import (
    DEFINITIONS,
    Scores,
    clip_adjacent,
    clip_frame,
    clip_text,
    evaluate,
    mean_scores,
    reconstruction_psnr,
)


def moving_square(places, size=64, side=14, light=0):
    """Frames with a bright square whose left edge is at each of ``places``."""
    frames = np.full((len(places), size, size, 3), 60 + light, np.uint8)
    for frame, left in zip(frames, places, strict=True):
        frame[25 : 25 + side, left : left + side] = (230, 120, 40)
    return frames


RIGHT = moving_square(range(2, 50, 6))


class Constant:
    """A CLIP to which all frames and all prompts are the same."""

    def embed_frames(self, frames):
        return np.tile(np.array([0.6, 0.8], np.float32), (len(frames), 1))

    def embed_text(self, prompts):
        return np.tile(np.array([1, 0], np.float32), (len(prompts), 1))


# --- CLIP -----------------------------------------------------------------------------------------------------------


def test_identical_frames_are_wholly_consistent():
    frames = np.tile(np.array([0.6, 0.8], np.float32), (4, 1))
    assert clip_frame(frames) == pytest.approx(100)
    assert clip_adjacent(frames) == pytest.approx(100)


def test_orthogonal_frames_are_not_consistent_at_all():
    assert clip_frame(np.eye(3)) == clip_adjacent(np.eye(3)) == 0


def test_all_pairs_and_adjacent_pairs_are_two_measures():
    frames = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    assert clip_frame(frames) == pytest.approx(100 / 3)
    assert clip_adjacent(frames) == pytest.approx(50)


def test_the_text_score_is_a_mean_over_frames():
    assert clip_text(np.array([[1, 0], [0.6, 0.8]], np.float32), np.array([1, 0], np.float32)) == pytest.approx(80)


def test_lengths_of_embeddings_do_not_count():
    assert clip_text(np.array([[3, 0]], np.float32), np.array([7, 0], np.float32)) == pytest.approx(100)


def test_a_single_frame_has_no_consistency():
    assert clip_frame(np.ones((1, 2))) is clip_adjacent(np.ones((1, 2))) is None


@pytest.mark.parametrize("bad", [np.ones(3), np.zeros((2, 3)), np.full((2, 3), np.nan), np.ones((0, 3))])
def test_embeddings_that_are_none(bad):
    with pytest.raises(InputError, match="embeddings: expected"):
        clip_frame(bad)


def test_embeddings_of_two_models():
    with pytest.raises(InputError, match="embeddings of one width, got 3 of frames, 2 of the prompt"):
        clip_text(np.ones((2, 3)), np.ones(2))


# --- reconstruction -------------------------------------------------------------------------------------------------


def test_a_known_psnr():
    other = RIGHT.copy()
    other[..., 0] ^= 1  # one of three channels is off by one
    assert reconstruction_psnr(RIGHT, other) == pytest.approx(10 * math.log10(3 * 255**2))


def test_an_equal_reconstruction():
    assert reconstruction_psnr(RIGHT, RIGHT) == math.inf


def test_a_reconstruction_of_another_size():
    text = "the source is 8 frames of 64x64, the reconstruction 7 frames of 64x32"
    with pytest.raises(InputError, match=text):
        reconstruction_psnr(RIGHT, RIGHT[:7, :, :32])


# --- all together ---------------------------------------------------------------------------------------------------


def test_every_measure_of_an_edit():
    scores = evaluate(RIGHT, "a square", RIGHT, Constant())
    values = {"clip_text": 60, "clip_frame": 100, "clip_adjacent": 100, "motion": 1}
    assert scores.to_dict() == pytest.approx(values)
    assert scores.notes == {}


def test_every_measure_is_defined_in_words():
    assert set(DEFINITIONS) == {*Scores.names(), "reconstruction_psnr"}


def test_true_positions_stand_for_a_source():
    truth = np.stack([np.linspace(0.8, 0.2, 8), np.full(8, 0.5)], axis=1)
    assert evaluate(RIGHT, "a square", None, Constant(), positions=truth).motion == pytest.approx(-1)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "there is no source to compare with"),
        (np.repeat(RIGHT[:1], 8, axis=0), "the source's subject moves by less than 5% of the frame"),
    ],
)
def test_a_measure_that_is_not_defined_says_why(source, reason):
    scores = evaluate(RIGHT, "a square", source, Constant())
    assert scores.motion is None
    assert scores.notes == {"motion": reason}


def test_one_frame_says_what_it_has_not():
    scores = evaluate(RIGHT[:1], "a square", None, Constant())
    assert scores.notes["clip_frame"] == scores.notes["clip_adjacent"] == "the video has one frame only"


@pytest.mark.parametrize("bad", [[1, 2], [[1, 2, 3]], "x", [[0.1, math.nan]], [[1, 2], [3]]])
def test_positions_that_are_none(bad):
    with pytest.raises(InputError, match=r"positions: expected a list of \[x, y\], one for each frame"):
        evaluate(RIGHT, "x", None, Constant(), positions=bad)


def test_a_source_of_another_length_has_no_motion():
    scores = evaluate(RIGHT, "a square", RIGHT[:6], Constant())
    assert scores.motion is None
    assert "the video has 8 frames, the source 6; give the frames that were edited" in scores.notes["motion"]


def test_positions_of_another_length():
    with pytest.raises(InputError, match="the video has 8 frames, the list of positions 6"):
        evaluate(RIGHT, "a square", None, Constant(), positions=np.full((6, 2), 0.5))


def test_the_mean_is_over_what_is_defined():
    one = Scores(clip_text=10.0, clip_frame=90.0, clip_adjacent=None, motion=None)
    other = Scores(clip_text=20.0, clip_frame=80.0, clip_adjacent=None, motion=0.5)
    assert mean_scores([one, other]) == {"clip_text": 15, "clip_frame": 85, "clip_adjacent": None, "motion": 0.5}
