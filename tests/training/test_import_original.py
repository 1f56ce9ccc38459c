"""Checkpoints of the released code as runs."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tav_sdk import load, read_video
from tav_sdk.errors import CheckpointError, ConfigError, PickledWeightsError, PromptError
from tav_sdk.training import InflationOptions, PretrainedBase, import_original, inflate, load_run, trainable_parameters
from tav_sdk.training.checkpoint import load_tuned_weights

PROMPT = "a red square is moving over the meadow"
SIZE: dict[str, Any] = {"num_frames": 2, "height": 32, "width": 32}
ORIGINAL = InflationOptions(preset="original")


@pytest.fixture(scope="session")
def released(made_once, tiny_base):
    """What the released code leaves behind: a pipeline's folder whose U-Net is 3-D; do not write into it."""

    def make(path):
        shutil.copytree(tiny_base, path)
        model = inflate(PretrainedBase(tiny_base).load_unet(), ORIGINAL, 2, seed=3)
        generator = torch.Generator().manual_seed(3)
        for parameter in trainable_parameters(model).values():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        weights = path / "unet" / "diffusion_pytorch_model.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, weights)
        config = path / "unet" / "config.json"
        values = json.loads(config.read_text()) | {"_class_name": "UNet3DConditionModel"}
        values["down_block_types"] = [name.replace("2D", "3D") for name in values["down_block_types"]]
        values["up_block_types"] = [name.replace("2D", "3D") for name in values["up_block_types"]]
        config.write_text(json.dumps(values))

    return made_once("released", make)


@pytest.fixture
def changed(released, tmp_path):
    """``changed(change)``: a copy whose tensors ``change`` has edited."""

    def make(change):
        folder = shutil.copytree(released, tmp_path / "changed")
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        state = load_file(weights)
        state = change(state) or state
        save_file(state, weights)
        return folder

    return make


@pytest.fixture
def imported(tiny_base, tmp_path):
    def run(folder, **more):
        return import_original(folder, tmp_path / "run", base=tiny_base, prompt=PROMPT, **{**SIZE, **more})

    return run


def weights_of(folder):
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("part", ["", "unet"])
def test_a_run_has_the_tuned_tensors_alone(imported, released, part):
    run, state = imported(released / part), weights_of(released)
    tuned = load_file(run.tuned_path)
    assert all(torch.equal(tensor, state[name]) for name, tensor in tuned.items())
    assert all(name.rsplit(".to_", 1)[0].endswith(("attn1", "attn2", "attn_temp")) for name in tuned)
    assert sorted(path.name for path in run.folder.iterdir()) == ["run.json", "tuned.safetensors"]


def test_the_model_computes_what_the_checkpoint_does(imported, released, tiny_base):
    run = imported(released)
    model = inflate(PretrainedBase(tiny_base).load_unet(), run.inflation, 2)
    load_tuned_weights(model, run.tuned_path)
    expected = inflate(PretrainedBase(tiny_base).load_unet(), ORIGINAL, 2)
    expected.load_state_dict(weights_of(released))
    sample, states = torch.randn(1, 4, 2, 8, 8), torch.randn(1, 77, 16)
    with torch.no_grad():
        assert torch.equal(model(sample, 400, states), expected(sample, 400, states))


def test_the_record_says_where_it_comes_from(tav, imported, released, tiny_base):
    run = imported(released)
    assert (run.config.inflation, run.config.num_frames, run.config.height) == (ORIGINAL, 2, 32)
    assert run.record["base"]["sha256"] == PretrainedBase(tiny_base).sha256
    assert run.record["clip"] == {"name": None, "sha256": None, "num_frames": 2, "height": 32, "width": 32, "fps": 8.0}
    facts = json.loads(tav("info", run.folder, "--json").stdout)
    assert facts["imported"]["of"] == "showlab/Tune-A-Video"
    assert "tuning" not in facts


def test_a_clip_gives_its_rate_and_its_hash(imported, released, clip_path):
    run = imported(released, video=clip_path, start=1, stride=2)
    clip = read_video(clip_path, num_frames=2, start=1, stride=2, size=(32, 32))
    assert run.record["clip"]["sha256"] == clip.content_hash
    assert run.record["clip"]["fps"] == clip.fps == 4.0


