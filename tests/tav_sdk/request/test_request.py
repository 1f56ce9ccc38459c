"""Every rule of a request: raised through Python and through the command line, and read both times."""

from __future__ import annotations

import ast
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tav_sdk
from tav_sdk.bundle import Bundle
from tav_sdk.errors import BundleError, InputError, TavError
from tav_sdk.request import (
    ControlOptions,
    EditRequest,
    EditSettings,
    FrameSelection,
    GenerateRequest,
    GenerateSettings,
    InvertOptions,
    SampleOptions,
)
from tav_sdk.request.bundle_checks import check_clip, check_latents
from tav_sdk.request.settings import InvertSettings, SampleSettings, fast_steps

NONE: Any = None
REQUEST = Path(tav_sdk.__file__).parent / "request"


def edit(**values: Any) -> EditRequest:
    return EditRequest(**{"prompts": "a man", **values})


def resolved(request: EditRequest, folder: Path) -> EditSettings:
    bundle = Bundle(folder)
    return EditSettings.of(request, bundle.manifest, bundle.schedule)


Case = tuple[Callable[[Path], Any], str, list[Any] | None, str]
# What Python raises it with, its text; the options of tav edit that raise it, and the text there. ``None``: none can.
CASES: dict[str, Case] = {
    "a prompt": (
        lambda _: edit(prompts=()),
        "prompts must be a text or a list of texts, got ()",
        ["--prompt", ""],
        "--prompt must not be empty; say what the new video shows",
    ),
    "an empty prompt": (
        lambda _: edit(prompts=("a man", " ")),
        "prompts must not be empty; say what the new video shows",
        ["--prompt", " "],
        "--prompt must not be empty; say what the new video shows",
    ),
    "a prompt that is no UTF-8": (
        lambda _: edit(prompts="caf\udce9"),
        "prompts must be text in UTF-8, got 'caf\\udce9'",
        None,  # the parser of the command line refuses it
        "",
    ),
    "a part of another kind": (
        lambda _: edit(invert=None),
        "invert must be of the kind InvertOptions, got None",
        None,
        "",
    ),
    "a switch": (
        lambda _: edit(stream="yes"),
        "stream must be True or False, got 'yes'",
        None,
        "",
    ),
    "no inversion": (
        lambda folder: SampleSettings.from_inversion(
            SampleOptions(), Bundle(folder).manifest, Bundle(folder).schedule, NONE
        ),
        "inversion must be a tav_sdk.Inversion, as Pipeline.invert gives, got None",
        None,
        "",
    ),
    "a prompt of another kind": (
        lambda _: edit(prompts=(1,)),
        "prompts must be a text, got int",
        None,
        "",
    ),
    "inversion steps": (
        lambda _: InvertOptions(num_inversion_steps=0),
        "num_inversion_steps must be a whole number from 1 to 1000, got 0",
        ["--num-inversion-steps", 0],
        "--num-inversion-steps must be a whole number from 1 to 1000, got 0",
    ),
    "sampling steps": (
        lambda _: SampleOptions(num_inference_steps=1001),
        "num_inference_steps must be a whole number from 1 to 1000, got 1001",
        ["--num-inference-steps", 1001],
        "--num-inference-steps must be a whole number from 1 to 1000, got 1001",
    ),
    "a correction": (
        lambda _: InvertOptions(correction="null"),  # type: ignore[arg-type]
        "correction must be none, negative-prompt or direct, got 'null'",
        ["--correction", "null"],
        "--correction must be none, negative-prompt or direct, got 'null'",
    ),
    "fast and direct": (
        lambda _: InvertOptions(fast=True, correction="direct"),
        "correction cannot be direct with a fast inversion: direct needs the steps of DDIM",
        ["--fast", "--correction", "direct"],
        "--correction cannot be direct with a fast inversion",
    ),
    "negative-prompt without a caption": (
        lambda _: InvertOptions(correction="negative-prompt", prompt=" "),
        "prompt must say what the clip shows for the correction negative-prompt, got ' '",
        ["--correction", "negative-prompt", "--inversion-prompt", " "],
        "--inversion-prompt must say what the clip shows",
    ),
    "a posterior seed": (
        lambda _: InvertOptions(posterior_seed=2**63),
        "posterior_seed must be a whole number from 0 to 2^63 - 1, got 9223372036854775808",
        ["--seed", 2**63],
        "--seed must be a whole number from 0 to 2^63 - 1, got 9223372036854775808",
    ),
    "guidance": (
        lambda _: SampleOptions(guidance_scale=float("nan")),
        "guidance_scale must be a finite number, got nan",
        ["--guidance-scale", "nan"],
        "--guidance-scale must be a finite number, got nan",
    ),
    "guidance beyond all sense": (
        lambda _: SampleOptions(guidance_scale=1e308),
        "guidance_scale must be from -1e+06 to 1e+06, got 1e+308",
        ["--guidance-scale", "1e308"],
        "--guidance-scale must be from -1e+06 to 1e+06, got 1e+308",
    ),
    "a negative prompt": (
        lambda _: edit(
            invert=InvertOptions(correction="negative-prompt"), sample=SampleOptions(negative_prompt="snow")
        ),
        "negative_prompt must be empty with the correction negative-prompt, got 'snow'",
        ["--correction", "negative-prompt", "--negative-prompt", "snow"],
        "--negative-prompt must be empty with the correction negative-prompt, got 'snow'",
    ),
    "a control video": (
        lambda folder: ControlOptions(video=folder / "none.mp4", controlnet=folder),
        "video must be a file, or one of canny, soft-edges; there is no file",
        ["--control", "none.mp4", "--controlnet", "pocket"],
        "--control must be a file, or one of canny, soft-edges; there is no file none.mp4",
    ),
    "a ControlNet": (
        lambda folder: ControlOptions(video="canny", controlnet=folder / "none"),
        "controlnet must be pocket or a folder that tav export-controlnet wrote",
        ["--control", "canny", "--controlnet", "none"],
        "--controlnet must be pocket or a folder that tav export-controlnet wrote; none is no folder",
    ),
    "a control scale": (
        lambda _: ControlOptions(video="canny", controlnet="pocket", scale=11),
        "scale must be from 0 to 10, got 11",
        ["--control", "canny", "--controlnet", "pocket", "--control-scale", 11],
        "--control-scale must be from 0 to 10, got 11",
    ),
    "frames": (
        lambda _: FrameSelection(num_frames=0),
        "num_frames must be a whole number from 1 to 1000000, or all, got 0",
        ["--frames", 0],
        "--frames must be a whole number from 1 to 1000000, or all, got 0",
    ),
    "too many frames": (
        lambda _: FrameSelection(start=1_000_001),
        "start must be a whole number from 0 to 1000000, got 1000001",
        ["--start", 1_000_001],
        "--start must be a whole number from 0 to 1000000, got 1000001",
    ),
    "frames without numbers": (
        lambda folder: FrameSelection().open(folder, size=(8, 8)),
        "frames still has open numbers: take EditSettings.of(request, manifest, schedule).frames",
        None,
        "",
    ),
    "a format": (
        lambda _: edit(file_format="avi"),
        "file_format must be mp4, gif or webp, got 'avi'",
        ["--format", "avi"],
        "--format must be mp4, gif or webp, got 'avi'",
    ),
    "frames and control": (
        lambda _: edit(frames=FrameSelection(num_frames=9), control=ControlOptions(video="canny", controlnet="pocket")),
        "num_frames must be left out with a control, got 9",
        ["--frames", 9, "--control", "canny", "--controlnet", "pocket"],
        "--frames must be left out with a control, got 9",
    ),
    "two prompts in a stream": (
        lambda _: edit(prompts=("a", "b"), stream=True),
        "prompts must be one with streaming, got 2",
        ["--stream", "--prompt", "b"],
        "--prompt must be one with streaming, got 2",
    ),
    "a stream's format": (
        lambda _: edit(stream=True, file_format="gif"),
        "file_format must be mp4 with streaming, got gif",
        ["--stream", "--format", "gif"],
        "--format must be mp4 with streaming, got gif",
    ),
    "a stream with more": (
        lambda _: edit(stream=True, reconstruct=True, invert=InvertOptions(fast=True)),
        "stream does not go with a fast inversion, a reconstruction; leave one of them out",
        ["--stream", "--fast", "--reconstruct"],
        "--stream does not go with a fast inversion, a reconstruction; leave one of them out",
    ),
    "direct with other steps": (
        lambda folder: resolved(
            edit(
                invert=InvertOptions(correction="direct", num_inversion_steps=3),
                sample=SampleOptions(num_inference_steps=4),
            ),
            folder,
        ),
        "num_inference_steps must be 3 with the correction direct, as many steps as of inversion, got 4",
        ["--correction", "direct", "--num-inversion-steps", 3, "--num-inference-steps", 4],
        "--num-inference-steps must be 3 with the correction direct",
    ),
    "negative-prompt without guidance": (
        lambda folder: resolved(
            edit(invert=InvertOptions(correction="negative-prompt"), sample=SampleOptions(guidance_scale=1)), folder
        ),
        "guidance_scale must be above 1 with the correction negative-prompt, got 1",
        ["--correction", "negative-prompt", "--guidance-scale", 1],
        "--guidance-scale must be above 1 with the correction negative-prompt, got 1",
    ),
    "a bundle without a caption": (
        lambda folder: InvertSettings.of(
            InvertOptions(correction="negative-prompt"),
            Bundle(folder).manifest.model_copy(update={"prompt": ""}),
            Bundle(folder).schedule,
        ),
        "prompt must say what the clip shows for the correction negative-prompt, since the bundle has no caption",
        None,
        "",
    ),
    "no clip": (
        lambda folder: check_clip(np.zeros(3), Bundle(folder).manifest, exact_long_video=True),
        "clip must be a tav_sdk.Video, got ndarray; wrap frames",
        None,
        "",
    ),
    "a clip's size": (
        lambda folder: check_clip(
            tav_sdk.Video(frames=np.zeros((4, 8, 8, 3), np.uint8), fps=8),
            Bundle(folder).manifest,
            exact_long_video=True,
        ),
        "clip must have any number of frames of 64x64 pixels (height x width), as the bundle takes them, got 4 frames",
        None,
        "",
    ),
    "latents": (
        lambda folder: check_latents(np.zeros((1, 4, 4, 9, 9)), Bundle(folder).manifest, exact_long_video=True),
        "inversion must have latents of the shape [1, 4, 4, 8, 8], as the bundle takes them, got [1, 4, 4, 9, 9]",
        None,
        "",
    ),
    "a window": (
        lambda folder: resolved(edit(window=8), folder),
        "window must be 4, the frames that the bundle's graphs take at a time, got 8",
        ["--window", 8],
        "--window must be 4, the frames that the bundle's graphs take at a time, got 8",
    ),
    "a rate": (
        lambda _: edit(fps=0),
        "fps must be from 0.01 to 1000 frames per second, got 0",
        ["--fps", 0],
        "--fps must be from 0.01 to 1000 frames per second, got 0",
    ),
    "an adapter scale": (
        lambda _: edit(adapter_scale=3),
        "adapter_scale must be from 0 (the base) to 2, got 3; 1 is as it was tuned",
        ["--adapter-scale", 3],
        "--adapter-scale must be from 0 (the base) to 2, got 3.0",
    ),
    "control of a bundle without": (
        lambda folder: resolved(edit(control=ControlOptions(video="canny", controlnet="pocket")), folder),
        "the bundle's U-Net takes no control; export its run again with control",
        ["--control", "canny", "--controlnet", "pocket"],
        "takes no control; export its run again with control",
    ),
    "a stream of a bundle that cannot": (
        lambda folder: EditSettings.of(
            edit(stream=True),
            Bundle(folder).manifest.model_copy(
                update={"graphs": {"unet": Bundle(folder).manifest.graphs["unet"]}},
            ),
            Bundle(folder).schedule,
        ),
        "the bundle cannot be streamed: it has no windowed U-Net",
        None,
        "",
    ),
}


