from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

from tav_sdk.cli.console import guarded
from tav_sdk.errors import InputError
from tav_sdk.version import __version__
from tav_sdk.video.clip import read_video


def test_the_version(tav):
    assert tav("--version").stdout == f"tav-sdk {__version__}\n"


def test_the_help_names_every_command(tav):
    text = tav("--help").stdout
    for command in ("tune", "compare", "export", "edit", "generate", "info", "evaluate", "demo", "make-tiny-base"):
        assert f" {command} " in text


@pytest.mark.parametrize(
    "command", ["tune", "compare", "export", "edit", "generate", "info", "evaluate", "demo", "make-tiny-base"]
)
def test_each_command_shows_an_example(tav, command):
    assert f"tav {command} " in tav(command, "--help").stdout


def test_the_help_loads_no_torch():
    code = "import sys; from tav_sdk.cli.app import app; app(['--help'], standalone_mode=False)\n"
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'onnxruntime', 'av')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_an_unknown_option_is_refused(tav):
    result = tav("export", "run", "--otu", "bundle")
    assert result.exit_code == 2
    assert "No such option: --otu" in result.stderr


# --- messages -------------------------------------------------------------------------------------------------------


def failing(error):
    def command() -> None:
        raise error

    return guarded(command)


def test_text_that_looks_like_markup_is_shown_as_it_is(tav, tmp_path):
    path = tmp_path / "[bold]a[0] :smile: \\[b]"
    assert tav("info", path).stderr.startswith(f"error: there is nothing at {path}; give a bundle")


def test_the_trace_of_an_error_can_be_asked_for(tav, tmp_path, monkeypatch):
    monkeypatch.setenv("TAV_DEBUG", "1")
    result = tav("info", tmp_path / "missing")
    assert "Traceback" in result.stderr
    assert result.exit_code == 2


def test_a_bug_passes_for_main_to_tell():
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())()


def test_an_error_of_this_package_is_a_message(capsys):
    with pytest.raises(Exception, match="2"):
        failing(InputError("expected a, got b; do c"))()
    assert capsys.readouterr().err == "error: expected a, got b; do c\n"


@pytest.mark.parametrize(
    ("interrupt", "text"),
    [
        (KeyboardInterrupt(), "interrupted; nothing was written\n"),
        (KeyboardInterrupt("the state was kept"), "interrupted; the state was kept\n"),
    ],
)
def test_an_interrupt_says_what_is_left(capsys, interrupt, text):
    with pytest.raises(Exception, match="2"):
        failing(interrupt)()
    assert capsys.readouterr().err == text


# --- info -----------------------------------------------------------------------------------------------------------


def test_info_on_a_bundle(tav, tiny_bundle):
    facts = json.loads(tav("info", tiny_bundle, "--json").stdout)
    assert facts["kind"] == "bundle"
    assert facts["clip"] == {"frames": 4, "height": 64, "width": 64}
    assert facts["files"] == 19
    assert list(facts["graphs"]) == ["text_encoder", "vae_encoder", "vae_decoder", "unet", "windowed_unet"]
    for graph in facts["graphs"].values():
        assert graph["precision"] == "fp32"
        assert 0 <= graph["parity_max_abs"] < 1e-4
    assert facts["takes_control"] is False
    assert facts["tuning"] == {"num_train_steps": 2}
    assert "loras" not in facts
    assert facts["edited_with"] == {"num_inference_steps": 50, "guidance_scale": 12.5, "invert_with": "empty"}


