"""Alphas of a LoRA's metadata: names are compared, nothing is run."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tav_sdk.errors import BaseModelError
from tav_sdk.training.base.lora_metadata import METADATA, LoraMetadata, PartMetadata


def read(values: Any) -> LoraMetadata:
    return LoraMetadata.read({METADATA: values if isinstance(values, str) else json.dumps(values)}, "the LoRA l")


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("to_k", "a.attn1.to_k", True),
        ("to_k", "to_k", True),
        ("to_k", "a.attn1.not_to_k", False),
        ("attn1.to_k", "a.attn1.to_k", True),
        (r"attn1\.to_k$", "a.attn1.to_k", True),
        ("attn1.to_k", "a.attn1xto_k", False),
        ("^a.to_k", "a.to_k", True),
        ("^a.to_k", "b.a.to_k", False),
        ("to_k", "a.to_k.b", False),
    ],
)
def test_a_pattern_is_the_end_of_a_modules_name(pattern: str, name: str, fits: bool) -> None:
    assert PartMetadata(alpha_pattern={pattern: 3.0}).alpha_of(name) == (3.0 if fits else None)


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(.*.*.*.*.*.*)*x", ".*to_k", "to_[kq]", "a|b", "a{1,9}", "", "$", "to k"]
)
def test_a_regular_expression_is_refused_at_once(pattern: str) -> None:
    began = time.perf_counter()
    with pytest.raises(BaseModelError) as raised:
        read({"unet.alpha_pattern": {pattern: 2}})
    assert "is a regular expression, expected a module's name such as mid_block.attentions.0.proj_in" in str(
        raised.value
    )
    assert time.perf_counter() - began < 1


def test_many_long_names_take_no_time() -> None:
    found = read({"unet.alpha_pattern": {f"{'a.' * 400}{n}": 2 for n in range(500)}}).unet
    began = time.perf_counter()
    assert found.alpha_of("a." * 100_000) is None
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("{", "the metadata of the LoRA l is not valid JSON"),
        ("[" * 100_000, "the metadata of the LoRA l is nested more than 64 deep"),
        ("[1]", "the metadata of the LoRA l is not valid: Input should be a valid dictionary"),
        ({"unet.lora_alpha": "8"}, r"unet\.lora_alpha: Input should be a valid number, got '8'"),
        ({"unet.lora_alpha": [8]}, r"unet\.lora_alpha: Input should be a valid number"),
        ('{"unet.lora_alpha": NaN}', r"unet\.lora_alpha: Input should be"),
        ({"unet.lora_alpha": 1e30}, r"unet\.lora_alpha: Input should be less than or equal to 1000000"),
        ({"unet.use_rslora": "yes"}, r"unet\.use_rslora: Input should be a valid boolean, got 'yes'"),
        ({"text_encoder.use_dora": 3}, r"text_encoder\.use_dora: Input should be a valid boolean"),
        ({"unet.alpha_pattern": ["to_k"]}, r"unet\.alpha_pattern: Input should be a valid dictionary"),
        (
            {"unet.alpha_pattern": {"to_k": None}},
            r"unet\.alpha_pattern\.to_k: Input should be a valid number, got None",
        ),
        ({"unet.alpha_pattern": {"a" * 2000: 1}}, "String should have at most 1000 characters"),
        ({"unet.alpha_pattern": {str(n): 1 for n in range(10_001)}}, "at most 10000 items"),
    ],
)
def test_values_of_other_types_are_refused(values: Any, said: str) -> None:
    with pytest.raises(BaseModelError, match=said) as raised:
        read(values)
    assert str(raised.value).endswith("or without its metadata")


def test_what_is_not_used_is_left_out() -> None:
    found = read(
        {"unet.r": 4, "unet.rank_pattern": {"a*": 3}, "transformer.lora_alpha": "x", "unet.alpha_pattern": None}
    )
    assert (found.unet.lora_alpha, found.unet.alpha_pattern) == (None, {})
