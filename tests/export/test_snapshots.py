"""Edits by the snapshots of a run, through Python and the command line."""

import shutil

import numpy as np
import pytest
from PIL import Image

import tav_sdk
from tav_sdk.bundle.bundle import Bundle
from tav_sdk.errors import CheckpointError, InputError, PromptError, VideoError
from tav_sdk.export import export_clip
from tav_sdk.training import TuneConfig, compare_snapshots, load_run, tune

CAPTION = "a red square is moving over the meadow"
FEW = {"num_inference_steps": 2, "guidance_scale": 4.0}


@pytest.fixture(scope="module")
def run(made_once, tiny_base, clip_path):
    """Three steps of tuning, a snapshot of each; do not write into it."""

    def make(path):
        tune(
            TuneConfig(
                base=str(tiny_base),
                video=str(clip_path),
                prompt=CAPTION,
                out=str(path),
                num_frames=4,
                height=64,
                width=64,
                num_train_steps=3,
                checkpointing_steps=1,
                learning_rate=1e-2,
            )
        )

    return load_run(made_once("run_with_snapshots", make))


@pytest.fixture
def run_copy(run, tmp_path):
    return shutil.copytree(run.folder, tmp_path / "run")


def test_the_source_comes_first_and_then_a_row_for_each_prompt_and_step(run):
    seen = []
    rows = compare_snapshots(run, ["a man", "a cat"], steps=[3, 1], **FEW, callback=seen.append)
    assert list(rows) == [f"source: {CAPTION}", *(f"step {n}: {text}" for text in ("a man", "a cat") for n in (1, 3))]
    assert {video.frames.shape for video in rows.values()} == {(4, 64, 64, 3)}
    assert (rows["step 1: a man"].frames != rows["step 3: a man"].frames).any()
    steps = [(step.stage, step.item.name) for step in seen if step.stage in ("inversion", "sampling")]
    assert steps[::2] == [(stage, f"step {n}") for n in (1, 3) for stage in ("inversion", "sampling", "sampling")]


def test_it_is_what_a_bundle_of_that_step_gives(run, tiny_bundle, tmp_path):
    row = compare_snapshots(run, ["a man"], steps=[2], adapter_scale=0.5, **FEW)["step 2, scale 0.5: a man"]
    bundle = export_clip(run.at(2), tmp_path / "bundle", bundle=tiny_bundle)
    assert Bundle(bundle).manifest.provenance["tuning"]["num_train_steps"] == 2
    with tav_sdk.load(bundle, engine="onnxruntime-cpu", cache=False, adapter_scale=0.5) as pipeline:
        clip = tav_sdk.read_video(run.config.video, num_frames=4, size=(64, 64))
        video = pipeline.edit("a man", pipeline.invert(clip, num_inversion_steps=2), **FEW)
    assert np.abs(video.frames.astype(int) - row.frames).max() <= 2


def test_at_scale_0_every_step_is_the_base(run):
    rows = compare_snapshots(run, ["a man"], adapter_scale=0, **FEW)
    assert len(rows) == 4
    for step in (2, 3):
        np.testing.assert_array_equal(
            rows[f"step {step}, scale 0: a man"].frames, rows["step 1, scale 0: a man"].frames
        )


def test_nothing_to_edit_is_refused(run):
    with pytest.raises(PromptError, match="the list of prompts is empty; give at least one"):
        compare_snapshots(run, [])
    with pytest.raises(InputError, match=r"adapter_scale must be from 0 \(the base\) to 2, got -1"):
        compare_snapshots(run, ["a man"], adapter_scale=-1)


def test_a_clip_that_is_gone_or_another_is_refused(run_copy, tmp_path, clip_path):
    import json

    record = json.loads((run_copy / "run.json").read_text())
    for change, text in (
        ({"video": str(tmp_path / "gone.mp4")}, r"gone.mp4.*; give the run's clip as video"),
        ({"start": 3}, "clip.mp4 is not the clip that the run was tuned on; give that one as video"),
    ):
        config = {**record["config"], **change}
        (run_copy / "run.json").write_text(json.dumps({**record, "config": config}))
        with pytest.raises(VideoError, match=text):
            compare_snapshots(load_run(run_copy), ["a man"])
    compare_snapshots(load_run(run_copy), ["a man"], steps=[3], video=clip_path, **FEW)


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def refused(tav):
    """``refused(text, ...)``: the command ends with 2 and a message that has the text in it."""

    def check(text, *args):
        result = tav("compare", *args)
        assert result.exit_code == 2
        assert text in result.stderr
        assert "Traceback" not in result.stderr

    return check