def test_a_pickled_checkpoint_needs_the_flag(imported, released, tmp_path):
    (tmp_path / "pickled").mkdir()
    torch.save(weights_of(released), tmp_path / "pickled" / "diffusion_pytorch_model.bin")
    with pytest.raises(PickledWeightsError, match=r"model.bin is pickled; .* allow it with allow_pickle"):
        imported(tmp_path / "pickled")
    run = imported(tmp_path / "pickled", allow_pickle=True)
    state = weights_of(released)
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(run.tuned_path).items())


def test_a_pickle_that_holds_code_is_refused(imported, tmp_path):
    class Harmful:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"x": Harmful()}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"the checkpoint .* cannot be read"):
        imported(tmp_path, allow_pickle=True)


def test_missing_and_extra_keys_are_listed_with_their_count(imported, changed, tmp_path):
    def damage(state):
        state.pop("conv_in.bias")
        return state | {f"motion.{index:02}": torch.zeros(1) for index in range(12)}

    with pytest.raises(CheckpointError) as refused:
        imported(changed(damage))
    text = str(refused.value)
    assert "does not fit this U-Net (13 differences):\n  missing conv_in.bias\n  unexpected motion.00\n" in text
    assert text.count("unexpected") == 9  # ten are shown
    assert not (tmp_path / "run").exists()


def test_an_image_model_is_refused(imported, tiny_base):
    with pytest.raises(CheckpointError) as refused:
        imported(tiny_base)
    path = tiny_base / "unet" / "diffusion_pytorch_model.safetensors"
    text = f"the checkpoint {path} is an image model's, not one of the released code: it has none of the"
    assert str(refused.value).startswith(text)
    assert str(refused.value).endswith("Give what tuning with the released code has written")


def test_another_base_is_named_as_the_cause(imported, changed):
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    folder = changed(lambda state: state | {key: torch.zeros(8, 32)})
    text = rf"was made from another base, and does not fit this U-Net \(1 differences\):\n  {key}: expected \(8, 16\)"
    with pytest.raises(CheckpointError, match=text):
        imported(folder)


def test_other_tensors_than_the_tuned_ones_may_not_differ(imported, changed):
    def train_more(state):
        names = sorted(name for name in state if name.endswith("norm3.weight"))
        names += sorted(name for name in state if "resnets" in name and name.endswith("weight"))
        for name in names[:12]:
            state[name] = state[name] + 0.01

    with pytest.raises(CheckpointError) as refused:
        imported(changed(train_more))
    text = str(refused.value)
    assert "was not tuned from the base base, or more than the paper's tensors were: 12 of " in text
    lines = text.split("others differ:\n")[1].split("\nGive the base")[0].splitlines()
    assert len(lines) == 11
    assert lines[-1] == "  and 2 more"


def test_half_precision_of_the_same_base_is_the_same(imported, changed):
    imported(changed(lambda state: {name: tensor.half() for name, tensor in state.items()}))


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_a_folder_without_a_checkpoint_is_refused(imported, tmp_path, place):
    with pytest.raises(
        CheckpointError, match=r"there is no checkpoint in .*: expected diffusion_pytorch_model.safeten"
    ):
        imported(tmp_path / place)


def test_a_caption_is_needed(released, tiny_base, tmp_path):
    with pytest.raises(PromptError, match=r"the clip's prompt is empty"):
        import_original(released, tmp_path / "run", base=tiny_base, prompt=" ", **SIZE)


def test_the_number_of_frames_is_checked(imported, released):
    with pytest.raises(ConfigError, match=r"num_frames must be at least 1, got 0"):
        imported(released, num_frames=0)


def test_it_is_exported_and_edited(tav, released, tiny_base, clip_path, work, traced_once):
    args = ("--base", tiny_base, "--prompt", PROMPT, "--frames", 4, "--height", 64, "--width", 64)
    result = tav("import-original", released, *args, "--out", work / "run")
    assert result.exit_code == 0, result.stderr
    assert f"imported {work / 'run'}; next: tav export {work / 'run'} --out BUNDLE" in result.stderr
    result = tav("export", work / "run", "--out", work / "bundle", "--no-windows")
    assert result.exit_code == 0, result.stderr
    assert load_run(work / "run").inflation == ORIGINAL
    steps = ("--num-inversion-steps", 2, "--num-inference-steps", 2)
    result = tav(
        "edit", work / "bundle", "--video", clip_path, "--prompt", "a blue circle", "--out", work / "out", *steps
    )
    assert result.exit_code == 0, result.stderr
    with load(work / "bundle") as pipeline:
        assert pipeline.manifest.inflation["preset"] == "original"
        assert len(pipeline.generate("a blue circle", num_inference_steps=1).frames) == 4
