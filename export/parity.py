"""Does an exported graph compute what its module computes? Part of every export, which refuses if not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from tav_sdk.engines.select import open_engine
from tav_sdk.errors import ParityError
from tav_sdk.export.graphs import GraphContract


@torch.no_grad()
def check_parity(module: nn.Module, contract: GraphContract, path: Path, *, axis_length: int = 1) -> float:
    """Run the module and the graph on the same random input, with another axis length than it was traced with.

    Returns:
        The largest absolute difference, relative to the output's largest magnitude.

    Raises:
        ParityError: it is above the contract's tolerance; names graph, tensor, difference and tolerance.
    """
    feeds = contract.dummy_feeds(seed=1, axis_length=axis_length)
    reference = module(*(torch.from_numpy(array) for array in feeds.values())).numpy()
    with open_engine(path, contract.name, contract.inputs, contract.outputs, engine="onnxruntime-cpu") as engine:
        result = engine.run(feeds)
    (spec,) = contract.outputs
    difference = relative_difference(result[spec.name], reference)
    if not difference <= contract.tolerance:
        raise ParityError(
            f"the {contract.name} graph differs from the model in {spec.name!r}: {difference:.2e} of its largest "
            f"magnitude, tolerance {contract.tolerance:.0e}; nothing was written. Report this with the "
            "base's configuration"
        )
    return difference


def relative_difference(result: np.ndarray, reference: np.ndarray) -> float:
    """Largest absolute difference over the reference's largest magnitude; NaN if either has one."""
    scale = float(np.abs(reference).max())
    return float(np.abs(result - reference).max()) / max(scale, 1e-12)
