import json
import os

import pytest

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.graph_folder import file_entries
from tav_sdk.bundle.graph_shapes import check_shapes
from tav_sdk.bundle.layout import FORMAT_VERSION
from tav_sdk.bundle.manifest import read_manifest
from tav_sdk.errors import BundleError, BundleVersionError, InputError


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
    edit_manifest(lambda manifest: manifest["files"].update({name: {"size": 1, "sha256": "0" * 64}}))
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
    with pytest.raises(BundleError, match="is not valid: format_version: Input should be 1"):
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
    with pytest.raises(BundleError, match=f"the manifest .* is not valid: {text}.*; export the bundle again"):
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
    with pytest.raises(BundleError, match=r"manifest.json is (not|nested) .*; export the bundle again"):
        Bundle(bundle_copy)


@pytest.mark.parametrize("value", [[], 3, None, "x"])
def test_a_manifest_that_is_no_mapping_is_refused(bundle_copy, value):
    (bundle_copy / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(BundleError, match=r"manifest.json is not valid: Input should be a valid dictionary"):
        Bundle(bundle_copy)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda manifest: manifest.update(height=1_000_000), "height: Input should be less than or equal to 16384"),
        (lambda manifest: manifest.update(num_frames=-1), "num_frames: Input should be greater than or equal to 1"),
        (
            lambda manifest: manifest.update(num_frames=1 << 70),
            "num_frames: Input should be less than or equal to 65536",
        ),
        (
            lambda manifest: manifest.update(num_frames=65536, height=16384, width=16384),
            r"Value error, num_frames \* height \* width is more than 2147483648",
        ),
        (
            lambda manifest: manifest.update(vae_scale_factor=0),
            "vae_scale_factor: Input should be greater than or equal",
        ),
        (lambda manifest: manifest.update(scaling_factor=float("nan")), "scaling_factor: Input should be .*"),
        (lambda manifest: manifest.update(guidance_scale=float("inf")), "guidance_scale: Input should be .*"),
        (lambda manifest: manifest.update(num_inference_steps=10**9), "num_inference_steps: Input should be less than"),
        (lambda manifest: manifest.update(prompt="a" * 100_001), "prompt: String should have at most 100000 char"),
        (
            lambda manifest: manifest["files"].update(x={"size": -1, "sha256": "0" * 64}),
            "files.x.size: Input should be",
        ),
        (
            lambda manifest: manifest["files"].update(x={"size": 1, "sha256": "../x"}),
            "files.x.sha256: String should match",
        ),
        (
            lambda manifest: tuned(manifest).update(dtype="O"),
            "graphs.unet.tuned.0.dtype: Input should be 'float16', .*",
        ),
        (
            lambda manifest: tuned(manifest).update(offset=-4),
            "graphs.unet.tuned.0.offset: Input should be greater than",
        ),
        (
            lambda manifest: tuned(manifest).update(shape=[1] * 17),
            "graphs.unet.tuned.0.shape: Tuple should have at most",
        ),
        (
            lambda manifest: manifest["graphs"]["unet"].update(axes={"batch": [0]}),
            "graphs.unet.axes.batch.0: Input should",
        ),
        (lambda manifest: manifest.update(provenance=None), "provenance: Input should be a valid dictionary"),
    ],
)
def test_every_field_has_a_bound(bundle_copy, edit_manifest, change, text):
    edit_manifest(change)
    with pytest.raises(BundleError, match=f"the manifest .* is not valid: {text}.*; export the bundle again"):
        Bundle(bundle_copy, verify=False)


def tuned(manifest):
    return manifest["graphs"]["unet"]["tuned"][0]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda manifest: manifest.update(height=128), "the input 'sample' of the vae_encoder graph"),
        (
            lambda manifest: manifest.update(vae_scale_factor=4),
            "the output 'latent_parameters' of the vae_encoder graph",
        ),
        (lambda manifest: manifest.update(num_frames=8), "the input 'sample' of the unet graph"),
        (
            lambda manifest: manifest["graphs"]["vae_decoder"]["outputs"][0].update(shape=["frames", 3]),
            "the output 'sample' of the vae_decoder graph",
        ),
        (
            lambda manifest: manifest["graphs"]["text_encoder"]["outputs"][0].update(name="x"),
            "the output 'last_hidden_state' of the text_encoder graph",
        ),
        (
            lambda manifest: manifest["graphs"]["windowed_unet"]["outputs"].pop(),
            r"the output 'present\..*' of the windowed_unet graph",
        ),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(bundle_copy, edit_manifest, change, text):
    now = read_manifest(bundle_copy)
    edit_manifest(change)
    changed = read_manifest(bundle_copy)
    assert changed != now
    with pytest.raises(BundleError, match=rf"does not fit itself: expected {text} as .*, got .*; export it again"):
        check_shapes(changed, "the bundle")
    with pytest.raises(BundleError, match=r"does not fit itself|is not as its manifest says"):
        Bundle(bundle_copy)


@pytest.mark.parametrize("name", ["scheduler/scheduler_config.json", "tokenizer/tokenizer.json"])
def test_what_is_read_later_has_to_be_listed(bundle_copy, edit_manifest, name):
    edit_manifest(lambda manifest: manifest["files"].pop(name))
    with pytest.raises(BundleError, match=f"uses '{name}', which its manifest does not list; export it again"):
        Bundle(bundle_copy)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[]", "must hold keys and values, got list; export the bundle again"),
        ("[" * 100_000, "is nested more than 64 deep; export the bundle again"),
        ("{", "is not valid JSON: .*; export the bundle again"),
    ],
)
def test_a_schedule_that_is_none_is_refused(bundle_copy, edit_manifest, content, text):
    (bundle_copy / "scheduler" / "scheduler_config.json").write_text(content)
    edit_manifest(lambda manifest: manifest["files"]["scheduler/scheduler_config.json"].update(size=len(content)))
    bundle = Bundle(bundle_copy, verify=False)
    with pytest.raises(BundleError, match=f"scheduler_config.json {text}"):
        _ = bundle.schedule


def test_an_empty_file_of_weights_is_refused(bundle_copy, edit_manifest):
    (bundle_copy / "unet" / "untuned.safetensors").write_bytes(b"")
    edit_manifest(lambda manifest: manifest["files"]["unet/untuned.safetensors"].update(size=0))
    bundle = Bundle(bundle_copy, verify=False)
    with pytest.raises(BundleError, match=r"unet/untuned.safetensors in the bundle .* cannot be read: .*empty"):
        bundle.weights(0.5)


@pytest.mark.parametrize("folder", [None, 3, b"a"])
def test_a_bundle_is_the_path_of_a_folder(folder):
    with pytest.raises(InputError, match=r"bundle must be a path, got (None|3|b'a')"):
        Bundle(folder)


@pytest.mark.parametrize(
    ("name", "why"), [("a" * 300, "File name too long"), ("circle", "Too many levels"), ("a\0b", "embedded null byte")]
)
def test_a_folder_whose_name_cannot_be_is_told(tmp_path, name, why):
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(InputError, match=rf"bundle must be usable, got .*: {why}"):
        Bundle(tmp_path / name)


def test_a_manifest_that_is_a_pipe_is_told_at_once(tmp_path):
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(BundleError, match=r"there is no bundle in "):
        Bundle(tmp_path)
