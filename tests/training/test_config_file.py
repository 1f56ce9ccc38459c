import os

import pytest

from tav_sdk.errors import ConfigError
from tav_sdk.training import TuneConfig
from tav_sdk.training.config_file import read_config

RELEASED = """
pretrained_model_path: "./checkpoints/stable-diffusion-v1-4"
output_dir: "./outputs/man-skiing"

train_data:
  video_path: "data/man-skiing.mp4"
  prompt: "a man is skiing"
  n_sample_frames: 24
  width: 512
  height: 512
  sample_start_idx: 0
  sample_frame_rate: 2

validation_data:
  prompts:
    - "Spider Man is skiing on the beach, cartoon style"
  video_length: 24
  num_inv_steps: 50

learning_rate: 3e-5
train_batch_size: 1
max_train_steps: 500
checkpointing_steps: 1000
validation_steps: 100
trainable_modules:
  - "attn1.to_q"
  - "attn2.to_q"
  - "attn_temp"

seed: 33
mixed_precision: fp16
use_8bit_adam: False
gradient_checkpointing: True
enable_xformers_memory_efficient_attention: True
"""


def write(folder, text):
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_a_file_of_the_released_code_is_translated(tmp_path):
    values, _ = read_config(write(tmp_path, RELEASED))
    config = TuneConfig.from_dict(values)
    assert config.base == "./checkpoints/stable-diffusion-v1-4"
    assert config.video == "data/man-skiing.mp4"
    assert config.prompt == "a man is skiing"
    assert (config.num_frames, config.start, config.stride) == (24, 0, 2)
    assert (config.learning_rate, config.num_train_steps, config.seed) == (3e-5, 500, 33)
    assert config.gradient_checkpointing


def test_each_key_that_cannot_be_honoured_is_named_once_with_the_reason(tmp_path):
    _, notes = read_config(write(tmp_path, RELEASED))
    assert notes == [
        "validation_data.prompts, validation_data.video_length, validation_data.num_inv_steps, validation_steps are "
        "not honoured: tuning does not edit; use tav export and then tav edit",
        "mixed_precision is not honoured: chosen for the device, unless it is given beside this file",
        "the defaults differ from the released code's formulas; preset original computes those",
    ]


def test_a_released_setting_with_another_value_is_named(tmp_path):
    changed = RELEASED.replace("train_batch_size: 1", "train_batch_size: 2").replace('  - "attn_temp"\n', "")
    _, notes = read_config(write(tmp_path, changed + "new_key: 3\n"))
    assert "train_batch_size is not honoured: one clip per step" in notes
    assert "trainable_modules is not honoured: only attn1.to_q, attn2.to_q and attn_temp are tuned" in notes
    assert "new_key is not honoured: there is no such setting here" in notes


def test_this_projects_schema_is_taken_as_it_is(tmp_path):
    text = "base: b\nvideo: c.mp4\nprompt: a man\nout: o\nnum_frames: 4\ninflation:\n  preset: original\n"
    values, notes = read_config(write(tmp_path, text))
    config = TuneConfig.from_dict(values)
    assert (config.num_frames, config.inflation.group_norm, notes) == (4, "video", [])


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "cannot be read as YAML"), ("- a\n- b\n", "must hold keys and values, got list")],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_config(write(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no configuration file"):
        read_config(tmp_path / "none.yaml")


def bombs(text: str) -> str:
    """Ten levels of aliases, each of ten: ten billion values."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    return "\n".join(lines + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bombs(""), r"cannot be read as YAML: an alias \(\*name\) is not read here; write the value out \(line 2"),
        ("a: &a [*a]", "an alias"),
        ("a: &a {b: 1}\nc:\n  <<: *a\n", "an alias"),
        ("[" * 100_000, "it is nested more than 64 deep"),
        ("a: " + "{a: " * 100 + "1" + "}" * 100, "it is nested more than 64 deep"),
        ("- " * 5000 + "a", "it is nested more than 64 deep"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor for the tag"),
        ("a: 2001-99-99", "cannot be read as YAML: month must be in 1..12"),
        ("a: " + "9" * 5000, "cannot be read as YAML: Exceeds the limit"),
        ("? [1, 2]\n: 3\n? {a: 1}\n: 3", "cannot be read as YAML: found unhashable key"),
        ("3: 4", "must have words as keys, got 3"),
        ("seed: 1\nseed: 2\n", r"the key 'seed' is there twice \(line 2, column 1\)"),
        ("a: 1\n---\nb: 2\n", "but found another document"),
        ("a: \x07", "special characters are not allowed"),
        ("# " + "x" * (257 << 10), "more than the 262144 that are read"),
        ("", "must hold keys and values, got NoneType"),
    ],
)
def test_a_file_that_would_not_end_or_is_malformed_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_config(write(tmp_path, text))


@pytest.mark.parametrize("section", ["train_data", "validation_data"])
@pytest.mark.parametrize("value", ["", "5", "[a, b]", "clip.mp4"])
def test_a_section_without_keys_is_refused(tmp_path, section, value):
    text = f"pretrained_model_path: p\n{section}: {value}\n"
    with pytest.raises(ConfigError, match=rf"{section} in .* must hold keys and values, got .*; indent them below"):
        read_config(write(tmp_path, text))


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path, message in (
        ("/dev/zero", "is not a regular file; give a YAML file"),
        (tmp_path / "pipe", "is not a regular file; give a YAML file"),
        (tmp_path, "is not a regular file|cannot be read: Is a directory"),
        (tmp_path / "loop", "cannot be read: Too many levels"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_config(path)


def test_text_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"prompt: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"is not text in UTF-8 \(byte 11\)"):
        read_config(tmp_path / "config.yaml")
