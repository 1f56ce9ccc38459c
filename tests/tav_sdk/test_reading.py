"""Files that anyone may have written are read within bounds, or refused in one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from tav_sdk.errors import BundleError
from tav_sdk.reading import MAX_DEPTH, checked_values, read_bytes, read_json, read_text, validated

HOW = {"error": BundleError, "advice": "export again"}


def test_json_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [1, "\\u00e9\\ud83d\\ude00"]}')
    assert read_json(tmp_path / "a.json", **HOW) == {"a": [1, "é😀"]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"\xff\xfe", "is not text in UTF-8 (byte 0)"),
        (b"[" * 65 + b"]" * 65, "is nested more than 64 deep"),
        (b"[" * 200_000, "is nested more than 64 deep"),
        (b'{"a":' * 100_000, "is nested more than 64 deep"),
        (b'{"a": "\\ud800"}', "half a surrogate pair"),
        (b'{"\\ud800": 1}', "half a surrogate pair"),
        (b"9" * 5000, "is not valid JSON"),
    ],
)
def test_what_is_no_json_is_told(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(BundleError) as raised:
        read_json(tmp_path / "a.json", **HOW)
    assert said in str(raised.value)
    assert str(raised.value).endswith("; export again")


def test_the_deepest_nesting_is_read() -> None:
    deep: object = 1
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    assert checked_values(deep, what="a", **HOW) is deep


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError, match=r"has 1099511627776 bytes, more than the 10 that are read; export again"):
        read_bytes(tmp_path / "a", max_bytes=10, **HOW)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(BundleError, match=r"is not a regular file; export again"):
            read_text(path, **HOW)
    for path, said in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file"), ("a\0b", "null")):
        with pytest.raises(BundleError, match=rf"cannot be read: .*{said}.*; export again"):
            read_text(path, **HOW)


def test_the_first_wrong_value_is_named_and_cut() -> None:
    class Model(BaseModel):
        a: int = Field(le=3)

    with pytest.raises(BundleError) as raised:
        validated(Model, {"a": "x" * 1000}, what="file", **HOW)
    assert str(raised.value).startswith("file is not valid: a: ")
    assert len(str(raised.value)) < 200
    with pytest.raises(BundleError, match=r"a: Input should be less than or equal to 3, got 4; export again"):
        validated(Model, {"a": 4}, what="file", **HOW)
