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
    ],
)
def test_a_value_out_of_range_is_refused(field, value, message):
    with pytest.raises(ConfigError, match=message):
        TuneConfig(**{**REQUIRED, field: value})
