"""The base's own values of the weights that tuning changes, so that a bundle can scale its tuning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tav_sdk.bundle.layout import UNTUNED_FILE
from tav_sdk.bundle.manifest import Dtype, StoredTensor
from tav_sdk.training.checkpoint import save_tensors


def write_untuned(
    weights: Mapping[str, Tensor], tuned: tuple[StoredTensor, ...], folder: Path
) -> tuple[StoredTensor, ...]:
    """Write :data:`~tav_sdk.bundle.layout.UNTUNED_FILE` beside a graph; where each tensor lies in it.

    Args:
        weights: from :func:`untuned_weights`.
        tuned: the graph's tuned weights, whose dtypes are taken.
        folder: the graph's.

    Raises:
        OutputError: the file cannot be written.
    """
    dtypes: dict[str, Dtype] = {tensor.name: tensor.dtype for tensor in tuned}
    path = folder / UNTUNED_FILE
    save_tensors({name: tensor.to(getattr(torch, dtypes[name])) for name, tensor in sorted(weights.items())}, path)
    with open(path, "rb") as file:  # 8 bytes of the header's length, the header, the tensors
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return tuple(
        StoredTensor(
            name=name,
            dtype=dtypes[name],
            shape=tuple(entry["shape"]),
            offset=8 + length + entry["data_offsets"][0],
            length=entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
        if name != "__metadata__"
    )
