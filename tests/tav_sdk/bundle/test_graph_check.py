"""What a stranger's graph may contain; each of these was opened by an engine before there was a check."""

import contextlib
import os
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.graph_check import OPERATORS, read_graph
from tav_sdk.bundle.graph_folder import file_entries
from tav_sdk.bundle.manifest import read_manifest, write_manifest
from tav_sdk.errors import BundleError
from tav_sdk.pipeline.controlnet import ControlNet


@pytest.fixture
def change_graph(bundle_copy):
    """``change_graph(name, change)``: change a graph of ``bundle_copy``, and what its manifest says of its file."""

    def apply(name, change):
        path = bundle_copy / name / "model.onnx"
        model = onnx.load(path, load_external_data=False)
        change(model)
        path.write_bytes(model.SerializeToString())
        relist(bundle_copy, f"{name}/model.onnx")

    return apply


def relist(bundle, *names):
    manifest = read_manifest(bundle)
    now = file_entries(bundle)
    files = {**manifest.files, **{name: now[name] for name in names}}
    write_manifest(bundle, manifest.model_copy(update={"files": files}))


def external(model):
    return next(tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL)


def put(tensor, **entries):
    """Say something of a tensor's external data."""
    for entry in tensor.external_data:
        if entry.key in entries:
            entry.value = str(entries.pop(entry.key))
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def graph(nodes, initializers=(), outputs=("y",)):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])]
    return helper.make_model(helper.make_graph(nodes, "g", given, values, list(initializers)))


def saved(tmp_path, model):
    path = tmp_path / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def refused(tmp_path, model, text):
    with pytest.raises(BundleError, match=rf"the graph cannot be used: {text}; do not use it, or export it again"):
        read_graph(saved(tmp_path, model), "the graph")


# -- weights in other files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", [True, False])
def test_weights_that_the_manifest_does_not_list_are_refused(bundle_copy, change_graph, verify):
    shutil.copy(bundle_copy / "unet" / "model.onnx_data", bundle_copy / "unet" / "hidden.bin")
    change_graph("unet", lambda model: put(external(model), location="hidden.bin"))
    with pytest.raises(BundleError, match=r"uses 'unet/hidden.bin', which its manifest does not list; export it again"):
        Bundle(bundle_copy, verify=verify)


@pytest.mark.parametrize(
    "location",
    [
        "../hidden.bin",
        "/etc/passwd",
        "a/../../hidden.bin",
        "*/_ORT_MEM_ADDR_/*",
        "./model.onnx_data",
        "C:\\x",
        "a" * 300,
    ],
)
def test_weights_under_a_name_that_is_not_plain_are_refused(bundle_copy, change_graph, location):
    change_graph("unet", lambda model: put(external(model), location=location))
    with pytest.raises(BundleError, match=r"has weights in .*, which is no plain name of a file beside it; do not use"):
        Bundle(bundle_copy)


def test_weights_behind_a_link_out_of_the_bundle_are_refused(bundle_copy, change_graph, tmp_path):
    shutil.copy(bundle_copy / "unet" / "model.onnx_data", tmp_path / "outside")
    (bundle_copy / "unet" / "link.bin").symlink_to(tmp_path / "outside")
    change_graph("unet", lambda model: put(external(model), location="link.bin"))
    relist(bundle_copy, "unet/link.bin")
    with pytest.raises(BundleError, match=r"names 'unet/link.bin', which leaves its folder; do not use it"):
        Bundle(bundle_copy)


def test_links_in_a_circle_are_refused(bundle_copy, edit_manifest):
    (bundle_copy / "circle").symlink_to("circle")
    edit_manifest(lambda manifest: manifest["files"].update({"circle": {"size": 1, "sha256": "0" * 64}}))
    with pytest.raises(BundleError, match=r"names 'circle', which leaves its folder|lacks circle"):
        Bundle(bundle_copy)


