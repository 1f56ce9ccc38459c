"""Every bad input that a user can give the command line: one clear message, exit code 2, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import pytest

from benchmarks.demo_clip import render_clip

ROOT = Path(__file__).parents[3]


@pytest.fixture
def refused(tav, work):
    """``refused(text, *args)``: the command prints one message that has ``text`` in it, and writes nothing."""

    def check(text: str, *args: object) -> None:
        before = sorted(work.rglob("*"))
        result = tav(*args)
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1, result.stderr
        assert text in result.stderr
        assert result.stdout == ""
        assert sorted(work.rglob("*")) == before

    return check


@pytest.fixture
def tune_args(tiny_base, clip_path, work):
    """A command that would work, but for the options that a test gives."""

    def build(**options: object) -> list[object]:
        values = {"base": tiny_base, "video": clip_path, "prompt": "a red square", "out": work / "new" / "run"}
        values |= {"frames": 2, "height": 32, "width": 32, "num-train-steps": 1} | options
        return ["tune", *(part for key, value in values.items() for part in (f"--{key}", value))]

    return build


@pytest.fixture
def edit_args(clip_path, work):
    def build(bundle: Path, *more: object, **options: object) -> list[object]:
        values = {"video": clip_path, "prompt": "a blue circle", "out": work / "new" / "out"} | options
        steps = ["--num-inversion-steps", 2, "--num-inference-steps", 2]
        return ["edit", bundle, *steps, *more, *(part for key, value in values.items() for part in (f"--{key}", value))]

    return build


# --- the clip -------------------------------------------------------------------------------------------------------


def bad_clip(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.mp4"
    if kind == "text":
        path.write_text("this is no video")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    elif kind == "sound":
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(bytes(16000))
    elif kind == "truncated":
        render_clip(num_frames=10, height=64, width=64).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


CLIPS = {
    "missing": "there is no such file. Check the path to the video.",
    "text": "is not a video that can be read",
    "empty": "is not a video: it is empty (0 bytes)",
    "folder": "is a folder or a device, not a video file",
    "sound": "has no video stream; its streams: audio",
    "truncated": "is truncated",
}


@pytest.mark.parametrize("kind", CLIPS)
def test_tuning_refuses_the_clip(refused, tune_args, tmp_path, kind):
    refused(CLIPS[kind], *tune_args(video=bad_clip(kind, tmp_path)))


@pytest.mark.parametrize("kind", CLIPS)
def test_editing_refuses_the_clip(refused, edit_args, tiny_bundle, tmp_path, kind):
    refused(CLIPS[kind], *edit_args(tiny_bundle, video=bad_clip(kind, tmp_path)))


def test_tuning_says_how_many_frames_there_are(refused, tune_args):
    refused("has 10 frames; 24 frames from start 0 at stride 1 need 24. Use at most 10 frames", *tune_args(frames=24))


def test_editing_says_how_many_frames_there_are(refused, edit_args, tiny_bundle):
    refused("has 10 frames; 4 frames from start 8 at stride 1 need 12", *edit_args(tiny_bundle, start=8))


@pytest.mark.parametrize(
    ("height", "text"),
    [
        (40, "height 40 is not a multiple of 16; the nearest valid heights are 32 and 48."),
        (8, "height 8 is not a multiple of 16; the smallest valid height is 16."),
    ],
)
def test_a_size_that_the_base_cannot_take_names_the_nearest(refused, tune_args, height, text):
    refused(text, *tune_args(height=height))


def test_a_size_of_nothing_is_refused(refused, tune_args):
    refused("height must be at least 1, got 0", *tune_args(height=0))


# --- prompts and numbers --------------------------------------------------------------------------------------------


def test_an_empty_list_of_prompts_is_refused(refused, tiny_bundle, clip_path, work):
    text = "--prompt must be given at least once; say what the new video shows"
    refused(text, "edit", tiny_bundle, "--video", clip_path, "--out", work / "out")


def test_an_empty_caption_is_refused(refused, tune_args):
    refused("the clip's prompt is empty; describe what the clip shows", *tune_args(prompt=" "))


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(tav, edit_args, tiny_bundle, work):
    result = tav(*edit_args(tiny_bundle, prompt="b " * 75 + "c d"))
    assert result.exit_code == 0
    (warning,) = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert re.search(r"the prompt has \d+ tokens, the text encoder takes 77; this was cut: 'c d'$", warning)
    assert (work / "new" / "out" / "00.mp4").is_file()


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("fps", 0, "--fps must be from 0.01 to 1000 frames per second, got 0"),
        ("fps", "nan", "--fps must be from 0.01 to 1000 frames per second, got nan"),
        ("seed", -1, "--seed must be a whole number from 0 to 2^63 - 1, got -1"),
        ("format", "avi", "--format must be mp4, gif or webp, got 'avi'"),
        ("engine", "tpu", "there is no engine 'tpu'; those that work here: auto, "),
        ("num-inference-steps", 0, "--num-inference-steps must be a whole number from 1 to 1000, got 0"),
        ("num-inversion-steps", 1001, "--num-inversion-steps must be a whole number from 1 to 1000, got 1001"),
        ("adapter-scale", 2.5, "--adapter-scale must be from 0 (the base) to 2, got 2.5; 1 is as it was tuned"),
        ("adapter-scale", "nan", "--adapter-scale must be from 0 (the base) to 2, got nan"),
        ("correction", "null-text", "--correction must be none, negative-prompt or direct, got 'null-text'"),
    ],
)
def test_a_number_or_name_out_of_range_is_refused_before_the_work(refused, edit_args, tiny_bundle, option, value, text):
    refused(text, *edit_args(tiny_bundle, **{option: value}))


def test_a_correction_refuses_what_it_has_no_place_for(refused, edit_args, tiny_bundle):
    text = "--negative-prompt must be empty with the correction negative-prompt, got 'x'"
    refused(text, *edit_args(tiny_bundle, correction="negative-prompt", **{"negative-prompt": "x"}))
    text = "--num-inference-steps must be 3 with the correction direct, as many steps as of inversion, got 2"
    refused(text, *edit_args(tiny_bundle, correction="direct", **{"num-inversion-steps": 3, "num-inference-steps": 2}))


# --- the base -------------------------------------------------------------------------------------------------------


def test_a_missing_base_is_refused(refused, tune_args, tmp_path):
    refused("there is no base model folder", *tune_args(base=tmp_path / "nowhere"))


def test_a_missing_base_is_called_as_it_was_given(refused, tune_args):
    refused("error: there is no base model folder ./nofolder; give a folder", *tune_args(base="./nofolder"))


def test_an_empty_base_is_refused(refused, tune_args):
    text = "error: the base model is empty; give a folder, a .safetensors file, a Hugging Face id, or 'pocket'"
    refused(text, *tune_args(base=""))
    refused(text, "plan", "--base", "")


@pytest.mark.parametrize("name", ["unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"])
def test_a_base_with_a_missing_part_is_refused(refused, tune_args, base_copy, name):
    (base_copy / name).unlink()
    refused(f"lacks {name}; a diffusers folder of Stable Diffusion has the parts", *tune_args(base=base_copy))


def test_a_base_with_missing_weights_is_refused(refused, tune_args, base_copy):
    (base_copy / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    text = "lacks vae/diffusion_pytorch_model.safetensors, the weights of its vae"
    refused(text, *tune_args(base=base_copy))


@pytest.fixture
def pickled_base(base_copy):
    import torch
    from safetensors.torch import load_file

    for part, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        path = base_copy / part / f"{name}.safetensors"
        pickled = "pytorch_model.bin" if part == "text_encoder" else f"{name}.bin"
        torch.save(load_file(path), path.with_name(pickled))
        path.unlink()
    return base_copy


def test_pickled_weights_are_refused_with_the_flag_that_allows_them(refused, tune_args, pickled_base):
    text = "has only pickled weights (diffusion_pytorch_model.bin); reading a pickle can run code."
    refused(text, *tune_args(base=pickled_base))
    refused("allow it with allow_pickle", *tune_args(base=pickled_base))


def test_pickled_weights_are_read_with_the_flag(tav, tune_args, pickled_base, work):
    result = tav(*tune_args(base=pickled_base), "--allow-pickle")
    assert result.exit_code == 0, result.stderr
    assert (work / "new" / "run" / "run.json").is_file()


# --- the output -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["tune", "export", "edit", "generate", "make-tiny-base"])
def test_a_folder_that_is_not_empty_is_refused(refused, tune_args, edit_args, tiny_run, tiny_bundle, work, command):
    (work / "mine.txt").write_text("keep me")
    args = {
        "tune": tune_args(out=work),
        "export": ["export", tiny_run, "--out", work],
        "edit": edit_args(tiny_bundle, out=work),
        "generate": ["generate", tiny_bundle, "--prompt", "x", "--out", work],
        "make-tiny-base": ["make-tiny-base", work],
    }
    refused("is not empty; choose another folder, or set overwrite to replace", *args[command])


def test_a_folder_that_is_not_empty_is_replaced_when_asked(tav, edit_args, tiny_bundle, work):
    (work / "old.txt").write_text("x")
    result = tav(*edit_args(tiny_bundle, "--overwrite", out=work))
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in work.iterdir()) == ["00.mp4", "edits.json", "sheet.png", "source.mp4"]


def test_a_file_in_the_place_of_the_folder_is_refused(refused, edit_args, tiny_bundle, work):
    (work / "out").write_text("x")
    refused("is a file; give the path of a folder to write", *edit_args(tiny_bundle, out=work / "out"))


def test_overwriting_does_not_take_the_clip_with_it(refused, edit_args, tiny_bundle, work):
    clip = render_clip(num_frames=4, height=64, width=64).save(work / "clip.mp4")
    refused("is read, and writing", *edit_args(tiny_bundle, "--overwrite", video=clip, out=work))


def test_overwriting_does_not_take_the_bundle_with_it(refused, bundle_copy):
    refused("is read, and writing", "generate", bundle_copy, "--prompt", "x", "--out", bundle_copy, "--overwrite")


# --- the bundle -----------------------------------------------------------------------------------------------------


def test_a_folder_that_is_no_bundle_is_refused(refused, edit_args, tmp_path):
    refused("there is no bundle in", *edit_args(tmp_path))


def test_a_changed_byte_is_refused(refused, edit_args, bundle_copy):
    path = bundle_copy / "unet" / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused("unet/model.onnx in the bundle", *edit_args(bundle_copy))


def test_a_missing_file_is_refused(refused, edit_args, bundle_copy):
    (bundle_copy / "vae_decoder" / "model.onnx_data").unlink()
    refused("lacks vae_decoder/model.onnx_data; copy it completely or export it again", *edit_args(bundle_copy))


def test_a_path_that_leaves_the_bundle_is_refused(refused, edit_args, bundle_copy, edit_manifest):
    edit_manifest(lambda manifest: manifest["graphs"]["unet"].update(file="../unet/model.onnx"))
    refused("names '../unet/model.onnx', which leaves its folder; do not use it", *edit_args(bundle_copy))


def test_a_link_that_leaves_the_bundle_is_refused(refused, edit_args, bundle_copy, tmp_path):
    path = bundle_copy / "unet" / "model.onnx"
    path.rename(tmp_path / "outside.onnx")
    path.symlink_to(tmp_path / "outside.onnx")
    refused("names 'unet/model.onnx', which leaves its folder; do not use it", *edit_args(bundle_copy))


def test_a_newer_bundle_is_refused(refused, edit_args, bundle_copy, edit_manifest):
    edit_manifest(lambda manifest: manifest.update(format_version=4, something_new=True))
    text = "has format 4, this version reads up to 3; update with: pip install --upgrade tav-sdk"
    refused(text, *edit_args(bundle_copy))


# --- missing extras -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "extra", "args"),
    [
        ("torch", "training", ["tune", "--base", "b", "--video", "v", "--prompt", "p", "--out", "out"]),
        ("yaml", "training", ["tune", "--config", "file.yaml"]),
        ("torch", "export", ["export", "RUN", "--out", "out"]),
        ("onnxscript", "export", ["export", "RUN", "--out", "out"]),
    ],
)
def test_a_missing_extra_is_named_with_the_line_that_installs_it(work, tiny_run, module, extra, args):
    args = [str(tiny_run) if arg == "RUN" else arg for arg in args]
    code = f"import sys; sys.modules[{module!r}] = None; from tav_sdk.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    text = f"needs the module '{module}', which is not installed. Install it with: pip install \"tav-sdk[{extra}]\"\n"
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith(text)
    assert result.stderr.count("\n") == 1
    assert list(work.iterdir()) == []


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def start(work):
    """Start the command line in a process of its own, in ``work``; it is ended with the test."""
    running = []

    def begin(*args: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tav_sdk.cli", *map(str, args)],
            cwd=work,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A background job of a shell ignores the signal, and its children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def interrupted(process: subprocess.Popen[str]) -> str:
    """Ctrl-C; the exit code is 2. Returns what is on standard error."""
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=180)
    assert process.returncode == 2, stderr
    assert "Traceback" not in stderr
    return stderr


def wait_until(condition, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ctrl_c_while_tuning_keeps_the_state_for_resume(start, tune_args, tav, work):
    process = start(*tune_args(out="run", **{"num-train-steps": 5000}), "--json")
    first = json.loads(process.stdout.readline())
    assert (first["stage"], first["step"], first["total"]) == ("tune", 1, 5000)
    stderr = interrupted(process)
    assert stderr == "interrupted; the same command with --resume continues\n"
    assert [path.name for path in work.iterdir()] == [".run.partial"]
    done = len((work / ".run.partial" / "log.jsonl").read_text().splitlines())

    result = tav(*tune_args(out=work / "run", **{"num-train-steps": done + 1}), "--resume", "--json")
    assert result.exit_code == 0, result.stderr
    assert [json.loads(line)["step"] for line in result.stdout.splitlines()] == [done + 1]
    assert [path.name for path in work.iterdir()] == ["run"]


def test_ctrl_c_while_exporting_leaves_nothing(start, tiny_run, work):
    process = start("export", tiny_run, "--out", "new/bundle")
    wait_until(lambda: list(work.glob("new/.bundle-*/new/text_encoder")), process)
    assert interrupted(process).endswith("interrupted; nothing was written\n")
    assert list(work.iterdir()) == []


def test_ctrl_c_while_editing_leaves_nothing(start, edit_args, tiny_bundle, work):
    process = start(*edit_args(tiny_bundle, out="new/out", **{"num-inference-steps": 1000}))
    wait_until(lambda: list(work.glob("new/.out-*/new")), process)
    time.sleep(0.3)
    assert interrupted(process).endswith("interrupted; nothing was written\n")
    assert list(work.iterdir()) == []


def test_ctrl_c_while_starting_leaves_nothing(start, tune_args, work):
    process = start(*tune_args())
    maps = Path(f"/proc/{process.pid}/maps")
    if maps.exists():
        wait_until(lambda: "libtorch" in maps.read_text(), process)
    else:
        time.sleep(2)
    assert interrupted(process).endswith("interrupted; nothing was written\n")
    assert list(work.iterdir()) == []


def test_a_reader_that_goes_away_stops_tuning_without_a_trace(start, tune_args, work):
    process = start(*tune_args(out="run", **{"num-train-steps": 5000}), "--json")
    process.stdout.readline()
    process.stdout.close()
    process.wait(timeout=180)
    assert process.returncode == 2
    assert process.stderr.read() == (
        "error: standard output was closed, so tuning stopped; the same command with --resume continues\n"
    )
    assert [path.name for path in work.iterdir()] == [".run.partial"]
