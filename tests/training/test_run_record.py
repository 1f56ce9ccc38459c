"""Records of runs: a value of another type is told by its place, and no part of it is used."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tav_sdk.errors import CheckpointError
from tav_sdk.training.config import TuneConfig
from tav_sdk.training.run_folder import load_run
from tav_sdk.training.run_record import read_record

NOTHING = object()
CONFIG = TuneConfig(video="clip.mp4", prompt="a man is skiing", out="run").to_dict()
RECORD: dict[str, Any] = {
    "format_version": 2,
    "prompt": "a man is skiing",
    "config": CONFIG,
    "base": {"name": "pocket", "sha256": "0" * 64},
    "clip": {"name": "clip.mp4", "sha256": "0" * 64, "num_frames": 8, "height": 64, "width": 64, "fps": 8.0},
    "versions": {"torch": "2"},
    "tuned_sha256": "0" * 64,
}


def write(path: Path, *places: str | int, value: Any) -> Path:
    record = copy.deepcopy(RECORD)
    inner: Any = record
    for place in places[:-1]:
        inner = inner[place]
    if value is NOTHING:
        del inner[places[-1]]
    else:
        inner[places[-1]] = value
    path.write_text(json.dumps(record))
    return path


def test_a_record_is_read_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "run.json", "further", value={"seconds": 3})
    assert read_record(path) == json.loads(path.read_text())


@pytest.mark.parametrize(
    ("places", "value", "said"),
    [
        (("format_version",), None, "format_version: Input should be a valid integer, got None"),
        (("format_version",), "2", "format_version: Input should be a valid integer, got '2'"),
        (("format_version",), 0, "format_version: Input should be greater than or equal to 1, got 0"),
        (("format_version",), 10**30, "has run format 1000000000000000000000000000000, .*update tav-sdk"),
        (("config",), None, "config: Input should be a valid dictionary, got None"),
        (("config",), NOTHING, "config: Field required"),
        (("config",), [], "config: Input should be a valid dictionary"),
        (("config", "height"), None, "its config lacks height"),
        (("config", "learning_rate"), NOTHING, "its config lacks learning_rate"),
        (("config", "inflation"), None, "its config lacks inflation"),
        (("config", "inflation"), [1], "the inflation options must be keys and values, got .1."),
        (("config", "inflation", "temporal"), None, "temporal must be true or false, got None"),
        (("config", "num_frames"), None, "num_frames must be of type int, got None"),
        (("config", "num_frames"), 2**63, "num_frames must be at most 4096, got 9223372036854775808"),
        (("config", "num_train_steps"), 1.5, "num_train_steps must be of type int, got 1.5"),
        (("config", "seed"), "x", "seed must be of type int, got 'x'"),
        (("config", "learning_rate"), float("inf"), "learning_rate must be finite, got inf"),
        (("config", "prompt"), None, "prompt must be of type str, got None"),
        (("config", "prompt"), " ", "the clip's prompt is empty"),
        (("config", "video"), {}, "video must be of type str"),
        (("config", "loras"), {"a": 1}, "loras must be a list of FILE or FILE:SCALE"),
        (("config", "further"), 1, "unknown key 'further'"),
        (("base",), None, "base: Input should be a valid dictionary"),
        (("base", "sha256"), None, r"base\.sha256: Input should be a valid string, got None"),
        (("base", "sha256"), "x", r"base\.sha256: String should match pattern"),
        (("base", "name"), NOTHING, r"base\.name: Field required"),
        (("base", "revision"), 3, r"base\.revision: Input should be a valid string, got 3"),
        (("base", "loras"), None, r"base\.loras: Input should be a valid list, got None"),
        (("base", "loras"), [{}], r"base\.loras\.0\.name: Field required"),
        (("clip",), "clip.mp4", "clip: Input should be a valid dictionary"),
        (("clip", "fps"), None, r"clip\.fps: Input should be a valid number, got None"),
        (("clip", "fps"), 0, r"clip\.fps: Input should be greater than 0"),
        (("clip", "fps"), float("nan"), r"clip\.fps: Input should be"),
        (("clip", "height"), 10**9, r"clip\.height: Input should be less than or equal to 8192"),
        (("versions",), ["torch"], "versions: Input should be a valid dictionary"),
        (("tuned_sha256",), None, "tuned_sha256: Input should be a valid string, got None"),
        (("tuned_sha256",), NOTHING, "tuned_sha256: Field required"),
    ],
)
def test_a_value_of_another_type_is_refused(tmp_path: Path, places: tuple[str, ...], value: Any, said: str) -> None:
    write(tmp_path / "run.json", *places, value=value)
    with pytest.raises(CheckpointError, match=said) as raised:
        load_run(tmp_path)
    assert str(raised.value).startswith(str(tmp_path))
    assert str(raised.value).endswith(("; tune again", "; update tav-sdk"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"null", "run.json is not valid: expected keys and values, got None; tune again"),
        (b"[1]", r"run.json is not valid: expected keys and values, got \[1\]; tune again"),
        (b"[" * 100_000, "run.json is nested more than 64 deep; tune again"),
        (b"\xff", r"run.json is not text in UTF-8 \(byte 0\); tune again"),
        (b" " * (2 << 20), "run.json has 2097152 bytes, more than the 1048576 that are read; tune again"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        load_run(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(CheckpointError, match=r"there is no finished run|is not a regular file"):
        load_run(tmp_path)


def test_an_unfinished_run_has_no_weights_yet(tmp_path: Path) -> None:
    path = write(tmp_path / "started.json", "tuned_sha256", value=NOTHING)
    assert read_record(path, finished=False)["base"]["name"] == "pocket"
    path.write_text("{}")
    with pytest.raises(CheckpointError, match="format_version: Field required; start anew with overwrite"):
        read_record(path, finished=False)


def test_a_file_of_another_name_is_no_snapshot(tmp_path: Path) -> None:
    from tav_sdk.training.run_folder import Run

    (tmp_path / "snapshots").mkdir()
    for name in ("step-000003", "step-²", "step-" + "9" * 100, "step-x"):
        (tmp_path / "snapshots" / f"{name}.safetensors").touch()
    assert Run(tmp_path, RECORD).steps == (3, CONFIG["num_train_steps"])
