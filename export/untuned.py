"""The base's own values of the weights that tuning changes, so that a bundle can scale its tuning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tav_sdk.adapter import is_in_base
from tav_sdk.bundle import UNTUNED_FILE, StoredTensor
from tav_sdk.training.checkpoint import save_tensors
from tav_sdk.training.inflation import trainable_parameters


def untuned_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of what an inflated model, not yet tuned, has from the base in the place of the tuned weights."""
    return {name: p.detach().clone() for name, p in trainable_parameters(model).items() if is_in_base(name)}


def write_untuned(
    weights: Mapping[str, Tensor], tuned: tuple[StoredTensor, ...], folder: Path
) -> tuple[StoredTensor, ...]:
    """Write :data:`~tav_sdk.bundle.UNTUNED_FILE` beside a graph; where each tensor lies in it.

    Args:
        weights: from :func:`untuned_weights`.
        tuned: the graph's tuned weights, whose dtypes are taken.
        folder: the graph's.

    Raises:
        OutputError: the file cannot be written.
    """
    dtypes = {tensor.name: tensor.dtype for tensor in tuned}
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