def raised(case: str, folder: Path) -> TavError:
    with pytest.raises(TavError) as error:
        CASES[case][0](folder)
    return error.value


@pytest.mark.parametrize("case", CASES)
def test_python_names_the_argument(case, tiny_bundle):
    error = raised(case, tiny_bundle)
    assert str(error).startswith(CASES[case][1])
    assert isinstance(error, BundleError) or (isinstance(error, InputError) and error.field)


@pytest.mark.parametrize("case", [case for case, (_, _, options, _) in CASES.items() if options is not None])
def test_the_command_line_names_the_option(case, tav, tiny_bundle, clip_path, work):
    _, _, options, text = CASES[case]
    assert options is not None
    result = tav("edit", tiny_bundle, "--video", clip_path, "--prompt", "a man", *options, "--out", work / "out")
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.split())
    assert not (work / "out").exists()


def sample(**values: Any) -> SampleOptions:
    return SampleOptions(**values)


def invert(**values: Any) -> InvertOptions:
    return InvertOptions(**values)


def control(**values: Any) -> ControlOptions:
    return ControlOptions(**{"video": "canny", "controlnet": "pocket", **values})


def generate(**values: Any) -> GenerateRequest:
    return GenerateRequest(**{"prompts": "a", **values})


def frames(**values: Any) -> FrameSelection:
    return FrameSelection(**values)


