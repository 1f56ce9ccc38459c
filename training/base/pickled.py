"""Pickled weights, where reading them was allowed: tensors only, and no more of them than the file has bytes."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tav_sdk.errors import TavError
from tav_sdk.training.base.reading import reading


def load_pickled(path: Path, what: str, error: type[TavError]) -> dict[str, Tensor]:
    """Tensors by name, on the CPU.

    Raises:
        TavError: of the class ``error``: the file cannot be read, holds something else than tensors by name, or would
            take much more memory than it has bytes.
    """
    size = path.stat().st_size
    with reading(what, error):
        if zipfile.is_zipfile(path):  # torch stores, and does not compress
            with zipfile.ZipFile(path) as archive:
                _check_size(sum(entry.file_size for entry in archive.infolist()), size, what, error)
        state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided
        for name, value in state.items()
    ):
        raise error(f"{what} holds something else than tensors by name; export it again")
    # A tensor may be of any shape by repeating the few numbers that are stored.
    _check_size(sum(tensor.numel() * tensor.element_size() for tensor in state.values()), size, what, error)
    return dict(state)


def _check_size(got: int, size: int, what: str, error: type[TavError]) -> None:
    if got > 2 * size + (1 << 20):
        raise error(f"{what} would take {got} bytes, and has {size}; it is damaged: download it again")
