from typing import Any

import pytest

from tav_sdk.errors import ConfigError, PromptError
from tav_sdk.training import InflationOptions, TuneConfig

REQUIRED: dict[str, Any] = {"base": "base", "video": "clip.mp4", "prompt": "a man is skiing", "out": "runs/skiing"}


def test_the_defaults_are_causal_and_per_frame():
    options = InflationOptions()
    assert (options.temporal_mask, options.group_norm, options.attention) == ("causal", "frame", "sparse_causal")


def test_the_original_preset_is_unmasked_and_over_the_video():
    options = InflationOptions(preset="original")
    assert (options.temporal_mask, options.group_norm) == ("none", "video")


def test_an_explicit_option_wins_over_the_preset():
    assert InflationOptions(preset="original", temporal_mask="causal").temporal_mask == "causal"


def test_options_survive_the_round_trip():
    options = InflationOptions(preset="original", attention="first", temporal=False)
    assert InflationOptions.from_dict(options.to_dict()) == options


def test_an_unknown_attention_is_refused():
    with pytest.raises(ConfigError, match=r"attention must be one of sparse_causal, spatial, .*; got 'sparse'"):
        InflationOptions(attention="sparse")  # pyright: ignore[reportArgumentType]


def test_the_papers_settings_are_the_defaults():
    config = TuneConfig(**REQUIRED)
    assert (config.learning_rate, config.num_train_steps, config.max_grad_norm, config.seed) == (3e-5, 300, 1.0, 33)


def test_a_configuration_survives_the_round_trip():
    config = TuneConfig(**REQUIRED, num_frames=24, inflation=InflationOptions(preset="original"))
    assert TuneConfig.from_dict(config.to_dict()) == config


def test_an_unknown_key_names_the_nearest_known_one():
    with pytest.raises(ConfigError, match=r"unknown key 'learning_rates' .*did you mean 'learning_rate'"):
        TuneConfig.from_dict({**REQUIRED, "learning_rates": 1e-4})


def test_missing_keys_are_named():
    with pytest.raises(ConfigError, match="lacks video, out"):
        TuneConfig.from_dict({"base": "b", "prompt": "p"})


def test_numbers_that_yaml_reads_as_text_are_taken():
    assert TuneConfig.from_dict({**REQUIRED, "learning_rate": "3e-5"}).learning_rate == 3e-5


def test_a_value_of_another_type_is_refused():
    with pytest.raises(ConfigError, match="num_frames must be of type int, got 'many'"):
        TuneConfig.from_dict({**REQUIRED, "num_frames": "many"})