def test_weights_in_a_pipe_are_refused_at_once(bundle_copy, change_graph, edit_manifest, tav):
    os.mkfifo(bundle_copy / "unet" / "pipe")
    change_graph("unet", lambda model: put(external(model), location="pipe"))
    result = tav("build", bundle_copy, "--engine", "onnxruntime-cpu")
    assert result.exit_code == 2
    assert "uses 'unet/pipe', which its manifest does not list" in " ".join(result.stderr.split())
    edit_manifest(lambda manifest: manifest["files"].update({"unet/pipe": {"size": 1, "sha256": "0" * 64}}))
    with pytest.raises(BundleError, match="lacks unet/pipe; copy it completely or export it again"):
        Bundle(bundle_copy, verify=False)


def test_weights_behind_the_end_of_their_file_are_refused(bundle_copy, change_graph):
    change_graph("unet", lambda model: put(external(model), offset=1 << 40))
    with pytest.raises(BundleError, match=r"takes .* from behind the end of unet/model.onnx_data; export it again"):
        Bundle(bundle_copy)


def test_what_a_graph_reads_is_in_its_key(bundle_copy, change_graph):
    """Weights may lie anywhere in the bundle's folders; engines and kept inversions go by the key."""
    (bundle_copy / "unet" / "more").mkdir()
    for name in ("untuned.safetensors", "more/windowed.onnx"):
        shutil.copy(bundle_copy / "unet" / "model.onnx_data", bundle_copy / "unet" / name)
        change_graph("unet", lambda model, name=name: put(external(model), location=name))
        relist(bundle_copy, f"unet/{name}")
        before = Bundle(bundle_copy).graph("unet").key
        with (bundle_copy / "unet" / name).open("r+b") as file:
            file.write(b"\1\2\3\4")
        relist(bundle_copy, f"unet/{name}")
        assert Bundle(bundle_copy).graph("unet").key != before


def test_weights_of_the_base_may_not_hide_among_the_tuned_ones(bundle_copy, change_graph):
    """Their file is left out of the graph's key."""
    with (bundle_copy / "unet" / "tuned.onnx_data").open("ab") as file:
        file.write(bytes(1 << 20))
    relist(bundle_copy, "unet/tuned.onnx_data")
    change_graph("unet", lambda model: put(external(model), location="tuned.onnx_data"))
    with pytest.raises(BundleError, match=r"from the file of tuned weights, where its manifest has something else"):
        Bundle(bundle_copy)


def test_a_graph_without_tuned_weights_has_all_its_files_in_its_key(bundle_copy, edit_manifest):
    """As in format 1."""
    edit_manifest(lambda manifest: [entry.update(tuned=[], untuned=[]) for entry in manifest["graphs"].values()])
    before = Bundle(bundle_copy).graph("unet").key
    with (bundle_copy / "unet" / "tuned.onnx_data").open("r+b") as file:
        file.write(b"\1\2\3\4")
    relist(bundle_copy, "unet/tuned.onnx_data")
    assert Bundle(bundle_copy).graph("unet").key != before


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ({"offset": "-1"}, "is in another file, but not said where"),
        ({"length": "1"}, "has 1 bytes, its shape takes [0-9]+"),
        ({"offset": "9" * 30}, "has [0-9]+ bytes, its shape takes [0-9]+"),
        ({"location": ""}, "is in another file, but not said where"),
    ],
)
def test_a_place_that_is_none_is_refused(tmp_path, entries, text):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    put(tensor, **{"location": "w.bin", "offset": 0, "length": 8, **entries})
    refused(tmp_path, graph([helper.make_node("Add", ["x", "w"], ["y"])], [tensor]), f"its tensor 'w' {text}")


def test_two_places_of_one_tensor_are_refused(tmp_path):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="listed.bin")
    tensor.external_data.add(key="location", value="hidden.bin")
    refused(tmp_path, graph([], [tensor]), "it says 'location' of a tensor in another file, which no export writes")


