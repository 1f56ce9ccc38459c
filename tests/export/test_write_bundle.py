import json
import shutil

import numpy as np
import onnx
import pytest

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import GRAPHS, TUNED_FILE, UNTUNED_FILE, WINDOWED_UNET
from tav_sdk.bundle.precision import TOLERANCES
from tav_sdk.errors import BaseModelError, CancelledError, OutputError, ParityError, QualityError
from tav_sdk.export import ExportOptions, export_bundle, write_bundle
from tav_sdk.export.int8 import STEPS
from tav_sdk.training import load_run
from tav_sdk.training.checkpoint import tuned_names

pytestmark = pytest.mark.usefixtures("traced_once")


def test_a_bundle_has_five_graphs_each_compared_with_its_model(tiny_bundle):
    manifest = Bundle(tiny_bundle).manifest
    assert list(manifest.graphs) == [*GRAPHS, WINDOWED_UNET]
    for graph in manifest.graphs.values():
        assert graph.parity_max_abs is not None
        assert 0 <= graph.parity_max_abs < 1e-4


def test_the_unet_contract_is_diffusers_names(tiny_bundle):
    manifest = Bundle(tiny_bundle).manifest
    unet = manifest.graphs["unet"]
    assert [tensor.name for tensor in unet.inputs] == ["sample", "timestep", "encoder_hidden_states"]
    assert [tensor.name for tensor in unet.outputs] == ["out_sample"]
    assert unet.inputs[0].shape == ("batch", *manifest.latents_shape[1:])


def test_the_tuned_weights_alone_are_in_their_file(tiny_bundle, tiny_run):
    model = onnx.load(tiny_bundle / "unet" / "model.onnx", load_external_data=False)
    tuned = [
        tensor.name
        for tensor in model.graph.initializer
        if any(entry.key == "location" and entry.value == TUNED_FILE for entry in tensor.external_data)
    ]
    assert sorted(tuned) == tuned_names(load_run(tiny_run).tuned_path)


def test_the_bases_values_of_tuned_weights_are_in_a_file_of_their_own(tiny_bundle, tiny_base):
    from safetensors.numpy import load_file

    stored = load_file(tiny_bundle / "unet" / UNTUNED_FILE)
    unet = load_file(tiny_base / "unet" / "diffusion_pytorch_model.safetensors")
    entry = Bundle(tiny_bundle).manifest.graphs["unet"]
    tuned = {tensor.name for tensor in entry.tuned if ".attn_temp." not in tensor.name}
    assert tuned
    assert set(stored) == tuned == {tensor.name for tensor in entry.untuned}
    for name, tensor in stored.items():
        np.testing.assert_array_equal(tensor, unet[name])
    assert UNTUNED_FILE not in (tiny_bundle / "unet" / "model.onnx").read_bytes().decode(errors="ignore")


def test_attention_is_made_of_static_gathers(tiny_bundle):
    model = onnx.load(tiny_bundle / "unet" / "model.onnx", load_external_data=False)
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    gathers = [node for node in model.graph.node if node.op_type == "Gather"]
    assert gathers
    assert all(node.input[1] in constants for node in gathers)


def test_a_bundle_says_where_it_came_from(tiny_bundle, tiny_run):
    provenance = Bundle(tiny_bundle).manifest.provenance
    record = load_run(tiny_run).record
    assert provenance["base"]["sha256"] == record["base"]["sha256"]
    assert provenance["clip"]["sha256"] == record["clip"]["sha256"]
    assert str(tiny_run.parent) not in json.dumps(provenance)


def test_another_base_is_refused(tiny_run, tiny_base, tmp_path):
    other = shutil.copytree(tiny_base, tmp_path / "other")
    scheduler = other / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("0.012", "0.013"))
    with pytest.raises(BaseModelError, match=r"is not the base that the run .* was tuned on: expected sha256"):
        export_bundle(tiny_run, tmp_path / "bundle", ExportOptions(windows=False), base=other)
    assert not (tmp_path / "bundle").exists()


def test_a_graph_that_differs_stops_the_export_and_leaves_nothing(tiny_run, tmp_path, monkeypatch):
    from tav_sdk.export import parity

    monkeypatch.setattr(parity, "relative_difference", lambda result, reference: np.float64("nan"))
    with pytest.raises(ParityError, match="the text_encoder graph differs from the model"):
        export_bundle(tiny_run, tmp_path / "bundle", ExportOptions(windows=False))
    assert list(tmp_path.iterdir()) == []


def test_a_callback_cancels_and_leaves_nothing(tiny_run, tmp_path):
    with pytest.raises(CancelledError, match="export was cancelled after step 1 of 4"):
        export_bundle(tiny_run, tmp_path / "bundle", ExportOptions(windows=False), callback=lambda progress: False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_is_refused(tiny_run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty"):
        export_bundle(tiny_run, tmp_path, ExportOptions(windows=False))


def test_the_comparison_can_be_left_to_the_machine_that_runs_the_bundle(tiny_run, tmp_path, monkeypatch):
    from tav_sdk.export import graph_exporter
    from tav_sdk.pipeline.verify import verify

    monkeypatch.setattr(graph_exporter, "check_parity", None)
    bundle = export_bundle(tiny_run, tmp_path / "bundle", ExportOptions(parity=False, windows=False))
    assert {graph.parity_max_abs for graph in Bundle(bundle).manifest.graphs.values()} == {None}
    assert all(check.passed and check.relative is not None for check in verify(bundle, engine="onnxruntime-cpu"))


def test_int8_is_the_unets_and_says_what_stays(tiny_run, tmp_path, monkeypatch):
    seen, measured = [], {"psnr": 40.0, "clip_text": 90.0, "clip_text_fp32": 90.1}
    monkeypatch.setattr(write_bundle, "check_edit_quality", lambda folder, run, base, callback: measured)
    made = export_bundle(
        tiny_run,
        tmp_path / "bundle",
        ExportOptions(precision="int8", windows=False),
        callback=lambda step: seen.append(step.stage),
    )
    manifest = Bundle(made).manifest
    assert {name: entry.precision for name, entry in manifest.graphs.items()} == dict.fromkeys(GRAPHS, "fp32") | {
        "unet": "int8"
    }
    unet = manifest.graphs["unet"]
    assert unet.kept[0] == "conv_in"
    assert unet.kept[-1] == "conv_out"
    assert unet.parity_max_abs is not None
    assert 1e-3 < unet.parity_max_abs < TOLERANCES["int8"]
    assert manifest.quality == measured
    assert seen == ["export"] * 3 + ["calibration"] * STEPS + ["export"]


def test_edits_that_are_bad_stop_the_export_and_leave_nothing(tiny_run, tmp_path, monkeypatch):
    def refuse(folder, run, base, callback):
        assert Bundle(folder).manifest.precision == "fp16"
        raise QualityError("edits in fp16 differ")

    monkeypatch.setattr(write_bundle, "check_edit_quality", refuse)
    with pytest.raises(QualityError, match="edits in fp16 differ"):
        export_bundle(tiny_run, tmp_path / "bad", ExportOptions(precision="fp16", windows=False))
    assert list(tmp_path.iterdir()) == []