def test_the_picture_is_written(tav, run_copy, tmp_path):
    few = ("--num-inference-steps", 2, "--prompt", "a man")
    result = tav("compare", run_copy, "--steps", "3,1", *few)
    assert result.exit_code == 0, result.stderr
    assert "written to" in result.stderr
    assert f"next: tav export {run_copy} --step STEP --out BUNDLE" in result.stderr
    two = Image.open(run_copy / "compare.png").size
    result = tav("compare", run_copy, *few, "--out", tmp_path / "new" / "all.png", "--adapter-scale", 0.5)
    assert result.exit_code == 0, result.stderr
    assert Image.open(tmp_path / "new" / "all.png").size[1] > two[1]


def test_a_picture_that_is_there_is_replaced_only_when_asked(tav, refused, run_copy):
    (run_copy / "compare.png").write_bytes(b"mine")
    few = ("--num-inference-steps", 1, "--steps", 1, "--prompt", "a man")
    text = "compare.png is there already; choose another file, or set overwrite to replace it"
    refused(text, run_copy, *few)
    refused("is a folder; expected the name of a file", run_copy, *few, "--out", folder_called("x.png", run_copy))
    assert (run_copy / "compare.png").read_bytes() == b"mine"
    result = tav("compare", run_copy, *few, "--overwrite")
    assert result.exit_code == 0, result.stderr
    assert Image.open(run_copy / "compare.png").size[1] > 0


def folder_called(name, parent):
    (parent / name).mkdir()
    return parent / name


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((), "the list of prompts is empty; give at least one --prompt"),
        (("--prompt", " "), "a --prompt is empty; say what the edit shows"),
        (
            ("--prompt", "x", "--steps", "1,b"),
            "--steps must be whole numbers with commas between, such as 100,200, got '1,b'",
        ),
        (
            ("--prompt", "x", "--steps", "1,7"),
            "has no snapshot of step 7: it has snapshots of the steps 1, 2 and the last, 3",
        ),
        (("--prompt", "x", "--out", "sheet.jpg"), "--out must be a .png, got sheet.jpg"),
        (("--prompt", "x", "--adapter-scale", "9"), "--adapter-scale must be from 0 (the base) to 2, got 9.0"),
        (("--prompt", "x", "--num-inference-steps", "0"), "num_inference_steps must be between 1 and 1000, got 0"),
        (("--prompt", "x", "--guidance-scale", "nan"), "guidance_scale must be a finite number, got nan"),
        (("--prompt", "x", "--device", "abacus"), "the device 'abacus' cannot be used here"),
    ],
)
def test_bad_options_are_refused(refused, run_copy, options, text):
    refused(text, run_copy, *options)
    assert not (run_copy / "compare.png").exists()


def test_a_run_without_snapshots_says_how_to_get_some(refused, tiny_run):
    text = "has no snapshots, only its last step, 2; tune again with --checkpointing-steps 1, or look at that step"
    refused(text, tiny_run, "--prompt", "x")


def test_an_unfinished_run_is_refused(refused, tmp_path):
    (tmp_path / ".run.partial").mkdir()
    refused("it was started but not finished: tune again with resume", tmp_path / "run", "--prompt", "x")


def test_a_damaged_snapshot_is_refused(run_copy):
    (run_copy / "snapshots" / "step-000001.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"step-000001.safetensors cannot be read"):
        compare_snapshots(load_run(run_copy), ["a man"], steps=[1])


def test_a_snapshot_is_exported(tav, run, tiny_bundle, tmp_path):
    result = tav("export", run.folder, "--step", 2, "--bundle", tiny_bundle, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    written = Bundle(tmp_path / "out").manifest.tuned_sha256
    assert written == run.at(2).record["tuned_sha256"] != run.record["tuned_sha256"]
    result = tav("export", run.folder, "--step", 9, "--bundle", tiny_bundle, "--out", tmp_path / "other")
    assert result.exit_code == 2
    assert "has no snapshot of step 9" in result.stderr
