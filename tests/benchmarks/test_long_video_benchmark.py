"""What benchmarks/long_video.py says of a video."""

import json

import numpy as np
import pytest

from benchmarks import long_video
from tav_sdk.pocket import FOLDER
from tav_sdk.video.clip import read_video

needs_pocket = pytest.mark.skipif(not (FOLDER / "unet").is_dir(), reason="the base is not in the package folder")


def test_seams_are_told_from_the_rest():
    frames = np.zeros((12, 4, 4, 3), np.uint8)
    frames[4:8] = 30
    frames[8:] = 10
    frames[1] = 3
    found = long_video.seams(frames, 4)
    assert found["at"] == pytest.approx((30 + 20) / 2)
    assert found["elsewhere"] == pytest.approx((3 + 3) / 9)
    assert found["ratio"] == pytest.approx(25 * 9 / 6)


def test_the_long_clip_goes_to_and_fro(tmp_path):
    centers = long_video.long_clip(24, tmp_path / "clip.mp4")
    assert read_video(tmp_path / "clip.mp4").num_frames == len(centers) == 24
    assert (np.diff(centers[:11, 0]) > 0).all()
    assert (np.diff(centers[11:22, 0]) < 0).all()


@needs_pocket
@pytest.mark.slow
def test_cost_is_measured(tmp_path, capsys):
    how = ["--part", "cost", "--num-train-steps", "2", "--lengths", "8", "16", "--steps", "1", "--rounds", "1"]
    long_video.main(["--out", str(tmp_path), *how])
    cost = json.loads((tmp_path / "long_video.json").read_text())["cost"]
    assert set(cost) == {"8", "16", "8 streamed", "16 streamed"}
    assert all(entry["peak_mb"] > 1 and entry["first"] > 0 for entry in cost.values())
    assert "seconds a frame" in capsys.readouterr().out
