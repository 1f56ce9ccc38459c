"""A second clip on the graphs of a first one, and another clip's weights on a running pipeline."""

import json
import os
import resource
import shutil

import numpy as np
import pytest

import tav_sdk
from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import GRAPHS, WINDOWED_UNET
from tav_sdk.errors import BundleError, CheckpointError, InputError, OutputError
from tav_sdk.export import ExportOptions, export_bundle, export_clip
from tav_sdk.training import load_run

TUNED = "unet/tuned.onnx_data"


def latents(pipeline, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(pipeline.manifest.latents_shape).astype(np.float32)


def predicted(pipeline):
    states = pipeline.encode_prompt("a red square")
    return pipeline.unet(latents(pipeline), np.asarray(500), states)


# --- export ---------------------------------------------------------------------------------------------------------


def test_the_weights_alone_are_written_and_the_rest_is_linked(tiny_bundle, other_bundle):
    first, second = Bundle(tiny_bundle), Bundle(other_bundle)
    assert set(first.manifest.files) - set(second.manifest.files) == {
        "reference/unet.npz",
        "reference/windowed_unet.npz",
    }
    for path in second.manifest.files:
        same = os.path.samefile(tiny_bundle / path, other_bundle / path)
        assert same == (path != TUNED)
    assert second.manifest.prompt == "a red square is leaving the meadow"
    assert list(second.manifest.graphs) == [*GRAPHS, WINDOWED_UNET]
    assert all(first.graph(name).key == second.graph(name).key for name in second.manifest.graphs)


def test_it_equals_an_export_of_its_own(other_run, other_bundle, tmp_path, traced_anew):
    alone = export_bundle(other_run, tmp_path / "alone", ExportOptions(windows=False))
    for name in GRAPHS:
        assert Bundle(alone).graph(name).key == Bundle(other_bundle).graph(name).key
    assert (alone / TUNED).read_bytes() == (other_bundle / TUNED).read_bytes()


def test_no_torch_is_needed(tiny_bundle, other_run, tmp_path):
    import subprocess
    import sys

    code = (
        "import sys; from tav_sdk.export import export_clip; "
        f"export_clip({str(other_run)!r}, {str(tmp_path / 'out')!r}, bundle={str(tiny_bundle)!r}); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    Bundle(tmp_path / "out")


def test_files_are_copied_where_they_cannot_be_linked(other_run, tiny_bundle, tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    out = export_clip(other_run, tmp_path / "out", bundle=tiny_bundle)
    assert not os.path.samefile(tiny_bundle / "unet/model.onnx", out / "unet/model.onnx")
    Bundle(out)


def test_a_full_disk_is_an_output_error(other_run, tiny_bundle, tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limit[1]))  # writing more fails, as on a full disk
    try:
        with pytest.raises(OutputError, match=r"cannot write .*out: File too large"):
            export_clip(other_run, tmp_path / "out", bundle=tiny_bundle)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert list(tmp_path.iterdir()) == []


def edited_run(run, tmp_path, change):
    copy = shutil.copytree(run, tmp_path / "run")
    record = json.loads((copy / "run.json").read_text())
    change(record)
    (copy / "run.json").write_text(json.dumps(record))
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record["base"].update(sha256="0" * 64), r"its base model \(sha256\) is 0000.*, expected "),
        (lambda record: record["config"].update(num_frames=8), "its number of frames is 8, expected 4"),
        (lambda record: record["config"].update(width=128), "its width is 128, expected 64"),
        (
            lambda record: record["config"]["inflation"].update(temporal_mask="none"),
            r"its inflation is temporal_mask=none, expected temporal_mask=causal; export it with graphs of its own",
        ),
    ],
)
def test_a_run_that_does_not_fit_is_refused(other_run, tiny_bundle, tmp_path, change, message):
    run = edited_run(other_run, tmp_path, change)
    with pytest.raises(BundleError, match=r"the run .* does not fit the bundle .*: " + message):
        export_clip(run, tmp_path / "out", bundle=tiny_bundle)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def run_of(other_run, tmp_path):
    """``run_of(tensors)``: a copy of ``other_run`` with these tuned weights."""
    from safetensors.numpy import save_file

    from tav_sdk.files import sha256_of

    def make(tensors):
        copy = shutil.copytree(other_run, tmp_path / "run")
        save_file(tensors, copy / "tuned.safetensors")
        record = json.loads((copy / "run.json").read_text())
        record["tuned_sha256"] = sha256_of(copy / "tuned.safetensors")
        (copy / "run.json").write_text(json.dumps(record))
        return copy

    return make


def test_weights_that_are_not_finite_are_refused(other_run, tiny_bundle, run_of, tmp_path):
    from safetensors.numpy import load_file

    tensors = load_file(other_run / "tuned.safetensors")
    name = sorted(tensors)[0]
    tensors[name] = np.full_like(tensors[name], np.nan)
    with pytest.raises(CheckpointError, match=f"{name} in .* has NaN or infinity in it as float32; tune again"):
        export_clip(run_of(tensors), tmp_path / "out", bundle=tiny_bundle)
    assert not (tmp_path / "out").exists()


