"""A stranger's tokenizer is no more than a CLIP tokenizer."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tav_sdk.errors import BaseModelError
from tav_sdk.pocket import find_base
from tav_sdk.training.base.tokenizer_files import _LINEAR_PATTERN, check_tokenizer

CLIP = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(find_base("pocket") / "tokenizer", tmp_path / "tokenizer"))


def test_the_packages_own_is_taken(folder: Path) -> None:
    check_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    check_tokenizer(folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("vocab.json", "{}", "vocabulary: Dictionary should have at least 1 item"),
        ("vocab.json", "", "is not valid JSON"),
        ("vocab.json", "[]", "vocabulary: Input should be a valid dictionary"),
        ("vocab.json", '{"a": null}', r"vocabulary\.a: Input should be a valid integer, got None"),
        ("vocab.json", '{"a": -1}', r"vocabulary\.a: Input should be greater than or equal to 0"),
        ("vocab.json", '{"a": 9223372036854775808}', r"vocabulary\.a: Input should be less than 2147483648"),
        ("vocab.json", '{"a":' * 100_000, "is nested more than 64 deep"),
        ("merges.txt", "#version: 0.2\na b c\n", "has the line 'a b c', expected two tokens"),
        ("merges.txt", "x" * 100_000, r"has the line 'x+\.\.\., expected two tokens"),
        ("tokenizer_config.json", '{"model_max_length": "x"}', "model_max_length"),
        ("tokenizer_config.json", "[" * 100_000, "is nested more than 64 deep"),
        ("special_tokens_map.json", "3", "is not valid: Input should be a valid dictionary"),
        ("added_tokens.json", '{"a": 1e400}', "a number is inf"),
        ("tokenizer.json", "{}", "model: Field required"),
        ("tokenizer.json", "[" * 100_000, "is nested more than 64 deep"),
    ],
)
def test_a_damaged_file_is_refused(folder: Path, name: str, content: str, said: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(BaseModelError, match=said) as raised:
        check_tokenizer(folder)
    assert name in str(raised.value)


def test_merges_that_are_a_pipe_are_not_waited_for(folder: Path) -> None:
    (folder / "merges.txt").unlink()
    os.mkfifo(folder / "merges.txt")
    with pytest.raises(BaseModelError, match=r"merges.txt is not a regular file; give the folder 'tokenizer'"):
        check_tokenizer(folder)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"there is no CLIP tokenizer in .*: it has neither vocab.json"):
        check_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("model", "type"), "WordPiece", "Input should be 'BPE'"),
        (("model", "vocab"), {}, "should have at least 1 item"),
        (("model", "dropout"), 0.5, r"model\.dropout: Input should be None"),
        (("model", "merges"), [3], r"model\.merges\.0"),
        (
            ("normalizer",),
            {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
            "does not match any of the expected",
        ),
        (("normalizer",), {"type": "Prepend", "prepend": "x" * 9999}, "does not match any of the expected"),
        (
            ("normalizer",),
            {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"},
            "content: String should have at most 1 character",
        ),
        (
            ("normalizer",),
            {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": " "},
            r"Regex: Value error, expected letters and classes of letters in turn",
        ),
        (("normalizer",), {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 17}, "at most 16 items"),
        (("pre_tokenizer",), {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Removed"}, "Regex"),
        (("pre_tokenizer",), {"type": "Metaspace"}, "does not match any of the expected"),
        (("post_processor",), {"type": "TemplateProcessing", "single": [0] * 17}, "at most 16 items"),
        (("added_tokens",), [{"id": 2**40, "content": "a"}], r"added_tokens\.0\.id: Input should be less than"),
        (("added_tokens",), [{"id": 1, "content": ""}], r"added_tokens\.0\.content: String should have at least 1"),
    ],
)
def test_what_no_clip_tokenizer_does_is_refused(folder: Path, place: tuple[str, ...], value: Any, said: str) -> None:
    values = json.loads((folder / "tokenizer.json").read_text())
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(BaseModelError, match=said):
        check_tokenizer(folder)


@pytest.mark.parametrize("pattern", [CLIP, CLIP[CLIP.index("'s") :], r"\s+", r"[\p{L}]+", " "])
def test_clips_patterns_are_linear(pattern: str) -> None:
    assert _LINEAR_PATTERN.fullmatch(pattern)


@pytest.mark.parametrize("pattern", ["(a+)+", "a*", "a*a*a*b", ".*", "[a]{1,9}", "a+", "", "|", "(?=a)", r"\1", "[a"])
def test_other_patterns_are_not(pattern: str) -> None:
    assert not _LINEAR_PATTERN.fullmatch(pattern)


def test_the_check_of_patterns_is_linear_itself() -> None:
    began = time.perf_counter()
    for letters in ("a", "a|", "[a]", r"\s", "[a]+|", r"\|"):
        _LINEAR_PATTERN.fullmatch(letters * 300 + "(")
    assert time.perf_counter() - began < 1
