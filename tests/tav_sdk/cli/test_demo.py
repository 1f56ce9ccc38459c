"""``tav demo``, with few steps."""

from __future__ import annotations

import functools
import json

import pytest

from tav_sdk.pocket import sample_clip, sample_clips

QUICK = ("--num-train-steps", 1, "--num-inference-steps", 2)


@pytest.fixture
def no_windows(monkeypatch, traced_once):
    """Exports leave out the graph of longer videos, which takes as long as the rest and which no demo runs."""
    from tav_sdk import export

    monkeypatch.setattr(
        export, "export_bundle", functools.partial(export.export_bundle, options=export.ExportOptions(windows=False))
    )


def test_it_writes_the_source_the_edits_a_sheet_and_a_report(tav, work, no_windows):
    result = tav("demo", "--out", work / "demo", *QUICK)
    assert result.exit_code == 0, result.stderr
    names = {path.name for path in (work / "demo" / "edits").iterdir()}
    assert {"source.mp4", "00.mp4", "01.mp4", "02.mp4", "03.mp4", "reconstruction.mp4", "sheet.png"} <= names
    report = json.loads((work / "demo" / "report.json").read_text())
    assert [row["kind"] for row in report["edits"]] == ["subject", "background", "attribute", "style"]
    assert all(0 < row["clip_text"] <= 100 for row in report["edits"])
    assert (report["editing"]["guidance_scale"], report["tuning"]["num_train_steps"]) == (3.5, 1)
    assert set(report["seconds"]) == {"tune", "export", "edit", "evaluate", "total"}
    assert report["reconstruction_psnr"] > 0
    assert "the pictures:" in result.stderr
    assert (work / "demo" / "clip.mp4").read_bytes() == sample_clip("car-road").path.read_bytes()


def test_a_clip_and_edits_of_ones_own(tav, work, clip_path, tiny_base, no_windows):
    options = ("--base", tiny_base, "--frames", 4, "--stride", 2, "--edit", "a blue circle")
    caption = "a red square is moving over the meadow"
    result = tav("demo", "--out", work / "demo", "--video", clip_path, "--prompt", caption, *options, *QUICK)
    assert result.exit_code == 0, result.stderr
    report = json.loads((work / "demo" / "report.json").read_text())
    assert report["caption"] == caption
    assert [row["prompt"] for row in report["edits"]] == ["a blue circle"]
    assert "Pocket knows only its own small world" not in result.stderr


def test_a_clip_of_ones_own_needs_its_caption(tav, work, clip_path):
    result = tav("demo", "--out", work / "demo", "--video", clip_path)
    assert result.exit_code == 2
    assert "give --prompt, what the clip shows" in result.stderr
    assert list(work.iterdir()) == []


def test_a_caption_without_a_clip_is_refused(tav, work):
    result = tav("demo", "--out", work / "demo", "--prompt", "a man is skiing")
    assert result.exit_code == 2
    assert "--prompt is what a clip of yours shows; give it with --video" in result.stderr


def test_an_unknown_sample_is_refused(tav, work):
    result = tav("demo", "--out", work / "demo", "--sample", "dog-moon")
    assert result.exit_code == 2
    assert "there is no sample clip 'dog-moon'; there are: car-road" in result.stderr


def test_a_folder_with_something_in_it_is_kept(tav, work):
    (work / "demo" / "run").mkdir(parents=True)
    (work / "demo" / "run" / "notes.txt").write_text("mine")
    result = tav("demo", "--out", work / "demo", *QUICK)
    assert result.exit_code == 2
    assert "is not empty" in result.stderr
    assert (work / "demo" / "run" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--num-inference-steps", 0), "--num-inference-steps must be a whole number from 1 to 1000, got 0"),
        (("--edit", " "), "an --edit is empty; say what the new video shows"),
        (("--sample", "pig-grass", "--video", "clip.mp4", "--prompt", "x"), "give --sample or --video, not both"),
        (("--video", "nowhere.mp4", "--prompt", "x"), "nowhere.mp4"),
        (("--base", "nowhere"), "there is no base model folder nowhere"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tav, work, options, text):
    result = tav("demo", "--out", work / "demo", *options)
    assert result.exit_code == 2
    assert text in result.stderr
    assert list(work.iterdir()) == []


def test_a_real_clip_on_pocket_is_noted(tav, work, tmp_path):
    (tmp_path / "clip.mp4").write_text("no video")
    result = tav("demo", "--out", work / "demo", "--video", tmp_path / "clip.mp4", "--prompt", "a man")
    assert "note: Pocket knows only its own small world; for a real clip give a Stable Diffusion" in result.stderr


def test_an_interrupt_says_what_is_left(tav, work, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("tav_sdk.export.export_bundle", interrupted)
    result = tav("demo", "--out", work / "demo", *QUICK)
    assert result.exit_code == 2
    assert f"interrupted; what was finished is in {work / 'demo'}; the same command with --overwrite" in result.stderr


def test_the_help_names_every_sample(tav):
    text = tav("demo", "--help").stdout
    assert all(name in text.replace("\n", " ") for name in sample_clips())