WHOLE = "must be a whole number from"


@pytest.mark.parametrize(
    ("make", "values", "text"),
    [
        (sample, {"num_inference_steps": 1.5}, f"num_inference_steps {WHOLE} 1 to 1000, got 1.5"),
        (sample, {"num_inference_steps": "2"}, f"num_inference_steps {WHOLE} 1 to 1000, got '2'"),
        (sample, {"num_inference_steps": 2**31}, f"num_inference_steps {WHOLE} 1 to 1000, got 2147483648"),
        (
            sample,
            {"guidance_scale": 10**400},
            "guidance_scale must be a finite number, got a number of about 400 digits",
        ),
        (sample, {"guidance_scale": "7"}, "guidance_scale must be a finite number, got '7'"),
        (sample, {"negative_prompt": "a\ud800"}, "negative_prompt must be text in UTF-8, got 'a\\ud800'"),
        (invert, {"num_inversion_steps": 10**5000}, "1 to 1000, got a number of about 5000 digits"),
        (invert, {"posterior_seed": "x"}, f"posterior_seed {WHOLE} 0 to 2^63 - 1, got 'x'"),
        (invert, {"prompt": "a\ud800"}, "prompt must be text in UTF-8, got 'a\\ud800'"),
        (invert, {"fast": None}, "fast must be True or False, got None"),
        (generate, {"seed": "x"}, f"seed {WHOLE} 0 to 2^63 - 1, got 'x'"),
        (generate, {"seed": None}, f"seed {WHOLE} 0 to 2^63 - 1, got None"),
        (generate, {"num_frames": 2**63}, f"num_frames {WHOLE} 1 to 1000000, got 9223372036854775808"),
        (generate, {"sample": None}, "sample must be of the kind SampleOptions, got None"),
        (edit, {"prompts": None}, "prompts must be a text or a list of texts, got None"),
        (edit, {"control": "canny"}, "control must be of the kind ControlOptions, got 'canny'"),
        (edit, {"frames": 8}, "frames must be of the kind FrameSelection, got 8"),
        (edit, {"fps": 10**400}, "must be from 0.01 to 1000 frames per second, got a number of about 400 digits"),
        (edit, {"adapter_scale": 10**5000}, "must be from 0 (the base) to 2, got a number of about 5000 digits"),
        (edit, {"adapter_scale": "x\x1b"}, "must be from 0 (the base) to 2, got 'x\\x1b'"),
        (edit, {"window": 2**64}, f"window {WHOLE} 1 to 1000000, got 18446744073709551616"),
        (edit, {"file_format": ["mp4"]}, "file_format must be mp4, gif or webp, got ['mp4']"),
        (edit, {"reconstruct": 1}, "reconstruct must be True or False, got 1"),
        (frames, {"num_frames": np.zeros(2)}, "or all, got array([0., 0.])"),
        (frames, {"num_frames": "x" * 10**6}, "or all, got 'xxxxx"),
        (control, {"video": None}, "video must be a path, got None"),
        (control, {"controlnet": None}, "controlnet must be a path, got None"),
        (control, {"scale": 10**400}, "scale must be from 0 to 10, got a number of about 400 digits"),
        (control, {"video": "a\0"}, "video must be usable, got 'a\\x00': embedded null byte"),
        (control, {"inversion": "x"}, "inversion must be True or False, got 'x'"),
    ],
)
def test_a_value_of_another_kind_or_size_is_refused(make, values, text):
    with pytest.raises(InputError) as error:
        make(**values)
    assert text in str(error.value)
    assert len(str(error.value)) < 250
    assert error.value.field