# -- operators ---------------------------------------------------------------------------------------------------


def test_graphs_inside_operators_are_refused(tmp_path):
    branch = helper.make_graph([], "b", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)])
    nodes = {
        "If": helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch),
        "Loop": helper.make_node("Loop", ["x", "x"], ["y"], body=branch),
        "Scan": helper.make_node("Scan", ["x"], ["y"], body=branch, num_scan_inputs=1),
        "Add": helper.make_node("Add", ["x", "x"], ["y"], body=branch),
    }
    for operator, node in nodes.items():
        refused(tmp_path, graph([node]), f"its operator {operator} has a graph inside")


@pytest.mark.parametrize("depth", [100, 5000])
def test_nested_graphs_are_not_followed(tmp_path, depth):
    def message(number, content):
        size, length = len(content), b""
        while size >= 0x80:
            length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    inner = b""
    for _ in range(depth):
        inner = message(1, message(4, b"If") + message(5, message(6, inner)))
    refused(tmp_path, message(7, inner), "its operator If has a graph inside")


@pytest.mark.parametrize("operator", ["Loop", "SequenceMap", "RandomNormal", "StringSplit", "Nonsense", ""])
def test_operators_that_no_export_writes_are_refused(tmp_path, operator):
    refused(tmp_path, graph([helper.make_node(operator, ["x"], ["y"])]), f"it has the operator '{operator}', .*")


@pytest.mark.parametrize("domain", ["com.microsoft", "mine"])
def test_operators_of_other_sets_are_refused(tmp_path, domain):
    node = helper.make_node("EPContext", ["x"], ["y"], domain=domain)
    refused(tmp_path, graph([node]), f"an operator is of the set '{domain}', not ONNX's own")


def test_functions_are_refused(tmp_path):
    model = graph([helper.make_node("Add", ["x", "x"], ["y"])])
    model.functions.add(name="Add", domain="ai.onnx")
    refused(tmp_path, model, "it has functions of its own")


def test_no_allowed_operator_has_a_graph_inside():
    schemas = [schema for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""]
    kinds = {onnx.defs.OpSchema.AttrType.GRAPH, onnx.defs.OpSchema.AttrType.GRAPHS}
    inside = {schema.name for schema in schemas if any(one.type in kinds for one in schema.attributes.values())}
    assert inside
    assert not inside & OPERATORS
    assert {schema.name for schema in schemas} >= OPERATORS


# -- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_node", [True, False])
@pytest.mark.parametrize(
    ("operator", "sizes", "made"),
    [
        ("Expand", [1 << 40], "1.1e.12"),
        ("Expand", [1 << 20, 1 << 20], "1.1e.12"),
        ("ConstantOfShape", [1 << 40], "1.1e.12"),
        ("Expand", [1 << 62] * 60, "endlessly many"),
        ("Tile", [1 << 20], "1.05e.06"),
        ("Range", [1 << 40], "1.1e.12"),
        ("Pad", [0, 1 << 40], "1.1e.12"),
    ],
)
def test_what_a_constant_blows_up_is_refused(tmp_path, operator, sizes, made, as_node):
    constant = numpy_helper.from_array(np.array(sizes, np.int64), "s")
    nodes = [helper.make_node("Constant", [], ["s"], value=constant)] if as_node else []
    inputs = ["s"] if operator in ("ConstantOfShape", "Range") else ["x", "s"]
    nodes.append(helper.make_node(operator, inputs, ["y"]))
    refused(
        tmp_path, graph(nodes, [] if as_node else [constant]), f"its operator {operator} makes {made} elements or .*"
    )


def test_sizes_that_are_computed_from_constants_are_refused(tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["a"], value_ints=[1 << 20]),
        helper.make_node("Mul", ["a", "a"], ["s"]),
        helper.make_node("Expand", ["x", "s"], ["y"]),
    ]
    refused(tmp_path, graph(nodes), "its operator Expand takes a size that is computed from constants")


