"""``tav demo``, with few steps."""

from __future__ import annotations

import json

QUICK = ("--num-train-steps", 1, "--num-inference-steps", 2)


def test_it_writes_the_source_the_edits_a_sheet_and_a_report(tav, work):
    result = tav("demo", "--out", work / "demo", *QUICK)
    assert result.exit_code == 0, result.stderr
    names = {path.name for path in (work / "demo" / "edits").iterdir()}
    assert {"source.mp4", "00.mp4", "01.mp4", "02.mp4", "03.mp4", "reconstruction.mp4", "sheet.png"} <= names
    report = json.loads((work / "demo" / "report.json").read_text())
    assert [entry["kind"] for entry in report["edits"]["edits"]] == ["subject", "background", "attribute", "style"]
    assert report["edits"]["guidance_scale"] == 3.5
    assert set(report["seconds"]) == {"tune", "export", "edit", "evaluate"}
    assert "the pictures:" in result.stderr


def test_a_clip_and_edits_of_ones_own(tav, work, clip_path, tiny_base):
    options = ("--base", tiny_base, "--frames", 2, "--stride", 4, "--edit", "a blue circle")
    caption = "a red square is moving over the meadow"
    result = tav("demo", "--out", work / "demo", "--video", clip_path, "--prompt", caption, *options, *QUICK)
    assert result.exit_code == 0, result.stderr
    report = json.loads((work / "demo" / "report.json").read_text())
    assert report["caption"] == caption
    assert [entry["prompt"] for entry in report["edits"]["edits"]] == ["a blue circle"]


def test_a_clip_of_ones_own_needs_its_caption(tav, work, clip_path):
    result = tav("demo", "--out", work / "demo", "--video", clip_path)
    assert result.exit_code == 2
    assert "give --prompt, what the clip shows" in result.stderr
    assert list(work.iterdir()) == []


def test_a_caption_without_a_clip_is_refused(tav, work):
    result = tav("demo", "--out", work / "demo", "--prompt", "a man is skiing")
    assert result.exit_code == 2
    assert "--prompt is what a clip of yours shows; give --video too" in result.stderr


def test_an_unknown_sample_is_refused(tav, work):
    result = tav("demo", "--out", work / "demo", "--sample", "dog-moon")
    assert result.exit_code == 2
    assert "there is no sample clip 'dog-moon'; there are: car-road" in result.stderr


def test_a_former_demo_may_be_kept(tav, work):
    (work / "demo" / "run").mkdir(parents=True)
    (work / "demo" / "run" / "notes.txt").write_text("mine")
    result = tav("demo", "--out", work / "demo", "--no-overwrite", *QUICK)
    assert result.exit_code == 2
    assert "is not empty" in result.stderr
    assert (work / "demo" / "run" / "notes.txt").read_text() == "mine"