def test_every_rule_is_in_the_table(tiny_bundle):
    """A new rule needs a case above, or it is not known what callers read of it."""
    sites = {
        (path.name, node.lineno)
        for path in REQUEST.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise)
    }
    seen = set()
    for case in CASES:
        frames = traceback.extract_tb(raised(case, tiny_bundle).__traceback__)
        seen |= {
            (Path(frame.filename).name, frame.lineno) for frame in frames if Path(frame.filename).parent == REQUEST
        }
    assert sites - seen == set()


def test_an_error_comes_whole_from_another_process(tiny_bundle):
    import pickle

    error = raised("guidance", tiny_bundle)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (str(again), again.field) == (str(error), "sample.guidance_scale")


# --- what is filled in ------------------------------------------------------------------------------------------------


def test_a_fast_inversion_takes_half_the_steps_and_its_sampling_a_third():
    assert fast_steps(50) == (25, 16)
    assert fast_steps(25) == (12, 8)
    assert fast_steps(1) == (2, 1)


@pytest.mark.parametrize(
    ("request_", "steps"),
    [
        (edit(), (50, 50)),
        (edit(sample=SampleOptions(num_inference_steps=7)), (7, 7)),
        (edit(invert=InvertOptions(num_inversion_steps=9)), (9, 50)),
        (edit(invert=InvertOptions(fast=True)), (25, 16)),
        (edit(invert=InvertOptions(fast=True), sample=SampleOptions(num_inference_steps=7)), (25, 7)),
        (edit(invert=InvertOptions(correction="direct", num_inversion_steps=9)), (9, 9)),
    ],
)
def test_inversion_takes_as_many_steps_as_sampling(request_, steps, tiny_bundle):
    settings = resolved(request_, tiny_bundle)
    assert (settings.invert.num_inversion_steps, settings.sample.num_inference_steps) == steps