def test_an_empty_prompt_is_refused():
    with pytest.raises(PromptError, match="the clip's prompt is empty"):
        TuneConfig(**{**REQUIRED, "prompt": "  "})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_frames", 0, "num_frames must be at least 1, got 0"),
        ("start", -1, "start must not be negative, got -1"),
        ("learning_rate", 0.0, "learning_rate must be positive, got 0.0"),
        ("adam_beta1", 1.0, r"adam_beta1 must be in \[0, 1\), got 1.0"),
        ("mixed_precision", "fp8", "mixed_precision must be one of no, fp16, bf16; got 'fp8'"),
        ("seed", -1, "seed must not be negative"),
        ("learning_rate", float("inf"), "learning_rate must be finite, got inf"),
        ("learning_rate", float("nan"), "learning_rate must be finite, got nan"),
        ("learning_rate", 1e9, "learning_rate must be at most 1000, got 1000000000.0"),
        pytest.param(
            "learning_rate", 10**400, "learning_rate must be finite, got a number of about 400 digits", id="400 digits"
        ),
        ("max_grad_norm", float("inf"), "max_grad_norm must be finite, got inf"),
        ("max_grad_norm", "1", "max_grad_norm must be a number, got '1'"),
        ("adam_epsilon", 2.0, "adam_epsilon must be at most 1, got 2.0"),
        ("adam_beta2", float("nan"), "adam_beta2 must be finite, got nan"),
        ("adam_weight_decay", float("inf"), "adam_weight_decay must be finite, got inf"),
        ("adam_weight_decay", -1.0, "adam_weight_decay must not be negative, got -1.0"),
        ("adam_weight_decay", 1e4, "adam_weight_decay must be at most 1000, got 10000.0"),
        ("num_frames", 2**31, "num_frames must be at most 4096, got 2147483648"),
        ("num_frames", 1.5, "num_frames must be a whole number, got 1.5"),
        ("num_frames", True, "num_frames must be a whole number, got True"),
        pytest.param("num_frames", 10**5000, "at most 4096, got a number of about 5000 digits", id="digits"),
        ("start", 2**63, "start must be at most 2147483647, got 9223372036854775808"),
        ("stride", 2**63, "stride must be at most 2147483647"),
        ("height", 10**20, "height must be at most 8192"),
        ("width", 10**6, "width must be at most 8192, got 1000000"),
        ("num_train_steps", 2**31, "num_train_steps must be at most 10000000"),
        ("checkpointing_steps", None, "checkpointing_steps must be a whole number, got None"),
        ("seed", 2**63, "seed must be at most 8796093022207, got 9223372036854775808"),
        ("seed", "x", "seed must be a whole number, got 'x'"),
        ("allow_pickle", "no", "allow_pickle must be true or false, got 'no'"),
        ("local_files_only", 1, "local_files_only must be true or false, got 1"),
        ("gradient_checkpointing", None, "gradient_checkpointing must be true or false, got None"),
        ("mixed_precision", ["no"], "mixed_precision must be one of no, fp16, bf16; got .'no'"),
        ("inflation", 3, "the inflation options must be keys and values, got 3"),
        ("inflation", None, "the inflation options must be keys and values, got None"),
        ("inflation", {"temporal": "no"}, "temporal must be true or false, got 'no'"),
        ("inflation", {"preset": []}, r"preset must be one of default, original; got \[\]"),
        ("inflation", {3: 4}, "unknown key 3 in the inflation options"),
        ("loras", 5, "loras must be a list of FILE or FILE:SCALE, got 5"),
        ("loras", ["a"] * 65, "loras must be at most 64 files, got 65"),
        ("loras", ["a:1e30"], "the scale of a LoRA must be a number from -1000 to 1000, as in FILE:0.8; got 'a:1e30'"),
        ("loras", ["\0"], "loras must be at most 4096 characters without a zero byte"),
        ("video", None, "video must be a text, got None"),
        ("out", "x" * 5000, "out must be at most 4096 characters without a zero byte, got 5000: 'xxx"),
        ("tokenizer", 3, "tokenizer must be a text, got 3"),
        ("revision", 3, "revision must be a text, got 3"),
    ],
)
def test_a_value_out_of_range_is_refused(field, value, message):
    with pytest.raises(ConfigError, match=message):
        TuneConfig(**{**REQUIRED, field: value})


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (None, "the clip's prompt must be a text, got None"),
        ("x" * 20_000, "the clip's prompt must be at most 10000 characters, got 20000; shorten it"),
        ("caf\udce9", "the clip's prompt is not valid Unicode: 'caf"),
    ],
)
def test_what_is_no_prompt_is_refused(prompt, message):
    with pytest.raises(PromptError, match=message):
        TuneConfig(**{**REQUIRED, "prompt": prompt})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "the tuning configuration must be keys and values, got None"),
        ([1], r"the tuning configuration must be keys and values, got \[1\]"),
        ({**REQUIRED, 3: 4}, "unknown key 3 in the tuning configuration"),
        ({**REQUIRED, "num_frames": "1e400"}, "num_frames must be of type int, got '1e400'"),
        ({**REQUIRED, "learning_rate": "inf"}, "learning_rate must be finite, got inf"),
        ({**REQUIRED, "learning_rate": "x" * 9999}, "learning_rate must be of type float, got 'x{59}\\.\\.\\.$"),
        ({**REQUIRED, "seed": 2**63 + 1}, "seed must be at most 8796093022207, got 9223372036854775809"),
    ],
)
def test_values_that_are_no_configuration_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        TuneConfig.from_dict(values)
