"""The gate on edits in low precision, on a tiny base that brings Pocket's CLIP. It draws noise, but always the same."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.graph_folder import file_entries
from tav_sdk.bundle.layout import UNET, WEIGHTS_FILE, WINDOWED_UNET
from tav_sdk.errors import CancelledError, ParityError, QualityError
from tav_sdk.export import ExportOptions, export_bundle
from tav_sdk.export.graphs import GraphContract
from tav_sdk.export.int8 import quantize
from tav_sdk.export.quality import QUALITY_TOLERANCES, QualityTolerance, check_edit_quality, check_tolerance
from tav_sdk.pocket import CLIP
from tav_sdk.training import load_run
from tav_sdk.training.base.model import PretrainedBase

GOOD = {"psnr": 40.0, "clip_text": 90.0, "clip_text_fp32": 90.0}


@pytest.fixture
def embedded(base_copy) -> PretrainedBase:
    """A tiny base with a CLIP of its own."""
    shutil.copytree(CLIP, base_copy / "clip")
    return PretrainedBase(base_copy)


@pytest.fixture
def bundle(bundle_copy) -> Path:
    """``tiny_bundle`` that says of itself that it is in int8, and makes edits in two steps."""
    return relabel(bundle_copy, "int8", UNET)


@pytest.fixture
def run(tiny_run):
    return load_run(tiny_run)


def relabel(folder, precision, *graphs):
    """Rewrite a manifest after the files; two steps are enough here."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest |= {"precision": precision, "num_inference_steps": 2, "guidance_scale": 3.0}
    for name in graphs:
        manifest["graphs"][name]["precision"] = precision
    manifest["files"] = {name: entry.model_dump() for name, entry in file_entries(folder).items()}
    path.write_text(json.dumps(manifest))
    return folder


def drop_windows(folder):
    """Make it a bundle without the graph that goes on window by window, as those in int8 are."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    (folder / manifest["graphs"].pop(WINDOWED_UNET)["file"]).unlink()
    path.write_text(json.dumps(manifest))


def damage(folder, change):
    """Change the frozen weights of the bundle's U-Net."""
    path = folder / UNET / WEIGHTS_FILE
    weights = np.fromfile(path, np.float32)
    change(weights).tofile(path)


def moved(run):
    """The run, with its clip's file no longer there."""
    record = {**run.record, "config": {**run.record["config"], "video": "gone.mp4"}}
    return dataclasses.replace(run, record=record)


# --- what passes ----------------------------------------------------------------------------------------------------


def test_equal_edits_pass(bundle, run, embedded):
    quality = check_edit_quality(bundle, run, embedded)
    assert quality is not None
    assert quality.keys() == GOOD.keys()
    assert 60 < quality["psnr"] <= 99
    assert quality["clip_text"] == pytest.approx(quality["clip_text_fp32"], abs=0.1)


def test_a_quantised_graph_is_measured(bundle, run, embedded, monkeypatch):
    """Random weights make more of an error than trained ones."""
    monkeypatch.setitem(QUALITY_TOLERANCES, "int8", QualityTolerance(psnr=15, clip_text=0.1))
    graph = Bundle(bundle).graph(UNET)
    contract = GraphContract(name=UNET, inputs=graph.inputs, outputs=graph.outputs)
    states = contract.dummy_feeds(axis_length=1)["encoder_hidden_states"]
    quantize(graph.path, contract, Bundle(bundle).schedule, states)
    drop_windows(bundle)  # it reads the weights that were quantised
    quality = check_edit_quality(relabel(bundle, "int8", UNET), run, embedded)
    assert quality is not None
    assert 15 < quality["psnr"] < 60


def test_videos_are_made_from_noise_where_the_clip_is_gone(bundle, run, embedded):
    here, gone = check_edit_quality(bundle, run, embedded), check_edit_quality(bundle, moved(run), embedded)
    assert here is not None
    assert gone is not None
    assert gone["psnr"] > 60
    assert gone["clip_text"] != here["clip_text"]


@pytest.mark.parametrize(("precision", "most"), [("fp16", 90), ("bf16", 70)])
def test_half_precision_is_rounded_as_on_a_gpu(
    precision, most, made_once, tiny_run, traced_once, run, embedded, tmp_path, monkeypatch
):
    """Random weights make more of an error than trained ones."""
    monkeypatch.setitem(QUALITY_TOLERANCES, precision, QualityTolerance(psnr=25, clip_text=0.1))
    shared = made_once(
        f"{precision}_bundle",
        lambda path: export_bundle(tiny_run, path, ExportOptions(precision=precision, windows=precision == "fp16")),
    )
    bundle = relabel(shutil.copytree(shared, tmp_path / "bundle"), precision)
    before = sorted(bundle.rglob("*"))
    quality = check_edit_quality(bundle, run, embedded)
    assert quality is not None
    assert 25 < quality["psnr"] < most
    assert sorted(bundle.rglob("*")) == before


def test_a_base_without_a_clip_is_not_checked(bundle, run, tiny_base, caplog):
    with caplog.at_level(logging.INFO):
        assert check_edit_quality(bundle, run, PretrainedBase(tiny_base)) is None
    assert "has no CLIP of its own: edits in low precision are not compared" in caplog.text


def test_a_callback_sees_the_videos_and_cancels(bundle, run, embedded):
    seen = []

    def callback(step):
        seen.append((step.stage, step.step))
        return len(seen) < 2

    with pytest.raises(CancelledError, match="quality was cancelled after step 2 of 10"):
        check_edit_quality(bundle, run, embedded, callback=callback)
    assert seen == [("quality", 1), ("quality", 2)]


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_damaged_graph_is_refused(bundle, run, embedded):
    damage(bundle, lambda weights: weights * np.float32(0.7))
    text = (
        r"edits in int8 differ from those of the float32 model: PSNR \d+\.\d dB, tolerance 28 dB; nothing was written. "
        "Export with precision fp16 or fp32"
    )
    with pytest.raises(QualityError, match=text):
        check_edit_quality(bundle, run, embedded)


def test_a_graph_that_gives_nan_is_refused(bundle, run, embedded):
    damage(bundle, lambda weights: np.full_like(weights, np.nan))
    with pytest.raises(QualityError, match=r"returned NaN or infinity in 'out_sample'.*nothing was written"):
        check_edit_quality(bundle, run, embedded)


@pytest.mark.parametrize("precision", QUALITY_TOLERANCES)
def test_what_is_within_the_tolerance_passes(precision):
    check_tolerance(precision, {**GOOD, "psnr": QUALITY_TOLERANCES[precision].psnr, "clip_text": 88.3})


def test_a_lower_score_is_refused():
    text = (
        "edits in int8 show their prompts less well than those of the float32 model: clip_text 88.00 instead of 90.00, "
        "tolerance 2% less; nothing was written. Export with precision fp16 or fp32"
    )
    with pytest.raises(QualityError, match=text):
        check_tolerance("int8", {**GOOD, "clip_text": 88.0})


@pytest.mark.parametrize("name", ["psnr", "clip_text"])
def test_nan_is_refused(name):
    with pytest.raises(ParityError, match="edits in int8"):
        check_tolerance("int8", {**GOOD, name: float("nan")})