def test_frames_are_those_of_the_tuned_clip(tiny_bundle):
    settings = resolved(edit(), tiny_bundle)
    manifest = Bundle(tiny_bundle).manifest
    assert settings.frames == FrameSelection(num_frames=4, start=manifest.clip.start, stride=manifest.clip.stride)


def test_a_generation_has_the_clips_rate(tiny_bundle):
    bundle = Bundle(tiny_bundle)
    settings = GenerateSettings.of(GenerateRequest(prompts=("a man",)), bundle.manifest, bundle.schedule)
    assert (settings.fps, settings.num_frames, settings.seed) == (bundle.manifest.clip.fps, 4, 0)


def test_sampling_from_an_inversion_follows_its_correction(tiny_bundle):
    bundle = Bundle(tiny_bundle)
    settings = SampleSettings.of(
        SampleOptions(), bundle.manifest, bundle.schedule, correction="direct", num_inversion_steps=3
    )
    assert settings.num_inference_steps == 3


# --- one edit, three callers ------------------------------------------------------------------------------------------


def test_command_line_python_and_make_agree_bit_by_bit(tav, tiny_bundle, clip_path, work):
    from tav_sdk.edits import make

    how = ("--num-inference-steps", 2, "--seed", 3, "--correction", "negative-prompt")
    result = tav("edit", tiny_bundle, "--video", clip_path, "--prompt", "a red car", *how, "--out", work / "by-tav")
    assert result.exit_code == 0, result.stderr
    request = EditRequest(
        prompts=("a red car",),
        invert=InvertOptions(posterior_seed=3, correction="negative-prompt"),
        sample=SampleOptions(num_inference_steps=2),
    )
    with tav_sdk.load(tiny_bundle, cache=False) as pipeline:
        made = make(request, pipeline, work / "by-make", video=clip_path)
        manifest = pipeline.manifest
        clip = tav_sdk.read_video(
            clip_path,
            num_frames=manifest.num_frames,
            start=manifest.clip.start,
            stride=manifest.clip.stride,
            size=(manifest.height, manifest.width),
        )
        inversion = pipeline.invert(clip, num_inversion_steps=2, posterior_seed=3, correction="negative-prompt")
        video = pipeline.edit("a red car", inversion, num_inference_steps=2)
        video.save(work / "by-python.mp4")
    assert made.videos == [work / "by-make" / "00.mp4"]
    for name in ("00.mp4", "source.mp4", "sheet.png", "edits.json"):
        assert (work / "by-tav" / name).read_bytes() == (work / "by-make" / name).read_bytes(), name
    assert (work / "by-python.mp4").read_bytes() == made.videos[0].read_bytes()


