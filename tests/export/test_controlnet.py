"""A ControlNet as a graph of its own: what it computes is diffusers', frame by frame; what does not fit is refused."""

import json
import shutil
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import tav_sdk
from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import DOWN_RESIDUAL, MID_RESIDUAL, UNET
from tav_sdk.errors import BaseModelError, BundleError, InputError, PickledWeightsError
from tav_sdk.export import ExportOptions, export_bundle, export_controlnet
from tav_sdk.export.controlnet import _load
from tav_sdk.pipeline.controlnet import Control, ControlNet
from tav_sdk.training import PretrainedBase
from tav_sdk.video.clip import Video


def make_controlnet(base, folder, **changes):
    """A ControlNet for ``base`` whose zero convolutions are not zero."""
    unet = PretrainedBase(base).load_unet()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        embedding: dict[str, Any] = {"conditioning_embedding_out_channels": (4, 8, 8, 16)}
        model = diffusers.ControlNetModel.from_unet(unet, **embedding | changes)
        for name, parameter in model.named_parameters():
            if name.startswith(
                ("controlnet_down_blocks", "controlnet_mid_block", "controlnet_cond_embedding.conv_out")
            ):
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_controlnet(made_once, tiny_base):
    """For ``tiny_base``, in the diffusers format; do not write into it."""
    return made_once("tiny_controlnet", lambda path: make_controlnet(tiny_base, path))


@pytest.fixture(scope="session")
def control_bundle(made_once, tiny_run, traced_once):
    """``tiny_run`` exported with control; do not write into it."""
    return made_once(
        "control_bundle", lambda path: export_bundle(tiny_run, path, ExportOptions(control=True, windows=False))
    )


@pytest.fixture(scope="session")
def exported(made_once, tiny_controlnet, control_bundle):
    """``tiny_controlnet`` exported for ``control_bundle``; do not write into it."""
    return made_once(
        "exported_controlnet", lambda path: export_controlnet(tiny_controlnet, path, bundle=control_bundle)
    )


@pytest.fixture(scope="session")
def feeds(control_bundle):
    manifest = Bundle(control_bundle).manifest
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (manifest.num_frames, manifest.height, manifest.width, 3), dtype=np.uint8)
    shape = (2, *manifest.latents_shape[1:])
    states = [1 if isinstance(a, str) else a for a in manifest.graphs[UNET].inputs[2].shape]
    return {
        "sample": rng.standard_normal(shape, dtype=np.float32),
        "timestep": np.asarray(321),
        "states": rng.standard_normal((2, *states[1:]), dtype=np.float32),
        "video": Video(frames=frames, fps=8),
    }


def pixels_of(video):
    return video.frames.transpose(0, 3, 1, 2).astype(np.float32) / 255


# --- parity ---------------------------------------------------------------------------------------------------------


def test_residuals_are_those_of_diffusers_frame_by_frame(exported, tiny_controlnet, feeds):
    model = diffusers.ControlNetModel.from_pretrained(tiny_controlnet).eval()
    with ControlNet(exported) as net:
        got = net.residuals(feeds["sample"], feeds["timestep"], feeds["states"], pixels_of(feeds["video"]), 0.7)
    names = list(got)
    assert names[-1] == MID_RESIDUAL
    assert all(name.startswith(DOWN_RESIDUAL) for name in names[:-1])
    for video, frame in ((0, 0), (1, 2)):
        with torch.no_grad():
            down, mid = model(
                torch.from_numpy(feeds["sample"][video, :, frame][None]),
                torch.tensor(321),
                torch.from_numpy(feeds["states"][video][None]),
                torch.from_numpy(pixels_of(feeds["video"])[frame][None]),
                conditioning_scale=0.7,
                return_dict=False,
            )
        for name, expected in zip(names, (*down, mid), strict=True):
            np.testing.assert_allclose(got[name][video, frame], expected[0].numpy(), atol=2e-5, err_msg=name)


def test_a_controlled_call_is_that_of_diffusers_on_a_single_frame(tiny_base, tiny_controlnet, tiny_run, feeds):
    """Untuned, and in the frame preset, frame 0 is the image model's."""
    from tav_sdk.training import inflate

    unet, model = (
        PretrainedBase(tiny_base).load_unet(),
        diffusers.ControlNetModel.from_pretrained(tiny_controlnet).eval(),
    )
    sample, states = (torch.from_numpy(feeds[name][:1]) for name in ("sample", "states"))
    condition = torch.from_numpy(pixels_of(feeds["video"]))
    with torch.no_grad():
        frames = sample.shape[2]
        folded = sample.transpose(1, 2).flatten(0, 1)
        down, mid = model(folded, torch.tensor(321), states.expand(frames, -1, -1), condition, return_dict=False)
        expected = unet(
            folded[:1],
            torch.tensor(321),
            states,
            down_block_additional_residuals=[residual[:1] for residual in down],
            mid_block_additional_residual=mid[:1],
        ).sample
        uncontrolled = unet(folded[:1], torch.tensor(321), states).sample
        residuals = [residual.unflatten(0, (1, frames)) for residual in (*down, mid)]
        got = inflate(unet, num_frames=frames)(sample, torch.tensor(321), states, *residuals)
    np.testing.assert_allclose(got[:, :, 0].numpy(), expected.numpy(), atol=2e-5)
    assert float((expected - uncontrolled).abs().max()) > 0.01


