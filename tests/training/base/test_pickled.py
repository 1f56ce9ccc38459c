"""Pickled weights that were allowed are tensors, and as large as their file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tav_sdk.errors import CheckpointError
from tav_sdk.training.base.pickled import load_pickled


def load(path: Path) -> Any:
    return load_pickled(path, "the checkpoint", CheckpointError)


def test_tensors_are_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "a.bin")
    assert load(tmp_path / "a.bin")["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("state", [[torch.ones(1)], {"a": 3}, {3: torch.ones(1)}, None, torch.ones(1)])
def test_other_things_are_refused(tmp_path: Path, state: Any) -> None:
    torch.save(state, tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match="the checkpoint holds something else than tensors by name"):
        load(tmp_path / "a.bin")


def test_a_tensor_that_repeats_a_number_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1).expand(1 << 40)}, tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match="the checkpoint would take 4398046511104 bytes, and has "):
        load(tmp_path / "a.bin")


def test_a_compressed_archive_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (64 << 20))
    with pytest.raises(CheckpointError, match="the checkpoint would take 67108864 bytes, and has "):
        load(tmp_path / "a.bin")


@pytest.mark.parametrize("content", [b"", b"nothing", b"cos\nsystem\n(S'true'\ntR."])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match="the checkpoint cannot be read: "):
        load(tmp_path / "a.bin")
