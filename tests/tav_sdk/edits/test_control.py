"""Control videos that are computed from a clip, and the options of ``tav edit`` that use them."""

import numpy as np
import pytest

from tav_sdk.edits.control import control_video
from tav_sdk.errors import InputError
from tav_sdk.request import FrameSelection
from tav_sdk.video.clip import Video
from tav_sdk.video.edges import DETECTORS, agreement, canny, soft_edges


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
        (("--control-scale", "1"), "--control-scale was given without --control"),
        (("--control-inversion",), "--control-inversion was given without --control"),
        (
            ("--control", "gone.mp4", "--controlnet", "pocket"),
            "--control must be a file, or one of canny, soft-edges; there is no file gone.mp4",
        ),
        (
            ("--control", "canny", "--controlnet", "pocket", "--control-scale", "-1"),
            "--control-scale must be from 0 to 10, got -1.0",
        ),
        (
            ("--control", "canny", "--controlnet", "gone"),
            "--controlnet must be pocket or a folder that tav export-controlnet wrote; gone is no folder",
        ),
        (("--control", "canny", "--controlnet", "tests"), "there is no exported ControlNet at tests"),
        (
            ("--correction", "negative-prompt", "--guidance-scale", "1"),
            "--guidance-scale must be above 1 with the correction negative-prompt, got 1",
        ),
        (("--fast", "--correction", "direct"), "--correction cannot be direct with a fast inversion"),
    ],
)
def test_options_that_do_not_fit_are_refused(edit, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    result = edit(*options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def counted(path, count):
    """A video whose frames are grey, each 10 lighter than the one before."""
    frames = np.zeros((count, 64, 64, 3), np.uint8)
    frames += np.arange(0, 10 * count, 10, dtype=np.uint8)[:, None, None, None]
    return Video(frames=frames, fps=8).save(path)


@pytest.mark.parametrize(("count", "indices"), [(4, (0, 1, 2, 3)), (12, (2, 5, 8, 11))])
def test_a_control_video_is_read_as_the_clip_is_or_whole(tmp_path, count, indices):
    clip = Video(frames=np.zeros((4, 64, 64, 3), np.uint8), fps=8)
    video = control_video(counted(tmp_path / "control.mp4", count), clip, FrameSelection(start=2, stride=3))
    np.testing.assert_allclose(video.frames[:, 32, 32, 0], 10 * np.array(indices), atol=3)


@pytest.mark.parametrize(
    ("count", "message"),
    [(2, "^video must have a frame for each of the clip's 4"), (6, r"^video is read as the clip is \(start 2, str")],
)
def test_a_control_video_that_is_too_short_is_refused(tmp_path, count, message):
    clip = Video(frames=np.zeros((4, 64, 64, 3), np.uint8), fps=8)
    with pytest.raises(InputError, match=message):
        control_video(counted(tmp_path / "control.mp4", count), clip, FrameSelection(start=2, stride=3))


@pytest.mark.parametrize("function", [canny, soft_edges])
def test_what_are_no_frames_is_refused(frames, function):
    for wrong, got in ((Video(frames=frames, fps=8), "Video"), (frames[0], r"uint8\[32, 48, 3\]")):
        with pytest.raises(InputError, match=f"frames must be uint8.f, h, w, 3., got {got}"):
            function(wrong)


def test_a_bundle_without_control_says_how_to_export_it(edit):
    result = edit("--control", "canny", "--controlnet", "pocket")
    assert result.exit_code == 2
    assert "takes no control; export its run again with control" in result.stderr


def test_a_bundle_without_control_gives_none_to_another(tav, tiny_run, tiny_bundle, tmp_path):
    result = tav("export", tiny_run, "--bundle", tiny_bundle, "--control", "--out", tmp_path / "bundle")
    assert result.exit_code == 2
    assert "--control cannot be given with --bundle" in result.stderr
    assert not (tmp_path / "bundle").exists()