def test_a_list_of_prompts_gives_a_list_of_videos(tiny_bundle):
    clip = tav_sdk.Video(frames=np.zeros((4, 64, 64, 3), np.uint8), fps=8)
    seen = []
    with tav_sdk.Pipeline.from_pretrained(tiny_bundle, cache=False) as pipeline:
        inversion = pipeline.invert(clip, num_inversion_steps=1)
        videos = pipeline.edit(["a", "b"], inversion, num_inference_steps=1, callback=seen.append)
        alone = pipeline.edit("b", inversion, num_inference_steps=1)
    np.testing.assert_array_equal(videos[1].frames, alone.frames)
    assert {(step.item.index, step.item.count) for step in seen} == {(1, 2), (2, 2)}


def test_arguments_are_checked_before_the_first_frame_is_asked_for(tiny_bundle):
    with tav_sdk.load(tiny_bundle, cache=False) as pipeline:
        with pytest.raises(InputError, match="num_inference_steps"):
            pipeline.generate_frames("a man", num_inference_steps=0)
        inversion = pipeline.invert(
            tav_sdk.Video(frames=np.zeros((4, 64, 64, 3), np.uint8), fps=8), num_inversion_steps=1
        )
        with pytest.raises(InputError, match="guidance_scale"):
            pipeline.edit_frames("a man", inversion, guidance_scale=float("inf"))


def test_each_frame_of_a_clip_that_fits_is_decoded_once(tiny_bundle, clip_path, work, monkeypatch):
    from tav_sdk.edits import make
    from tav_sdk.video import reader

    decoded = []
    real = reader.decode
    monkeypatch.setattr(reader, "decode", lambda path, *rest: decoded.append(path) or real(path, *rest))
    request = edit(sample=SampleOptions(num_inference_steps=1))
    with tav_sdk.load(tiny_bundle) as pipeline:
        make(request, pipeline, work / "out", video=clip_path)
    assert len(decoded) == 1
