"""From a video file to an edited video file, through the command line and through Python."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tav_sdk


@pytest.fixture(scope="module")
def bundle(made_once, tiny_base, clip_path, traced_once):
    """A run and a bundle made by the command line."""
    from typer.testing import CliRunner

    from tav_sdk.cli.app import app

    def make(path) -> None:
        path.mkdir()
        where = ["--base", tiny_base, "--video", clip_path, "--prompt", "a red square is moving", "--out", path / "run"]
        frames = ["--frames", "4", "--stride", "2", "--height", "32", "--width", "48"]
        how = ["--num-train-steps", "3", "--learning-rate", "1e-3", "--seed", "1"]
        # The graph of longer videos has tests of its own.
        exporting = ["export", path / "run", "--out", path / "bundle", "--no-windows"]
        for command in (["tune", *where, *frames, *how], exporting):
            result = CliRunner().invoke(app, [str(part) for part in command])
            assert result.exit_code == 0, result.output

    return made_once("end_to_end", make) / "bundle"


def test_a_clip_is_edited_as_it_was_tuned(tav, bundle, clip_path, work):
    steps = ("--num-inversion-steps", 3, "--num-inference-steps", 3)
    result = tav("edit", bundle, "--video", clip_path, "--prompt", "a blue circle", "--out", work / "out", *steps)
    assert result.exit_code == 0, result.stderr
    for name in ("00.mp4", "source.mp4"):
        info = tav_sdk.probe(work / "out" / name)
        assert (info.num_frames, info.height, info.width, info.fps) == (4, 32, 48, 4.0)


def test_a_clip_is_generated_from_noise(tav, bundle, work):
    result = tav("generate", bundle, "--prompt", "a panda", "--num-inference-steps", 3, "--out", work / "out")
    assert result.exit_code == 0, result.stderr
    info = tav_sdk.probe(work / "out" / "00.mp4")
    assert (info.num_frames, info.height, info.width, info.fps) == (4, 32, 48, 4.0)


def test_info_tells_the_way_of_a_bundle(tav, bundle):
    facts = json.loads(tav("info", bundle, "--json").stdout)
    assert facts["prompt"] == "a red square is moving"
    assert facts["clip"] == {"frames": 4, "height": 32, "width": 48}


def test_python_gives_what_the_command_line_gives(tav, bundle, clip_path, work):
    steps = ("--num-inversion-steps", 3, "--num-inference-steps", 3)
    tav("edit", bundle, "--video", clip_path, "--prompt", "a blue circle", "--out", work / "out", *steps)
    with tav_sdk.load(bundle) as pipeline:
        clip = tav_sdk.read_video(clip_path, num_frames=4, stride=2, size=(32, 48))
        inversion = pipeline.invert(clip, num_inversion_steps=3)
        video = pipeline.edit("a blue circle", inversion, num_inference_steps=3)
    video.save(work / "python.mp4")
    np.testing.assert_array_equal(
        tav_sdk.read_video(work / "python.mp4").frames, tav_sdk.read_video(work / "out" / "00.mp4").frames
    )