def test_info_on_a_bundle_for_people(tav, bundle_copy, edit_manifest, monkeypatch):
    import onnx
    from onnx import TensorProto, helper

    from tav_sdk.bundle.graph_folder import file_entries

    monkeypatch.setenv("COLUMNS", "400")
    name, shape = "mid_block_additional_residual", ["batch", 4, 16, 4, 4]

    def change(manifest):
        unet = manifest["graphs"]["unet"]
        unet["inputs"].append({"name": name, "dtype": "float32", "shape": shape})
        model = onnx.load(bundle_copy / unet["file"], load_external_data=False)
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        (bundle_copy / unet["file"]).write_bytes(model.SerializeToString())
        manifest["files"][unet["file"]] = file_entries(bundle_copy)[unet["file"]].model_dump()
        unet["parity_max_abs"] = None
        manifest["provenance"]["base"]["loras"] = [{"name": "old_ink.safetensors", "sha256": "0", "scale": 0.5}]

    edit_manifest(change)
    lines = [" ".join(line.split()) for line in tav("info", bundle_copy).stdout.splitlines()]
    assert "takes control yes" in lines
    assert "loras old_ink.safetensors 0.5" in lines
    assert "tuning num train steps 2" in lines
    (graphs,) = (line for line in lines if line.startswith("graphs"))
    assert re.search(
        r", unet opset \d+, precision fp32, parity max abs not compared, "
        r"windowed unet opset \d+, precision fp32, parity max abs [\d.e-]+$",
        graphs,
    )


@pytest.fixture
def exported_controlnet(tmp_path):
    """What an exported ControlNet's folder looks like; its graph gives its pictures back."""
    import onnx
    from onnx import TensorProto, helper

    from tav_sdk.bundle.graph_folder import file_entries
    from tav_sdk.bundle.manifest import GraphEntry, TensorEntry
    from tav_sdk.pipeline.controlnet import ControlNetManifest

    folder, shape = tmp_path / "edges", (4, 3, 64, 32)
    (folder / "controlnet").mkdir(parents=True)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("controlnet_cond", "y")]
    node = helper.make_node("Identity", ["controlnet_cond"], ["y"])
    onnx.save(
        helper.make_model(helper.make_graph([node], "g", values[:1], values[1:])), folder / "controlnet/model.onnx"
    )
    tensors = tuple(TensorEntry(name=name, dtype="float32", shape=shape) for name in ("controlnet_cond", "y"))
    manifest = ControlNetManifest(
        graph=GraphEntry(
            file="controlnet/model.onnx", opset=23, inputs=tensors[:1], outputs=tensors[1:], parity_max_abs=None
        ),
        files=file_entries(folder),
        provenance={"name": "canny", "sha256": "0" * 64, "versions": {}},
    )
    (folder / "controlnet.json").write_text(manifest.model_dump_json())
    return folder


def test_info_on_an_exported_controlnet(tav, exported_controlnet):
    facts = json.loads(tav("info", exported_controlnet, "--json").stdout)
    assert facts["kind"] == "exported ControlNet"
    assert facts["clip"] == {"frames": 4, "height": 64, "width": 32}
    assert facts["made_from"] == {"name": "canny", "sha256": "0" * 64}
    (exported_controlnet / "controlnet" / "model.onnx").write_bytes(b"")
    assert "was changed: expected" in tav("info", exported_controlnet).stderr
    (exported_controlnet / "controlnet.json").write_text("{}")
    result = tav("info", exported_controlnet)
    assert result.exit_code == 2
    assert "controlnet.json is not valid: " in result.stderr


def test_info_on_a_controlnet_of_diffusers(tav):
    from tav_sdk.pocket import CONTROLNET

    facts = json.loads(tav("info", CONTROLNET, "--json").stdout)
    assert facts["kind"] == "ControlNet"
    assert facts["weights"] == ["diffusion_pytorch_model.safetensors"]
    assert f"--controlnet {CONTROLNET}" in facts["next"]


@pytest.mark.parametrize("path", ["", " "])
def test_info_on_nothing_says_that_the_path_is_empty(tav, path):
    result = tav("info", path)
    assert result.exit_code == 2
    assert result.stderr == (
        "error: the path is empty; give a bundle, a run, a base model, a ControlNet, a folder of edits or a video\n"
    )


def test_info_calls_a_missing_path_as_it_was_given(tav):
    assert tav("info", "./no/thing").stderr.startswith("error: there is nothing at ./no/thing; give a bundle")


def test_info_on_a_run(tav, tiny_run):
    facts = json.loads(tav("info", tiny_run, "--json").stdout)
    assert facts["kind"] == "run"
    assert facts["tuning"] == {"num_train_steps": 2, "learning_rate": 3e-5, "seed": 33}


def test_info_on_a_run_lists_its_snapshots(tav, tiny_run, tmp_path):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    (folder / "snapshots").mkdir(exist_ok=True)
    shutil.copy(folder / "tuned.safetensors", folder / "snapshots" / "step-000001.safetensors")
    assert json.loads(tav("info", folder, "--json").stdout)["steps"] == [1, 2]


