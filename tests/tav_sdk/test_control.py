"""Control videos that are computed from a clip, and the options of ``tav edit`` that use them."""

import numpy as np
import pytest

pytest.importorskip("cv2")

from tav_sdk.control import DETECTORS, agreement, canny, soft_edges
from tav_sdk.errors import InputError


@pytest.fixture
def frames():
    """Two frames with a white square, the second one moved."""
    made = np.zeros((2, 32, 48, 3), np.uint8)
    made[0, 8:20, 8:20] = 255
    made[1, 8:20, 18:30] = 255
    return made


@pytest.mark.parametrize("name", DETECTORS)
def test_edges_lie_around_what_is_there(frames, name):
    maps = DETECTORS[name](frames)
    assert (maps.shape, maps.dtype) == (frames.shape, np.uint8)
    assert (maps[..., 0] == maps[..., 2]).all()
    for place, left in enumerate((8, 18)):
        rows, columns = np.nonzero(maps[place, ..., 0] > 127)
        assert abs(columns.min() - left) <= 1
        assert abs(columns.max() - (left + 11)) <= 1
        assert abs(rows.min() - 8) <= 1
        assert not maps[place, 13:15, left + 5 : left + 7].any()


def test_canny_is_black_and_white_and_thresholds_matter(frames):
    assert set(np.unique(canny(frames))) == {0, 255}
    assert not canny(frames // 20).any()
    assert canny(frames // 20, low=1, high=5).any()


@pytest.mark.parametrize(("low", "high"), [(-1, 5), (300, 200), (5, 1001)])
def test_thresholds_out_of_range_are_refused(frames, low, high):
    with pytest.raises(InputError, match=rf"0 <= low <= high <= 1000, got {low} and {high}"):
        canny(frames, low=low, high=high)


def test_soft_edges_of_nothing_are_black(frames):
    assert not soft_edges(np.full_like(frames, 77)).any()


def test_agreement_is_1_for_the_same_and_falls_with_distance(frames):
    edges = canny(frames)
    assert agreement(edges, edges) == 1
    near, far = (agreement(np.roll(edges, by, axis=2), edges) for by in (1, 5))
    assert near == 1
    assert 0 < far < 0.7
    assert agreement(edges, np.zeros_like(edges)) == 0
    assert agreement(np.zeros_like(edges), np.zeros_like(edges)) == 1
    with pytest.raises(InputError, match=r"must have the same shape, got \(2, 32, 48, 3\) and \(1, 32, 48, 3\)"):
        agreement(edges, edges[:1])


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def edit(tav, tiny_bundle, clip_path, tmp_path):
    return lambda *more: tav(
        *("edit", tiny_bundle, "--video", clip_path, "--prompt", "a man", "--out", tmp_path / "out", "--no-cache"),
        *more,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--control", "canny"), "--control was given without --controlnet"),
        (("--controlnet", "pocket"), "--controlnet was given without --control"),
        (
            ("--control", "gone.mp4", "--controlnet", "x"),
            "must be a video file or one of canny, soft-edges; got 'gone.mp4'",
        ),
        (
            ("--control", "canny", "--controlnet", "x", "--control-scale", "-1"),
            "--control-scale must be from 0 to 10, got -1",
        ),
        (("--control", "canny", "--controlnet", "gone"), "there is no exported ControlNet at gone"),
    ],
)
def test_options_that_do_not_fit_are_refused(edit, options, message, tmp_path):
    result = edit(*options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_control_video_that_is_too_short_is_refused(edit, tmp_path):
    from tav_sdk.video import Video

    Video(frames=np.zeros((2, 64, 64, 3), np.uint8), fps=8).save(tmp_path / "short.mp4")
    result = edit("--control", tmp_path / "short.mp4", "--controlnet", "pocket")
    assert result.exit_code == 2
    assert "short.mp4 has 2 frames, the bundle takes 4" in result.stderr


def test_a_bundle_without_control_says_how_to_export_it(edit):
    result = edit("--control", "canny", "--controlnet", "pocket")
    assert result.exit_code == 2
    assert "takes no control; export its run again with --control" in result.stderr
