from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from tav_sdk.evaluation.evaluate import DEFINITIONS, DEFINITIONS_VERSION
from tav_sdk.files import sha256_of
from tav_sdk.pocket import CLIP, sample_clips
from tav_sdk.video.clip import Video, read_video

CLIPS = sample_clips()
PAIRS = {"00.mp4": CLIPS["car-road"].caption, "01.mp4": CLIPS["elephant-desert"].caption}
FILES = ["00.mp4", "01.mp4", "edits.json", "source.mp4"]


@pytest.fixture
def edits(work) -> Path:
    """A folder as ``tav edit`` writes it; both edits move as the source does."""
    folder = work / "edits"
    folder.mkdir()
    for name, clip in {"00": "car-road", "01": "elephant-desert", "source": "horse-snow"}.items():
        shutil.copy(CLIPS[clip].path, folder / f"{name}.mp4")
    entries = [{"file": file, "prompt": prompt} for file, prompt in PAIRS.items()]
    (folder / "edits.json").write_text(json.dumps({"guidance_scale": 12.5, "edits": entries}))
    return folder


@pytest.fixture
def scores(tav):
    """``scores(folder, ...)``: the parsed result."""

    def run(*args: object):
        result = tav("evaluate", *args, "--json")
        assert result.exit_code == 0, result.stderr
        assert result.stderr == ""
        return json.loads(result.stdout)

    return run


@pytest.fixture
def refused(tav, work):
    """``refused(text, *args)``: the command prints one message that has ``text`` in it, and writes nothing."""

    def check(text: str, *args: object) -> None:
        before = sorted(work.rglob("*"))
        result = tav("evaluate", *args)
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith("error: ")
        assert text in result.stderr
        assert result.stdout == ""
        assert sorted(work.rglob("*")) == before

    return check


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- what comes out -------------------------------------------------------------------------------------------------


def test_a_table_with_means_at_the_end(tav, edits):
    result = tav("evaluate", edits)
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["file", "prompt", "clip_text", "clip_frame", "clip_adjacent", "motion"]
    assert lines[1][:4] == ["00.mp4", "a", "red", "car"]
    assert lines[-1][0] == "mean"
    assert float(lines[-1][1]) > 85
    assert f"written to {edits / 'scores.json'}" in result.stderr


def test_what_is_written(tav, edits):
    printed = json.loads(tav("evaluate", edits, "--json").stdout)
    assert names(edits) == sorted([*FILES, "scores.json", "scores.png"])
    document = json.loads((edits / "scores.json").read_text(encoding="utf-8"))
    assert document == printed
    assert document["definitions_version"] == DEFINITIONS_VERSION
    assert document["definitions"] == DEFINITIONS
    assert document["clip"] == {"name": "pocket", "sha256": sha256_of(CLIP / "model.safetensors")}
    assert document["source"] == "source.mp4"
    assert [(one["file"], one["prompt"]) for one in document["videos"]] == list(PAIRS.items())
    assert all(one["motion"] > 0.99 and one["notes"] == {} for one in document["videos"])
    mean = np.mean([one["clip_text"] for one in document["videos"]])
    assert document["means"]["clip_text"] == pytest.approx(mean)
    with Image.open(edits / "scores.png") as sheet:
        assert sheet.height > 3 * 64


def test_another_folder_for_the_scores(scores, edits, work):
    scores(edits, "--out", work / "new" / "scores")
    assert names(edits) == FILES
    assert names(work / "new" / "scores") == ["scores.json", "scores.png"]


def test_its_own_files_are_replaced(scores, edits):
    (edits / "scores.json").write_text("old")
    assert scores(edits) == json.loads((edits / "scores.json").read_text(encoding="utf-8"))


def test_without_a_source_motion_is_not_defined(tav, edits):
    (edits / "source.mp4").unlink()
    result = tav("evaluate", edits)
    assert "- motion: there is no source to compare with" in result.stdout
    assert result.stdout.splitlines()[1].split()[-1] == "-"
    document = json.loads((edits / "scores.json").read_text(encoding="utf-8"))
    assert document["source"] is document["means"]["motion"] is document["videos"][0]["motion"] is None
    assert document["videos"][0]["notes"] == {"motion": "there is no source to compare with"}


def test_a_source_of_another_size(scores, edits):
    large = read_video(CLIPS["bus-beach"].path, size=(96, 128))
    large.save(edits / "other.mp4")
    document = scores(edits, "--source", edits / "other.mp4")
    assert document["source"] == "other.mp4"
    assert document["means"]["motion"] < -0.98  # the bus goes left


def test_true_positions(scores, edits, work):
    (work / "p.json").write_text(json.dumps(CLIPS["penguin-snow"].centers.tolist()))
    assert scores(edits, "--positions", work / "p.json")["means"]["motion"] < -0.99


def test_a_reconstruction_is_compared_with_the_source(tav, edits):
    source = read_video(edits / "source.mp4")
    off = source.frames + np.where(source.frames < 128, 4, -4)
    Video(frames=off.astype(np.uint8), fps=8).save(edits / "reconstruction.mp4")
    result = tav("evaluate", edits)
    psnr = json.loads((edits / "scores.json").read_text(encoding="utf-8"))["reconstruction_psnr"]
    assert 30 < psnr < 37
    assert f"reconstruction_psnr {psnr:.1f} dB" in result.stdout


def test_an_equal_reconstruction_is_said_in_words(scores, edits):
    document = scores(edits, "--reconstruction", edits / "source.mp4")
    assert document["reconstruction_psnr"] is None
    assert document["notes"] == {"reconstruction_psnr": "infinite: the reconstruction equals the source"}


# --- prompts --------------------------------------------------------------------------------------------------------