def test_info_on_an_unfinished_run(tav, tmp_path, tiny_run):
    (tmp_path / ".skiing.partial").mkdir()
    (tmp_path / ".skiing.partial" / "started.json").write_text((tiny_run / "run.json").read_text())
    facts = json.loads(tav("info", tmp_path / "skiing", "--json").stdout)
    assert facts["kind"] == "unfinished run"
    assert "--resume continues" in facts["next"]


def test_info_on_a_folder_of_edits(tav, tmp_path):
    record = {"guidance_scale": 3.5, "edits": [{"file": "00.mp4", "prompt": "a panda"}]}
    (tmp_path / "edits.json").write_text(json.dumps(record))
    facts = json.loads(tav("info", tmp_path, "--json").stdout)
    assert facts == {"kind": "edits", "guidance_scale": 3.5, "edits": {"00.mp4": "a panda"}}


def test_info_on_a_base(tav, tiny_base):
    facts = json.loads(tav("info", tiny_base, "--json").stdout)
    assert facts["kind"] == "base model"
    assert facts["size_multiple"] == 16
    assert facts["recommended"]["height"] == 64


def test_info_on_pocket(tav):
    assert json.loads(tav("info", "pocket", "--json").stdout)["recommended"]["learning_rate"] == 5e-4


def test_info_on_a_video(tav, clip_path):
    facts = json.loads(tav("info", clip_path, "--json").stdout)
    assert facts == {"kind": "video", "height": 64, "width": 64, "frames": 10, "fps": 8.0, "codec": "h264"}


def test_info_as_a_table(tav, tiny_base):
    lines = tav("info", tiny_base).stdout.splitlines()
    assert "unet           block out channels [8, 16], cross attention dim 16" in [line.rstrip() for line in lines]


def test_info_on_another_folder_says_what_it_looked_for(tav, tmp_path):
    result = tav("info", tmp_path)
    assert result.exit_code == 2
    assert "is neither a bundle (manifest.json), nor a run (run.json), nor a base model" in result.stderr


# --- tune -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tiny_base, clip_path, work):
    return {
        "base": str(tiny_base),
        "video": str(clip_path),
        "prompt": "a red square",
        "out": str(work / "run"),
        "num_frames": 2,
        "height": 32,
        "width": 32,
        "num_train_steps": 2,
    }


def config_of(out):
    return json.loads((out / "run.json").read_text())["config"]


def write(path, values):
    path.write_text(yaml.safe_dump(values))
    return path


def test_missing_settings_are_named(tav):
    result = tav("tune", "--base", "b")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: give --video, --prompt, --out (or a --config file that has it); see tav tune --help\n"
    )


