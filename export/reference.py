"""What the float32 model gives for one input: what export and ``tav verify`` compare a graph with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tav_sdk.export.graphs import GraphContract


@dataclass(frozen=True)
class Reference:
    """A model's inputs and outputs, by name, each dynamic axis as long as given."""

    feeds: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]

    def save(self, path: Path) -> None:
        """Write ``path``, an ``.npz`` of plain arrays under their names in the graph."""
        path.parent.mkdir(exist_ok=True)
        arrays: dict[str, Any] = {**self.feeds, **self.outputs}
        np.savez(path, **arrays)


@torch.no_grad()
def evaluate(module: nn.Module, contract: GraphContract, feeds: dict[str, np.ndarray]) -> Reference:
    """Run a float32 module."""
    results = module(*(torch.from_numpy(feeds[spec.name]) for spec in contract.inputs))
    results = (results,) if isinstance(results, torch.Tensor) else results
    outputs = {spec.name: result.numpy() for spec, result in zip(contract.outputs, results, strict=True)}
    return Reference(feeds, outputs)


def picture(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """A smooth picture with hard edges, ``(1, 3, h, w)`` float32 in [-1, 1]: noise would be nothing to a VAE."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    pixels = np.stack([np.sin(rng.uniform(2, 9) * x + rng.uniform(2, 9) * y + rng.uniform(0, 6)) for _ in range(3)])
    pixels[:, height // 4 : height // 2, width // 3 : 2 * width // 3] = rng.uniform(-1, 1, (3, 1, 1))
    return pixels[None].astype(np.float32)