# --- editing --------------------------------------------------------------------------------------------------------


def test_a_control_bundle_without_control_edits_as_one_without(control_bundle, tiny_bundle):
    videos = []
    for bundle in (control_bundle, tiny_bundle):
        with tav_sdk.load(bundle, cache=False) as pipeline:
            videos.append(pipeline.generate("a man", num_inference_steps=3).frames.astype(int))
    assert abs(videos[0] - videos[1]).max() <= 1


def test_control_changes_an_edit_and_scale_0_does_not(control_bundle, exported, feeds):
    with ControlNet(exported) as net, tav_sdk.load(control_bundle, cache=False) as pipeline:
        videos = [
            pipeline.generate("a man", num_inference_steps=2, control=control).frames
            for control in (
                None,
                Control(video=feeds["video"], controlnet=net, scale=0.0),
                Control(video=feeds["video"], controlnet=net),
            )
        ]
    np.testing.assert_array_equal(videos[0], videos[1])
    assert (videos[0] != videos[2]).mean() > 0.05


def test_an_inversion_with_control_is_another_one_and_is_kept_apart(
    control_bundle, exported, feeds, clip_path, tmp_path, monkeypatch
):
    monkeypatch.setenv("TAV_CACHE", str(tmp_path))
    with ControlNet(exported) as net, tav_sdk.load(control_bundle) as pipeline:
        manifest = pipeline.manifest
        clip = tav_sdk.read_video(clip_path, num_frames=manifest.num_frames, size=(manifest.height, manifest.width))
        control, seen = Control(video=feeds["video"], controlnet=net), []
        made = [
            pipeline.invert(
                clip, num_inversion_steps=2, control=one, callback=lambda step: seen.append(step.resumed)
            ).latents
            for one in (None, control, control)
        ]
    assert (made[0] != made[1]).any()
    np.testing.assert_array_equal(made[1], made[2])
    assert seen[-1] == "cache"


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_bundle_without_control_is_refused(tiny_bundle, tiny_controlnet, exported, feeds, tmp_path):
    text = "takes no control; export its run again with control"
    with pytest.raises(BundleError, match=text):
        export_controlnet(tiny_controlnet, tmp_path / "net", bundle=tiny_bundle)
    with (
        ControlNet(exported) as net,
        tav_sdk.load(tiny_bundle) as pipeline,
        pytest.raises(BundleError, match=text),
    ):
        pipeline.generate("a man", control=Control(video=feeds["video"], controlnet=net))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cross_attention_dim": 48}, r"for another base: width of the text states: expected 16, got 48"),
        (
            {"block_out_channels": [16, 48]},
            r"for another base: residuals: expected 8x8x8, .*16x4x4, got 16x8x8, .*48x4x4$",
        ),
        ({"conditioning_channels": 1}, "channels of the control pictures: expected 3, got 1"),
        ({"conditioning_embedding_out_channels": [4, 8]}, "pixels of a control picture per latent: expected 8, got 2"),
    ],
)
def test_a_controlnet_for_another_base_is_refused(changes, text, tiny_base, control_bundle, tmp_path):
    unet = PretrainedBase(tiny_base).load_unet()
    config = dict(diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 16)).config)
    config = {key: value for key, value in config.items() if not key.startswith("_")} | changes
    diffusers.ControlNetModel(**config).save_pretrained(tmp_path / "other")
    with pytest.raises(BaseModelError, match=text):
        export_controlnet(tmp_path / "other", tmp_path / "net", bundle=control_bundle)
    assert not (tmp_path / "net").exists()


def test_an_exported_controlnet_of_another_shape_is_refused(exported, control_bundle, feeds, tmp_path):
    other = shutil.copytree(exported, tmp_path / "other")
    manifest = json.loads((other / "controlnet.json").read_text())
    for tensor in manifest["graph"]["outputs"]:
        tensor["shape"][2] *= 2
    (other / "controlnet.json").write_text(json.dumps(manifest))
    with (
        tav_sdk.load(control_bundle) as pipeline,
        pytest.raises(BundleError, match=rf"is not as its manifest says: expected the output '{DOWN_RESIDUAL}_0' as "),
    ):
        pipeline.generate("a man", control=Control(video=feeds["video"], controlnet=ControlNet(other)))