def test_json_is_one_line_a_step(tav, settings, tmp_path):
    result = tav("tune", "--config", write(tmp_path / "c.yaml", settings), "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["stage"], line["step"], line["total"]) for line in lines] == [("tune", 1, 2), ("tune", 2, 2)]
    assert all(line["loss"] > 0 for line in lines)
    assert result.stderr == ""


def test_without_json_standard_output_is_empty(tav, settings, tmp_path, work):
    result = tav("tune", "--config", write(tmp_path / "c.yaml", settings))
    assert result.stdout == ""
    assert f"tuned {work / 'run'}; next: tav export {work / 'run'} --out BUNDLE" in result.stderr


def test_options_win_over_the_configuration_file(tav, settings, tmp_path, work):
    values = settings | {"seed": 1, "inflation": {"attention": "spatial"}}
    tav("tune", "--config", write(tmp_path / "c.yaml", values), "--seed", 2, "--preset", "original")
    config = config_of(work / "run")
    assert config["seed"] == 2
    assert (config["inflation"]["attention"], config["inflation"]["group_norm"]) == ("spatial", "video")


def test_an_unknown_key_names_the_nearest(tav, settings, tmp_path):
    result = tav("tune", "--config", write(tmp_path / "c.yaml", settings | {"hight": 3}))
    assert result.exit_code == 2
    assert "unknown key 'hight' in the tuning configuration; did you mean 'height'?" in result.stderr


def test_a_configuration_of_the_released_code_names_what_it_cannot_honour(tav, settings, tmp_path, work):
    values = {
        "pretrained_model_path": settings["base"],
        "output_dir": settings["out"],
        "train_data": {
            "video_path": settings["video"],
            "prompt": "a man",
            "n_sample_frames": 2,
            "width": 32,
            "height": 32,
        },
        "validation_data": {"prompts": ["a panda"]},
        "max_train_steps": 1,
    }
    result = tav("tune", "--config", write(tmp_path / "c.yaml", values))
    assert result.exit_code == 0, result.stderr
    text = "validation_data.prompts is not honoured: tuning does not edit; use tav export and then tav edit"
    assert text in result.stderr
    assert config_of(work / "run")["prompt"] == "a man"


def test_a_missing_configuration_file_is_refused(tav, tmp_path):
    result = tav("tune", "--config", tmp_path / "c.yaml")
    assert result.exit_code == 2
    advice = "give a YAML file of keys and values, such as 'learning_rate: 3e-5'"
    assert result.stderr == f"error: there is no configuration file {tmp_path / 'c.yaml'}; {advice}\n"


# --- edit, generate -------------------------------------------------------------------------------------------------


@pytest.fixture
def edited(tav, tiny_bundle, clip_path, work):
    def run(*args: object):
        steps = ("--num-inversion-steps", 2, "--num-inference-steps", 2)
        result = tav("edit", tiny_bundle, "--video", clip_path, "--out", work / "out", *steps, *args)
        assert result.exit_code == 0, result.stderr
        return work / "out"

    return run


def test_each_prompt_gives_a_video(edited):
    out = edited("--prompt", "a [bold] panda / ?", "--prompt", "skiing")
    assert sorted(path.name for path in out.iterdir()) == [
        "00.mp4",
        "01.mp4",
        "edits.json",
        "sheet.png",
        "source.mp4",
    ]
    edits = json.loads((out / "edits.json").read_text())["edits"]
    assert edits == [{"file": "00.mp4", "prompt": "a [bold] panda / ?"}, {"file": "01.mp4", "prompt": "skiing"}]


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_other_formats(edited, kind):
    out = edited("--prompt", "x", "--format", kind)
    assert {f"00.{kind}", f"source.{kind}"} < {path.name for path in out.iterdir()}


def test_a_frame_rate(tav, edited):
    out = edited("--prompt", "x", "--fps", 5)
    assert json.loads(tav("info", out / "00.mp4", "--json").stdout)["fps"] == 5


def test_a_correction_and_a_scale_are_recorded(edited):
    out = edited("--prompt", "x", "--correction", "direct", "--adapter-scale", 0.5, "--reconstruct")
    record = json.loads((out / "edits.json").read_text())
    assert (record["correction"], record["adapter_scale"], record["inversion_prompt"]) == ("direct", 0.5, "")
    out = edited("--prompt", "x", "--correction", "negative-prompt", "--overwrite")
    record = json.loads((out / "edits.json").read_text())
    assert (record["correction"], record["adapter_scale"]) == ("negative-prompt", 1.0)
    assert record["inversion_prompt"] == record["caption"]


def test_generating_is_the_same_for_the_same_seed(tav, tiny_bundle, work):
    def generate(name: str, seed: int) -> np.ndarray:
        options = ("--seed", seed, "--num-inference-steps", 2, "--out", work / name)
        result = tav("generate", tiny_bundle, "--prompt", "a panda", *options)
        assert result.exit_code == 0, result.stderr
        return read_video(work / name / "00.mp4").frames.astype(float)

    # Not the bytes: x264 does not always write the same ones.
    first = generate("a", 7)
    assert np.abs(generate("b", 7) - first).mean() < 0.5
    assert np.abs(generate("c", 8) - first).mean() > 5


# --- make-tiny-base -------------------------------------------------------------------------------------------------


def test_a_tiny_base_takes_a_prediction_type(tav, work):
    result = tav("make-tiny-base", work / "base", "--prediction-type", "v_prediction")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(tav("info", work / "base", "--json").stdout)
    assert facts["schedule"]["prediction_type"] == "v_prediction"
