import json
import os

import pytest

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.graph_folder import file_entries
from tav_sdk.bundle.layout import FORMAT_VERSION
from tav_sdk.errors import BundleError, BundleVersionError


def test_a_bundle_says_what_it_holds(tiny_bundle):
    manifest = Bundle(tiny_bundle).manifest
    assert (manifest.num_frames, manifest.height, manifest.width) == (4, 64, 64)
    assert manifest.latents_shape == (1, 4, 4, 8, 8)


def test_the_manifest_lists_every_file(tiny_bundle):
    assert Bundle(tiny_bundle).manifest.files == file_entries(tiny_bundle)


def test_the_manifest_lists_itself_nowhere(tiny_bundle):
    assert "manifest.json" not in file_entries(tiny_bundle)


def test_a_bundle_may_be_moved(bundle_copy, tmp_path):
    Bundle(bundle_copy.rename(tmp_path / "moved"))


def test_the_schedule_is_the_bases(tiny_bundle):
    schedule = Bundle(tiny_bundle).schedule
    assert (schedule.beta_schedule, schedule.num_train_timesteps) == ("scaled_linear", 1000)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"there is no bundle in .*\(no manifest.json\); make one with: tav export"):
        Bundle(tmp_path)


def test_a_changed_byte_is_found(bundle_copy):
    path = bundle_copy / "unet" / "model.onnx_data"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"unet/model.onnx_data in the bundle .* was changed: expected sha256"):
        Bundle(bundle_copy)


def test_hashes_can_be_left_out(bundle_copy):
    path = bundle_copy / "unet" / "model.onnx_data"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    Bundle(bundle_copy, verify=False)


def test_the_bases_values_are_no_part_of_a_graphs_key(bundle_copy, edit_manifest):
    before = Bundle(bundle_copy).graph("unet").key
    edit_manifest(lambda manifest: manifest["files"]["unet/untuned.safetensors"].update(sha256="0" * 64))
    assert Bundle(bundle_copy, verify=False).graph("unet").key == before


def test_a_scale_finds_damaged_places(bundle_copy, edit_manifest):
    edit_manifest(lambda manifest: manifest["graphs"]["unet"]["untuned"][0].update(offset=1 << 40))
    bundle = Bundle(bundle_copy)
    with pytest.raises(
        BundleError, match=r"unet/untuned.safetensors in the bundle .* does not hold .*to_q.weight; export"
    ):
        bundle.weights(0.5)


@pytest.mark.parametrize("verify", [True, False])
def test_another_size_is_found(bundle_copy, verify):
    with (bundle_copy / "unet" / "tuned.onnx_data").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"was changed: expected \d+ bytes, got \d+; copy it completely"):
        Bundle(bundle_copy, verify=verify)


def test_a_missing_file_is_named(bundle_copy):
    (bundle_copy / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"lacks tokenizer/tokenizer.json; copy it completely or export it again"):
        Bundle(bundle_copy)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "unet/../../secret", "C:/secret", r"..\secret", "unet/\0"]
)
def test_a_path_that_leaves_the_folder_is_refused(bundle_copy, edit_manifest, name):
    (bundle_copy.parent / "secret").write_text("x")
    edit_manifest(lambda manifest: manifest["files"].update({name: {"size": 1, "sha256": "0"}}))
    with pytest.raises(BundleError, match=r"which leaves its folder; do not use it"):
        Bundle(bundle_copy)


def test_a_link_that_leaves_the_folder_is_refused(bundle_copy, tmp_path):
    path = bundle_copy / "unet" / "model.onnx_data"
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match=r"names 'unet/model.onnx_data', which leaves its folder; do not use it"):
        Bundle(bundle_copy)


def test_a_linked_folder_that_leaves_the_bundle_is_refused(bundle_copy, tmp_path):
    (bundle_copy / "unet").rename(tmp_path / "outside")
    (bundle_copy / "unet").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match="which leaves its folder"):
        Bundle(bundle_copy)


def test_a_link_to_a_whole_bundle_is_fine(bundle_copy, tmp_path):
    os.symlink(bundle_copy, tmp_path / "link")
    Bundle(tmp_path / "link")


def test_a_graph_that_is_not_listed_is_refused(bundle_copy, edit_manifest):
    edit_manifest(lambda manifest: manifest["files"].pop("unet/model.onnx"))
    with pytest.raises(BundleError, match=r"uses 'unet/model.onnx', which its manifest does not list"):
        Bundle(bundle_copy)


def test_a_missing_graph_is_refused(bundle_copy, edit_manifest):
    edit_manifest(lambda manifest: manifest["graphs"].pop("vae_decoder"))
    with pytest.raises(BundleError, match="has no vae_decoder graph; export it again"):
        Bundle(bundle_copy)


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 99, 4.0])
def test_a_newer_format_is_refused_with_what_to_do(bundle_copy, edit_manifest, version):
    edit_manifest(lambda manifest: manifest.update(format_version=version))
    text = r"has format .*, this version reads up to 3; update with: pip install --upgrade tav-sdk"
    with pytest.raises(BundleVersionError, match=text):
        Bundle(bundle_copy)


@pytest.mark.parametrize("version", [0, -1, "1", None])
def test_an_unknown_format_is_refused(bundle_copy, edit_manifest, version):
    edit_manifest(lambda manifest: manifest.update(format_version=version))
    with pytest.raises(BundleError, match="is not a valid manifest: format_version: Input should be 1"):
        Bundle(bundle_copy)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda manifest: manifest.pop("num_frames"), "num_frames: Field required"),
        (lambda manifest: manifest.update(extra=1), "extra: Extra inputs are not permitted"),
        (lambda manifest: manifest.update(height="tall"), "height: Input should be a valid integer, .*"),
        (lambda manifest: manifest.pop("base"), "base: Field required"),
        (lambda manifest: manifest["clip"].pop("fps"), "clip.fps: Field required"),
    ],
)
def test_a_manifest_that_is_not_one_is_refused(bundle_copy, edit_manifest, change, text):
    edit_manifest(change)
    with pytest.raises(BundleError, match=f"is not a valid manifest: {text}; export the bundle again"):
        Bundle(bundle_copy)


@pytest.mark.parametrize("version", [1, 2])
def test_former_formats_still_load(bundle_copy, edit_manifest, version):
    """Format 2 had what code reads among what is for people; format 1 had no places of tuned weights either."""
    now = Bundle(bundle_copy).manifest

    def as_it_was(manifest):
        manifest["format_version"] = version
        manifest["provenance"]["delta_sha256"] = manifest.pop("tuned_sha256")
        del manifest["base"], manifest["clip"]
        if version == 1:
            for graph in manifest["graphs"].values():
                graph.pop("tuned", None)
                graph.pop("untuned", None)

    edit_manifest(as_it_was)
    bundle = Bundle(bundle_copy)
    assert (bundle.manifest.base, bundle.manifest.clip) == (now.base, now.clip)
    assert bundle.manifest.tuned_sha256 == now.tuned_sha256
    assert (bundle.weights() is None) == (version == 1)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_no_json_is_refused(bundle_copy, content):
    (bundle_copy / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest.json cannot be read: .*; export the bundle again"):
        Bundle(bundle_copy)


@pytest.mark.parametrize("value", [[], 3, None, "x"])
def test_a_manifest_that_is_no_mapping_is_refused(bundle_copy, value):
    (bundle_copy / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(BundleError, match="is not a valid manifest"):
        Bundle(bundle_copy)