def test_pickled_weights_are_refused(tiny_controlnet, control_bundle, tmp_path):
    source = shutil.copytree(tiny_controlnet, tmp_path / "source")
    (source / "diffusion_pytorch_model.safetensors").rename(source / "diffusion_pytorch_model.bin")
    with pytest.raises(PickledWeightsError, match=r"has only pickled weights .*allow it with allow_pickle"):
        export_controlnet(source, tmp_path / "net", bundle=control_bundle)


def test_what_is_no_controlnet_is_refused(tiny_base, control_bundle, tmp_path):
    with pytest.raises(BaseModelError, match=r"is a UNet2DConditionModel, expected a ControlNetModel; T2I-Adapters"):
        export_controlnet(tiny_base / "unet", tmp_path / "net", bundle=control_bundle)
    with pytest.raises(BaseModelError, match=r"there is no ControlNet at .*config.json"):
        export_controlnet(tmp_path, tmp_path / "net", bundle=control_bundle)
    with pytest.raises(BundleError, match=r"there is no exported ControlNet at .*: controlnet.json is missing"):
        ControlNet(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"layers_per_block": 1000000}', r"config.json is not valid: layers_per_block: Input should be less than"),
        (
            '{"conditioning_embedding_out_channels": []}',
            "conditioning_embedding_out_channels: List should have at least",
        ),
        (
            '{"_class_name": "ControlNetModel", "block_out_channels": null}',
            "block_out_channels: Input should be a valid",
        ),
        ("[" * 100_000, "config.json is nested more than 64 deep; download the model again"),
        ("3", "config.json is not valid: Input should be a valid dictionary"),
    ],
)
def test_a_configuration_out_of_bounds_is_refused(tmp_path, content, said):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(BaseModelError, match=said):
        _load(tmp_path, allow_pickle=False)


def test_a_control_video_of_another_length_or_size_is_refused(exported, feeds):
    frames = feeds["video"].frames
    with ControlNet(exported) as net:
        for wrong, got in ((frames[:3], "3 frames of 64x64"), (frames[:, :32], "4 frames of 32x64")):
            with pytest.raises(InputError, match=rf"the control video has {got} .*takes 4 of 64x64; read it with"):
                Control(video=Video(frames=wrong, fps=8), controlnet=net)
        with pytest.raises(InputError, match=r"scale must be from 0 to 10, got -1"):
            Control(video=feeds["video"], controlnet=net, scale=-1)
        with pytest.raises(InputError, match=r"the control must be a Video, got ndarray; Video\(frames=canny"):
            Control(video=frames, controlnet=net)
        with pytest.raises(InputError, match=r"controlnet must be a ControlNet, got str; open one first"):
            Control(video=feeds["video"], controlnet="net")  # type: ignore[arg-type]


def test_a_damaged_file_is_refused(exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    path = copy / "controlnet" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        BundleError, match=r"controlnet/model.onnx in the ControlNet .* was changed: expected \d+ bytes"
    ):
        ControlNet(copy)


# --- the command line -----------------------------------------------------------------------------------------------


def test_an_edit_by_the_command_line_exports_into_the_cache_once(
    tav, control_bundle, tiny_controlnet, clip_path, tmp_path, monkeypatch
):
    monkeypatch.setenv("TAV_CACHE", str(tmp_path / "cache"))

    def edit(out):
        return tav(
            *("edit", control_bundle, "--video", clip_path, "--prompt", "a man", "--out", tmp_path / out),
            *(
                "--num-inference-steps",
                2,
                "--control",
                "canny",
                "--controlnet",
                tiny_controlnet,
                "--control-scale",
                0.8,
            ),
        )

    result = edit("one")
    assert result.exit_code == 0, result.stderr
    settings = json.loads((tmp_path / "one" / "edits.json").read_text())
    assert settings["control"] == "canny"
    assert settings["control_scale"] == 0.8
    assert (tmp_path / "one" / "control.mp4").is_file()
    assert "controlnets: 1 entry" in tav("cache", "list").stdout

    from tav_sdk.export import controlnet

    monkeypatch.setattr(controlnet, "export_controlnet", None)  # calling it would be an error
    assert edit("two").exit_code == 0
    assert (tmp_path / "two" / "00.mp4").read_bytes() == (tmp_path / "one" / "00.mp4").read_bytes()


def test_pickled_weights_are_exported_first(tav, tiny_controlnet, control_bundle, clip_path, tmp_path):
    source = shutil.copytree(tiny_controlnet, tmp_path / "source")
    (source / "diffusion_pytorch_model.safetensors").rename(source / "diffusion_pytorch_model.bin")
    result = tav(
        *("edit", control_bundle, "--video", clip_path, "--prompt", "a man", "--out", tmp_path / "out"),
        *("--control", "canny", "--controlnet", source),
    )
    assert result.exit_code == 2
    assert "In edits it cannot be: export it with tav export-controlnet" in result.stderr
    assert not (tmp_path / "out").exists()