@pytest.mark.parametrize("value", [{"value_float": 1e12}, {"value_floats": [1e12]}])
def test_sizes_that_are_cast_from_floats_are_refused(tmp_path, value):
    nodes = [
        helper.make_node("Constant", [], ["a"], **value),
        helper.make_node("Cast", ["a"], ["s"], to=TensorProto.INT64),
        helper.make_node("Expand", ["x", "s"], ["y"]),
    ]
    refused(tmp_path, graph(nodes), "its operator Expand takes a size that is computed from constants")
    scale = helper.make_node("Constant", [], ["a"], **value)
    resize = helper.make_node("Resize", ["x", "", "a"], ["y"])
    refused(tmp_path, graph([scale, resize]), "its operator Resize makes 1e.12 elements or .*")


@pytest.mark.parametrize(
    ("shape", "factor", "allowed"),
    [("Mul", 1 << 40, False), ("Add", 1 << 40, False), ("Pow", 2, False), ("Mul", 16, True)],
)
def test_sizes_from_shapes_are_held(tmp_path, shape, factor, allowed):
    nodes = [
        helper.make_node("Constant", [], ["a"], value_int=factor),
        helper.make_node("Shape", ["x"], ["axes"]),
        helper.make_node(shape, ["axes", "a"], ["s"]),
        helper.make_node("Expand", ["x", "s"], ["y"]),
    ]
    if allowed:
        read_graph(saved(tmp_path, graph(nodes)), "the graph")
    else:
        refused(tmp_path, graph(nodes), "its operator Expand takes a size that is not held: .*")


def test_sizes_that_grow_by_squares_are_refused(tmp_path):
    nodes = [helper.make_node("Shape", ["x"], ["s0"])]
    nodes += [helper.make_node("Mul", [f"s{k}", f"s{k}"], [f"s{k + 1}"]) for k in range(6)]
    nodes.append(helper.make_node("Expand", ["x", "s6"], ["y"]))
    refused(tmp_path, graph(nodes), "its operator Expand takes a size that is not held: .*")


@pytest.mark.parametrize("name", ["pads", "strides", "dilations", "kernel_shape"])
@pytest.mark.parametrize("value", [1 << 40, -1])
def test_windows_that_are_too_large_are_refused(tmp_path, name, value):
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    node.attribute.append(helper.make_attribute(name, [value]))
    refused(tmp_path, graph([node]), f"its operator Conv has {name} that are not from 0 to 64")


def test_operators_of_an_old_version_are_refused(tmp_path):
    model = graph([helper.make_node("Pad", ["x"], ["y"], pads=[0, 1 << 40])])
    model.opset_import[0].version = 2
    refused(tmp_path, model, "its operators are of version 2, expected 18 or newer")


def test_sizes_in_another_file_are_refused(tmp_path):
    tensor = TensorProto(name="s", data_type=TensorProto.INT64, dims=[1], data_location=TensorProto.EXTERNAL)
    put(tensor, location="s.bin")
    model = graph([helper.make_node("Expand", ["x", "s"], ["y"])], [tensor])
    refused(tmp_path, model, "its operator Expand takes a size from 's', which is none")


@pytest.mark.parametrize("dims", [[1 << 40], [1 << 20, 1 << 20], [-1], [1] * 100])
def test_a_tensor_that_is_larger_than_its_bytes_is_refused(tmp_path, dims):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"1234")
    refused(tmp_path, graph([], [tensor]), "its tensor 'w' has .*")
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, float_data=[1.0])
    refused(tmp_path, graph([], [tensor]), "its tensor 'w' has .*")


# -- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"\xff" * 20, b"\x08", b"\x0b", b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x00\x3a\x00", b"hello"]
)
def test_what_is_no_graph_is_refused(tmp_path, content):
    refused(tmp_path, content, ".*")


