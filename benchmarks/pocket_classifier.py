"""A judge for Pocket's pictures: own data seed, own network, nothing shared with the base but the world.

Train: ``python benchmarks/pocket_classifier.py --out benchmarks/pocket_classifier.safetensors``
"""

from __future__ import annotations

import argparse
import itertools
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from tav_sdk.training.pocket.backgrounds import BACKGROUND_NAMES
from tav_sdk.training.pocket.styles import STYLE_NAMES
from tav_sdk.training.pocket.subjects import SUBJECT_NAMES
from tav_sdk.training.pocket.world import sample, subject_center

DATA_SEED = 771_103  # of the judge alone
HELD_OUT_SEED = 771_104
_LOG = logging.getLogger(__name__)


class PocketClassifier(nn.Module):
    """Plain convolutions; says subject, background, style, and the subject's middle (x, y) in [0, 1]."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        sizes = (3, width, 2 * width, 3 * width, 4 * width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
            for a, b in itertools.pairwise(sizes)
        )
        flat = 4 * width
        self.hidden = nn.Linear(flat * 5, 96)
        self.subject = nn.Linear(96, len(SUBJECT_NAMES))
        self.background = nn.Linear(96, len(BACKGROUND_NAMES))
        self.style = nn.Linear(96, len(STYLE_NAMES))
        self.attention = nn.Conv2d(flat, 1, 1)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """``(b, 3, 64, 64)`` in [-1, 1] to three tables of logits and ``(b, 2)`` places."""
        x = pixels
        for block in self.blocks:
            x = block(x)  # (b, c, 4, 4) at the end
        heat = self.attention(x).flatten(2).softmax(-1)  # (b, 1, 16)
        grid = (torch.arange(x.shape[-1], device=x.device) + 0.5) / x.shape[-1]
        heat2d = heat.view(-1, x.shape[-2], x.shape[-1])
        place = torch.stack([(heat2d.sum(1) * grid).sum(-1), (heat2d.sum(2) * grid).sum(-1)], dim=-1)
        pooled = F.adaptive_avg_pool2d(x, 2).flatten(1)  # (b, 4c)
        focus = (x.flatten(2) * heat).sum(-1)  # (b, c)
        h = F.relu(self.hidden(torch.cat([pooled, focus], dim=1)))
        return self.subject(h), self.background(h), self.style(h), place


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the judge sees in one picture; ``center`` is the subject's middle (x, y) as fractions."""

    subject: str
    background: str
    style: str
    center: tuple[float, float]


def _pixels(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def load_classifier(path: Path) -> PocketClassifier:
    """The trained judge."""
    model = PocketClassifier()
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)


@torch.no_grad()
def classify(model: PocketClassifier, pictures: np.ndarray) -> list[Verdict]:
    """Verdicts on pictures ``(b, 64, 64, 3) uint8``."""
    subject, background, style, place = model(_pixels(pictures))
    return [
        Verdict(
            subject=SUBJECT_NAMES[int(a)],
            background=BACKGROUND_NAMES[int(b)],
            style=STYLE_NAMES[int(c)],
            center=(float(p[0]), float(p[1])),
        )
        for a, b, c, p in zip(subject.argmax(1), background.argmax(1), style.argmax(1), place, strict=True)
    ]


def _batch(seed: int, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    items = [sample(seed, index) for index in range(first, first + count)]
    labels = [
        (
            SUBJECT_NAMES.index(i.scene.subject),
            BACKGROUND_NAMES.index(i.scene.background),
            STYLE_NAMES.index(i.scene.style),
        )
        for i in items
    ]
    places = [subject_center(i.scene) for i in items]
    return _pixels(np.stack([i.picture for i in items])), torch.tensor(labels), torch.tensor(places).float()


def train(path: Path, *, steps: int = 500, batch: int = 64) -> dict[str, float]:
    """Train from scratch, write the weights in half precision, return accuracies on held-out pictures."""
    torch.manual_seed(DATA_SEED)
    model = PocketClassifier().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        pixels, labels, places = _batch(DATA_SEED, step * batch, batch)
        blur = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        mix = torch.rand(batch, 1, 1, 1) ** 2 * 0.7  # a generator's pictures are softer and noisier than rendered ones
        noisy = pixels * (1 - mix) + blur * mix + 0.06 * torch.rand(batch, 1, 1, 1) * torch.randn_like(pixels)
        *logits, place = model(noisy)
        loss = sum(F.cross_entropy(logit, labels[:, k]) for k, logit in enumerate(logits))
        loss = loss + 20.0 * F.mse_loss(place, places)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            _LOG.info("step %d loss %.3f", step + 1, float(loss.detach()))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return measure(load_classifier(path))


@torch.no_grad()
def measure(model: PocketClassifier, count: int = 512) -> dict[str, float]:
    """Accuracies and the mean distance of the place (fraction of the width) on held-out rendered pictures."""
    pixels, labels, places = _batch(HELD_OUT_SEED, 0, count)
    *logits, place = model.eval()(pixels)
    names = ("subject", "background", "style")
    scores = {
        n: float((logit.argmax(1) == labels[:, k]).float().mean())
        for k, (n, logit) in enumerate(zip(names, logits, strict=True))
    }
    return {**scores, "center_error": float((place - places).norm(dim=1).mean())}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".safetensors"))
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()
    _LOG.info("%s", train(options.out, steps=options.steps))