WELL_FORMED = {
    "spaces.csv": 'file, prompt\n00.mp4,"a car, at night"\n01.mp4, a pig\n',
    "a.csv": '\ufeffprompt,file\n"a car, at night",00.mp4\na pig,01.mp4\n',
    "mapping.json": '{"00.mp4": "a car, at night", "01.mp4": "a pig"}',
    "list.json": '[{"file": "00.mp4", "prompt": "a car, at night"}, {"file": "01.mp4", "prompt": "a pig"}]',
    "edits.json": '{"seed": 1, "edits": [{"file": "00.mp4", "prompt": "a car, at night", "seconds": 1},'
    ' {"file": "01.mp4", "prompt": "a pig"}]}',
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_prompts_from_a_file(scores, edits, work, name):
    (edits / "edits.json").unlink()
    (work / name).write_text(WELL_FORMED[name], encoding="utf-8")
    videos = scores(edits, "--prompts", work / name)["videos"]
    assert [(one["file"], one["prompt"]) for one in videos] == [("00.mp4", "a car, at night"), ("01.mp4", "a pig")]


BAD = {
    "header.csv": ("video,prompt\n00.mp4,x\n", "expected the header file,prompt, got video,prompt"),
    "empty.csv": ("", "expected the header file,prompt, got nothing"),
    "none.csv": ("file,prompt\n", "names no video; give at least one file with its prompt"),
    "comma.csv": ("file,prompt\n00.mp4,a panda, cartoon\n", "line 2: expected two values, file and prompt"),
    "short.csv": ("file,prompt\n00.mp4\n", "line 2: expected two values, file and prompt"),
    "blank.csv": ("file,prompt\n00.mp4, \n", "the prompt of 00.mp4 is empty"),
    "missing.csv": ("file,prompt\n07.mp4,x\n", "names '07.mp4', and"),
    "missing.json": ('{"07.mp4": "x"}', "names '07.mp4', and"),
    "broken.json": ("{", "is not valid JSON"),
    "text.json": ('"x"', 'expected {"FILE": "PROMPT", ...} or [{"file": ..., "prompt": ...}, ...]'),
    "key.json": ('[{"file": "00.mp4", "prompt": "x", "promt": "y"}]', "unknown key 'promt'"),
    "number.json": ('{"00.mp4": 3}', "expected texts for file and prompt, got"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_prompt_file_that_cannot_be_used(refused, edits, work, name):
    content, text = BAD[name]
    (work / name).write_text(content)
    refused(text, edits, "--prompts", work / name)


# --- other bad input ------------------------------------------------------------------------------------------------


def test_no_folder(refused, work):
    refused("there is no folder of edits", work / "nothing")


def test_no_prompts(refused, edits):
    (edits / "edits.json").unlink()
    refused("has no edits.json; say what each video shows with --prompts FILE.csv", edits)


def test_no_prompt_file(refused, edits, work):
    refused(f"there is no prompt file {work / 'p.csv'}", edits, "--prompts", work / "p.csv")


def test_a_prompt_file_that_is_no_text(refused, edits, work):
    (work / "p.csv").write_bytes(b"\xff\xfe\x00")
    refused("is not text in UTF-8", edits, "--prompts", work / "p.csv")


def test_a_video_that_cannot_be_read(refused, edits):
    (edits / "01.mp4").write_text("no video")
    refused("01.mp4 is not a video", edits)


def test_no_such_source(refused, edits, work):
    refused(f"{work / 'clip.mp4'}", edits, "--source", work / "clip.mp4")


def test_two_sources(refused, edits):
    shutil.copy(edits / "source.mp4", edits / "source.mov")
    refused("has source.mov, source.mp4; say which with --source", edits)


def test_a_source_of_another_length_leaves_the_other_measures(scores, edits):
    read_video(edits / "source.mp4", num_frames=5).save(edits / "source.mp4")
    document = scores(edits)
    assert document["means"]["motion"] is None
    assert document["means"]["clip_text"] > 80
    assert "the video has 8 frames, the source 5" in document["videos"][0]["notes"]["motion"]


def test_a_reconstruction_of_another_size_is_not_compared(scores, edits):
    read_video(edits / "source.mp4", size=(32, 32)).save(edits / "reconstruction.mp4")
    document = scores(edits)
    assert document["reconstruction_psnr"] is None
    assert "the source is 8 frames of 64x64, the reconstruction 8 frames of 32x32" in str(document["notes"])


def test_a_reconstruction_without_a_source(refused, edits):
    (edits / "source.mp4").rename(edits / "reconstruction.mp4")
    refused("is compared with the source, and", edits)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[[1, 2, 3]]", "p.json: expected a list of [x, y], one for each frame"),
        ("{", "is not valid JSON"),
        ("[[0.1, 0.2]]", "the video has 8 frames, the list of positions 1"),
        (None, "there is no file of positions"),
    ],
)
def test_positions_that_cannot_be_used(refused, edits, work, content, text):
    if content is not None:
        (work / "p.json").write_text(content)
    refused(text, edits, "--positions", work / "p.json")


def test_a_clip_that_cannot_be_found(refused, edits, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("there is no folder openai/none, and no CLIP of that name", edits, "--clip", "openai/none")


def test_the_output_is_a_file(refused, edits):
    refused("is a file; give the path of a folder to write", edits, "--out", edits / "00.mp4")


def test_without_torch_the_extra_is_named(refused, edits, monkeypatch):
    monkeypatch.delitem(sys.modules, "tav_sdk.training.clip_scorer", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    refused("tav evaluate needs the module 'torch', which is not installed. Install it with: pip install \"tav", edits)


def test_the_help_shows_an_example(tav):
    assert "tav evaluate out --clip openai/clip-vit-large-patch14" in tav("evaluate", "--help").stdout