def test_every_cut_of_a_graph_is_read_or_refused(tiny_bundle, tmp_path):
    content = (tiny_bundle / "vae_encoder" / "model.onnx").read_bytes()
    for stop in range(0, len(content), 997):
        with contextlib.suppress(BundleError):
            read_graph(saved(tmp_path, content[:stop]), "the graph")


def test_a_graph_is_read_as_onnx_reads_it(tiny_bundle):
    for name in ("text_encoder", "vae_encoder", "vae_decoder", "unet"):
        path = tiny_bundle / name / "model.onnx"
        mine, theirs = read_graph(path, name), onnx.load(path, load_external_data=False).graph
        assert [node.operator for node in mine.nodes] == [node.op_type for node in theirs.node]
        assert [value.name for value in mine.inputs] == [value.name for value in theirs.input]
        shapes = {tensor.name: tuple(tensor.dims) for tensor in theirs.initializer}
        assert {tensor.name: tensor.shape for tensor in mine.tensors if tensor.name in shapes} == shapes


@pytest.mark.parametrize("dims", [[1], [1, 1, 1, 1, 1, 1]])
def test_another_output_rank_than_the_manifest_says_is_refused(bundle_copy, change_graph, dims):
    def change(model):
        shape = model.graph.output[0].type.tensor_type.shape
        del shape.dim[:]
        for size in dims:
            shape.dim.add(dim_value=size)

    change_graph("vae_decoder", change)
    text = r"vae_decoder/model.onnx in the bundle .* is not as its manifest says: expected the output .* as float32"
    with pytest.raises(BundleError, match=text):
        Bundle(bundle_copy)


def controlnet(folder, **changes):
    """A folder with a manifest of a ControlNet, and a graph that repeats."""
    from tav_sdk.bundle.manifest import GraphEntry, TensorEntry
    from tav_sdk.pipeline.controlnet import ControlNetManifest

    saved(folder, graph([helper.make_node("Loop", ["x"], ["y"])]))
    shapes = {
        "sample": ("batch", 4, 4, 8, 8),
        "timestep": (),
        "encoder_hidden_states": ("batch", 77, 16),
        "controlnet_cond": (4, 3, 64, 64),
        "conditioning_scale": (),
        **changes,
    }
    inputs = tuple(
        TensorEntry(name=name, dtype="int64" if name == "timestep" else "float32", shape=shape)
        for name, shape in shapes.items()
        if shape is not None
    )
    entry = GraphEntry(file="model.onnx", opset=23, inputs=inputs, outputs=(), parity_max_abs=None)
    manifest = ControlNetManifest(graph=entry, files=file_entries(folder), provenance={})
    (folder / "controlnet.json").write_text(manifest.model_dump_json())
    return folder


def test_a_controlnet_is_checked_alike(tmp_path):
    with pytest.raises(
        BundleError, match=r"model.onnx in the ControlNet .* cannot be used: it has the operator 'Loop'"
    ):
        ControlNet(controlnet(tmp_path))


@pytest.mark.parametrize(
    ("shape", "got"),
    [(None, "none"), ((4, 3, 64), r"float32\[4, 3, 64\]"), (("f", 3, 64, 64), r"float32\[f, 3, 64, 64\]")],
)
def test_a_controlnet_without_pictures_of_its_own_size_is_refused(tmp_path, shape, got):
    text = (
        rf"controlnet.json is not valid: expected the input 'controlnet_cond' as float32 with 4 axes, got {got}; export"
    )
    with pytest.raises(BundleError, match=text):
        ControlNet(controlnet(tmp_path, controlnet_cond=shape))


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "null", '{"format_version": 2}'])
def test_a_controlnets_manifest_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "controlnet.json").write_text(content)
    with pytest.raises(BundleError, match=r"controlnet.json is (not valid|nested).*; export the ControlNet again"):
        ControlNet(tmp_path)
