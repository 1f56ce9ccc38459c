"""What an edit of a sample clip shows: the judge, and the measures of a picture that need no model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.pocket_classifier import Verdict, classify, load_classifier
from benchmarks.pocket_editing import Edit
from tav_sdk.evaluation.evaluate import clip_frame, clip_text
from tav_sdk.evaluation.trajectory import motion
from tav_sdk.pocket import CLIP
from tav_sdk.training.clip_scorer import ClipScorer
from tav_sdk.training.pocket.subjects import COLORS

CLASSIFIER = Path(__file__).with_name("pocket_classifier.safetensors")
BODY, SATURATED, HUE_WIDTH = 0.1, 90, 30.0  # half side of the body's region, of 255, degrees
AROUND = 0.33  # half side of the square around a subject that is not background


class Judge:
    """The independent classifier, a hue check, the trajectory, and Pocket's own CLIP."""

    def __init__(self) -> None:
        self.classifier = load_classifier(CLASSIFIER)
        self.clip = ClipScorer(CLIP, device="cpu")

    def __call__(self, frames: np.ndarray, edit: Edit, centers: np.ndarray) -> dict[str, float | None]:
        """Scores of one edit.

        Args:
            frames: ``(f, 64, 64, 3)`` uint8.
            edit: what they should show.
            centers: ``(f, 2)`` true middles of the source's subject.

        Returns:
            ``subject``, ``background``, ``style``, ``all``: share of frames where the judge sees what was asked;
            ``color``: likewise, ``None`` where the prompt names none; ``trajectory``: see
            :func:`tav_sdk.evaluation.trajectory.motion`, of the judged middles; ``flicker``: see :func:`flicker`;
            ``clip_text``, ``clip_frame``: see :mod:`tav_sdk.evaluation.evaluate`.
        """
        verdicts = classify(self.classifier, frames)
        found = np.asarray(
            [[getattr(v, part) == getattr(edit, part) for part in ("subject", "background", "style")] for v in verdicts]
        )  # (f, 3)
        colors = [body_color(frame, verdict) == edit.color for frame, verdict in zip(frames, verdicts, strict=True)]
        embedded = self.clip.embed_frames(frames)  # (f, d)
        return {
            **dict(zip(("subject", "background", "style"), found.mean(0).tolist(), strict=True)),
            "all": float(found.all(1).mean()),
            "color": float(np.mean(colors)) if edit.color else None,
            "trajectory": motion(places := np.asarray([verdict.center for verdict in verdicts]), centers),
            "flicker": flicker(frames, places),
            "clip_text": clip_text(embedded, self.clip.embed_text([edit.prompt])[0]),
            "clip_frame": clip_frame(embedded),
        }


def around(places: np.ndarray, height: int, width: int) -> np.ndarray:
    """Where the subject is, with room to spare: ``(f, h, w)`` bool, true in a square around its middle.

    Args:
        places: ``(f, 2)`` the middles (x, y) as fractions.
        height: of the picture, in pixels.
        width: likewise.
    """
    xs, ys = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    return (abs(xs - places[:, :1]) <= AROUND)[:, None, :] & (abs(ys - places[:, 1:]) <= AROUND)[:, :, None]


def flicker(frames: np.ndarray, places: np.ndarray) -> float:
    """How much the background changes from frame to frame, of 255; 0.1 to 0.5 in a clip whose camera stands still.

    The mean absolute difference of adjacent frames, over the pixels that are far from the subject in both. Pocket's
    CLIP gives nearly the same embedding to all pictures of one caption, so ``clip_frame`` hardly sees this.

    Args:
        frames: ``(f, h, w, 3)`` uint8.
        places: ``(f, 2)`` the subject's middle (x, y) as fractions.
    """
    far = ~around(places, frames.shape[1], frames.shape[2])  # (f, h, w)
    change = abs(frames[1:].astype(np.float64) - frames[:-1]).mean(axis=-1)  # (f - 1, h, w)
    return float(change[far[1:] & far[:-1]].mean())


def body_color(frame: np.ndarray, verdict: Verdict) -> str | None:
    """The named colour of most saturated pixels around the judged middle; ``None`` where there are none.

    The region is small enough to lie within the body: on rendered pictures of the world the vote is never wrong.
    """
    size = frame.shape[0]
    left, top = (max(int((place - BODY) * size), 0) for place in verdict.center)
    right, bottom = (int((place + BODY) * size) + 1 for place in verdict.center)
    hsv = np.asarray(Image.fromarray(frame).convert("HSV"), dtype=np.float64)[top:bottom, left:right].reshape(-1, 3)
    degrees = hsv[hsv[:, 1] >= SATURATED, 0] * (360 / 255)
    votes = {name: (abs((degrees - hue + 180) % 360 - 180) < HUE_WIDTH).sum() for name, hue in COLORS.items()}
    best = max(votes, key=lambda name: votes[name])
    return best if votes[best] else None
