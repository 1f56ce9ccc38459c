"""Headers of tensors are read within bounds."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tav_sdk.errors import BaseModelError
from tav_sdk.training.tensor_file import read_header

HOW: dict[str, Any] = {"error": BaseModelError, "advice": "download it again"}


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_names_shapes_and_texts_are_read(tmp_path: Path) -> None:
    save_file({"a": np.ones((2, 3), np.float32), "b": np.ones((), np.float16)}, tmp_path / "a", {"k": "v"})
    found = read_header(tmp_path / "a", **HOW)
    assert found.shapes == {"a": (2, 3), "b": ()}
    assert found.dtypes == {"a": "F32", "b": "F16"}
    assert found.metadata == {"k": "v"}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"", "cannot be read as .safetensors"),
        (b"{", "cannot be read as .safetensors"),
        (b"[" * 100_000, "cannot be read as .safetensors"),
        (b'{"a":' * 100_000, "cannot be read as .safetensors"),
        ({"a": 3}, "cannot be read as .safetensors"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "cannot be read as .safetensors"),
        ({"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 4]}}, "cannot be read as .safetensors"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**40]}}, "cannot be read as .safetensors"),
        ({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}, "cannot be read as .safetensors"),
        ({"__metadata__": {"a": 3}}, "cannot be read as .safetensors"),
        ({"a": {"dtype": "F32", "shape": [0, 2**40], "data_offsets": [0, 0]}}, "which no model has"),
        ({"a": {"dtype": "F32", "shape": [0] * 9, "data_offsets": [0, 0]}}, "which no model has"),
        (
            {str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(100_001)},
            "has 100001 tensors, expected at most 100000",
        ),
    ],
)
def test_what_is_no_header_is_refused(tmp_path: Path, header: Any, said: str) -> None:
    path = write(tmp_path / "a", header, b"\0" * 4 if b"F32" in json.dumps(str(header)).encode() else b"")
    if said != "cannot be read as .safetensors":
        path = write(tmp_path / "a", header)
    with pytest.raises(BaseModelError, match=said) as raised:
        read_header(path, what="the LoRA", **HOW)
    assert str(raised.value).endswith("; download it again")


@pytest.mark.parametrize("length", [2**63, 2**40, (16 << 20) + 1, 9])
def test_a_header_longer_than_its_file_is_refused(tmp_path: Path, length: int) -> None:
    (tmp_path / "a").write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(BaseModelError, match=r"cannot be read as \.safetensors"):
        read_header(tmp_path / "a", **HOW)


def test_a_dtype_that_is_not_wanted_is_refused(tmp_path: Path) -> None:
    save_file({"a": np.ones(1, np.int64)}, tmp_path / "a")
    with pytest.raises(BaseModelError, match=r"'a' in .* is of I64, expected F32; download it again"):
        read_header(tmp_path / "a", dtypes=("F32",), **HOW)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none", Path("/dev/zero")):
        with pytest.raises(BaseModelError, match="is not a regular file; download it again"):
            read_header(path, **HOW)