def test_a_delta_of_other_tensors_is_refused(other_run, tiny_bundle, run_of, tmp_path):
    from safetensors.numpy import load_file

    tensors = load_file(other_run / "tuned.safetensors")
    name, tensor = tensors.popitem()
    copy = run_of({**tensors, "conv_in.weight": tensor})
    text = rf"does not fit the bundle's U-Net \(2 differences\): missing {name}; unexpected conv_in.weight"
    with pytest.raises(CheckpointError, match=text):
        export_clip(copy, tmp_path / "out", bundle=tiny_bundle)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_is_refused(other_run, tiny_bundle, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty"):
        export_clip(other_run, tmp_path, bundle=tiny_bundle)


def test_a_bundle_of_format_1_is_refused(other_run, bundle_copy, edit_manifest, tmp_path):
    def age(manifest):
        manifest["format_version"] = 1
        for graph in manifest["graphs"].values():
            for key in ("precision", "kept", "axes", "tuned"):
                del graph[key]

    edit_manifest(age)
    with pytest.raises(BundleError, match="is of format 1, which no clip can be exported onto"):
        export_clip(other_run, tmp_path / "out", bundle=bundle_copy)


# --- swap -----------------------------------------------------------------------------------------------------------


def test_a_swap_there_and_back_is_bit_identical(tiny_bundle, other_bundle):
    with tav_sdk.load(tiny_bundle, engine="onnxruntime-cpu") as pipeline:
        first = predicted(pipeline)
        pipeline.swap(other_bundle)
        second = predicted(pipeline)
        assert pipeline.manifest.prompt == "a red square is leaving the meadow"
        pipeline.swap(tiny_bundle)
        np.testing.assert_array_equal(predicted(pipeline), first)
    assert np.abs(second - first).max() > 1e-4
    with tav_sdk.load(other_bundle, engine="onnxruntime-cpu") as pipeline:
        np.testing.assert_array_equal(predicted(pipeline), second)


def test_pipelines_on_one_base_share_their_engines(tiny_bundle, other_bundle):
    with (
        tav_sdk.load(tiny_bundle, engine="onnxruntime-cpu") as one,
        tav_sdk.load(other_bundle, engine="onnxruntime-cpu") as two,
    ):
        before, other = predicted(one), predicted(two)
        assert one.engines.engine("unet") is not None
        assert one.engines.engine("unet") is two.engines.engine("unet")
        assert np.abs(before - other).max() > 1e-4
        two.close()
        np.testing.assert_array_equal(predicted(one), before)


def test_a_bundle_of_another_base_is_not_swapped_in(tiny_bundle, bundle_copy, edit_manifest):
    edit_manifest(lambda manifest: manifest["base"].update(sha256="1" * 64, name="other"))
    with tav_sdk.load(tiny_bundle, engine="onnxruntime-cpu") as pipeline:
        before = predicted(pipeline)
        with pytest.raises(BundleError, match=r"does not fit .*: its base model is other \(1111.*\), expected"):
            pipeline.swap(bundle_copy)
        np.testing.assert_array_equal(predicted(pipeline), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.update(num_frames=9), "does not fit itself: expected the input 'sample'"),
        (
            lambda manifest: manifest["inflation"].update(temporal_mask="none"),
            "its inflation is temporal_mask=none, expected temporal_mask=causal",
        ),
        (lambda manifest: manifest.update(precision="fp16"), "its precision is fp16, expected fp32"),
        (
            lambda manifest: manifest["files"]["unet/model.onnx"].update(sha256="2" * 64),
            "its unet graph is another one; export its run with: tav export RUN --bundle",
        ),
    ],
)
def test_a_bundle_with_other_options_is_not_swapped_in(tiny_bundle, bundle_copy, edit_manifest, change, message):
    edit_manifest(change)
    with (
        tav_sdk.load(tiny_bundle, engine="onnxruntime-cpu") as pipeline,
        pytest.raises(BundleError, match=message),
    ):
        pipeline.swap(bundle_copy, verify=False)


def test_engines_that_were_given_keep_their_weights(tiny_bundle, other_bundle):
    from tav_sdk.engines import open_engine
    from tav_sdk.pipeline.pipeline import Pipeline

    bundle = Bundle(tiny_bundle)
    with open_engine(bundle.graph("unet"), engine="onnxruntime-cpu") as engine:
        pipeline = Pipeline(bundle, engine="onnxruntime-cpu", engines={"unet": engine})
        with pytest.raises(InputError, match="was given its unet engine, whose weights are fixed"):
            pipeline.swap(other_bundle)


def test_the_command_line_exports_onto_a_bundle(tav, other_run, tiny_bundle, tmp_path):
    result = tav("export", other_run, "--bundle", tiny_bundle, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert Bundle(tmp_path / "out").manifest.tuned_sha256 == load_run(other_run).record["tuned_sha256"]
