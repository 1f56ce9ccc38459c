import json

import numpy as np
import pytest

from tav_sdk.files import sha256_of

ENGINE = ("--engine", "onnxruntime-cpu")


@pytest.fixture
def failing_bundle(bundle_copy, edit_manifest):
    """A bundle whose U-Net does not give what its reference says."""
    path = bundle_copy / "reference/unet.npz"
    with np.load(path) as arrays:
        arrays = dict(arrays)
    arrays["out_sample"] = arrays["out_sample"] * np.float32(1.1)
    np.savez(path, **arrays)
    entry = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    edit_manifest(lambda manifest: manifest["files"].update({"reference/unet.npz": entry}))
    return bundle_copy


def test_a_bundle_that_passes(tav, tiny_bundle):
    result = tav("verify", tiny_bundle, *ENGINE)
    assert result.exit_code == 0, result.output
    assert "files are as the manifest says; graphs on onnxruntime-cpu" in result.stdout
    assert result.stdout.count("pass") == 5


def test_a_graph_that_fails_is_named_and_leaves_with_1(tav, failing_bundle):
    result = tav("verify", failing_bundle, *ENGINE)
    assert result.exit_code == 1
    assert (result.stdout.count("pass"), result.stdout.count("FAIL")) == (4, 1)
    assert "failed: unet (fp32); try another --engine" in result.stderr


def test_json(tav, failing_bundle):
    result = tav("verify", failing_bundle, *ENGINE, "--json")
    assert result.exit_code == 1
    record = json.loads(result.stdout)
    assert record["passed"] is False
    unet, windowed = record["graphs"][-2:]
    assert (unet["graph"], unet["passed"], unet["non_finite"]) == ("unet", False, 0)
    assert unet["relative"] == pytest.approx(0.1 / 1.1, rel=1e-3)
    assert (windowed["graph"], windowed["passed"], windowed["non_finite"]) == ("windowed_unet", True, 0)
    assert 0 <= windowed["relative"] < 1e-4


def test_a_clip_on_anothers_graphs_says_what_is_not_known(tav, bundle_copy, edit_manifest):
    edit_manifest(lambda manifest: manifest["files"].pop("reference/unet.npz"))
    result = tav("verify", bundle_copy, *ENGINE)
    assert result.exit_code == 0, result.output
    assert "unet, windowed_unet: only checked to be finite" in result.stderr
    assert "Verify that other bundle" in result.stderr
    assert result.stdout.count("pass") == 3


def test_a_damaged_bundle_leaves_with_2(tav, bundle_copy):
    (bundle_copy / "unet/model.onnx").write_bytes(b"")
    result = tav("verify", bundle_copy, *ENGINE)
    assert result.exit_code == 2
    assert "unet/model.onnx" in result.stderr
    assert "was changed" in result.stderr
