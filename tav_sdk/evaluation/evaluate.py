"""How good an edit is: the measures of Tune-A-Video's paper and its followers, by name.

Embeddings come from any CLIP (:class:`ClipEncoder`; ``tav_sdk.training.clip_scorer.ClipScorer`` is one); everything
else is numpy. A change of what a name means raises ``DEFINITIONS_VERSION``, so that numbers are never mixed up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tav_sdk.errors import InputError
from tav_sdk.evaluation.trajectory import MIN_MOTION, check_trajectory, find_trajectory, motion
from tav_sdk.video.frames import check_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "DEFINITIONS",
    "DEFINITIONS_VERSION",
    "ClipEncoder",
    "Scores",
    "clip_adjacent",
    "clip_frame",
    "clip_text",
    "evaluate",
    "mean_scores",
    "reconstruction_psnr",
]

DEFINITIONS_VERSION = 1
DEFINITIONS = {
    "clip_text": "100 x cosine of frame and prompt embedding, mean over frames (Tune-A-Video, textual alignment)",
    "clip_frame": "100 x cosine of two frame embeddings, mean over all pairs of distinct frames "
    "(Tune-A-Video and LOVEU-TGVE, frame consistency)",
    "clip_adjacent": "100 x cosine of two frame embeddings, mean over adjacent frames (FateZero, Tem-Con)",
    "motion": "Pearson correlation of the subject's trajectories in edit and source along the source's main axis; "
    "the subject is what differs from the still background; 0 if the edit's subject moves by less than 5 % of the "
    "frame, undefined if the source's does",
    "reconstruction_psnr": "dB, 10 log10(255^2 / mean squared error) over all values of source and reconstruction",
}


class ClipEncoder(Protocol):
    """What embeds frames and texts in one space, L2-normalised."""

    def embed_frames(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """``(f, h, w, 3)`` uint8 RGB to ``(f, d)`` float32."""
        ...

    def embed_text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """``n`` prompts to ``(n, d)`` float32."""
        ...


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The measures of one video; ``None`` where one is not defined, and ``notes`` says why.

    Attributes:
        clip_text, clip_frame, clip_adjacent: -100 to 100.
        motion: -1 to 1.
        notes: reason by name of the measure.
    """

    clip_text: float
    clip_frame: float | None
    clip_adjacent: float | None
    motion: float | None
    notes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The measures in their order."""
        return tuple(one.name for one in fields(cls) if one.name != "notes")

    def to_dict(self) -> dict[str, float | None]:
        """The measures by name, without the notes."""
        return {name: getattr(self, name) for name in self.names()}


def evaluate(
    video: NDArray[np.uint8],
    prompt: str,
    source: NDArray[np.uint8] | None,
    clip: ClipEncoder,
    *,
    positions: NDArray[np.floating[Any]] | None = None,
) -> Scores:
    """Measure one edit.

    Args:
        video: the edit, ``(f, h, w, 3)`` uint8 RGB.
        prompt: what it was asked to show.
        source: the clip that was edited, ``(f, h, w, 3)`` of any height and width; without it there is no ``motion``.
        clip: embeds frames and prompt.
        positions: ``(f, 2)``, the true (x, y) of the source's subject as fractions of width and height, if known;
            else they are found (:func:`find_trajectory`).

    Raises:
        InputError: an array of another shape or dtype, or another number of positions than of frames.
    """
    num_frames = len(check_frames(video))
    notes: dict[str, str] = {}
    followed: float | None = None
    if positions is not None:
        truth = check_trajectory("positions", positions)
    else:
        truth = None if source is None else find_trajectory(source)
    if truth is None:
        notes["motion"] = "there is no source to compare with"
    elif len(truth) != num_frames:
        if positions is not None:
            raise InputError(f"positions: the video has {num_frames} frames, the list of positions {len(truth)}")
        notes["motion"] = (
            f"the video has {num_frames} frames, the source {len(truth)}; give the frames that were edited, such as "
            "source.mp4 of tav edit"
        )
    else:
        followed = motion(find_trajectory(video), truth)
        if followed is None:
            notes["motion"] = f"the source's subject moves by less than {MIN_MOTION:.0%} of the frame"
    frames = clip.embed_frames(video)
    if num_frames == 1:
        notes |= dict.fromkeys(("clip_frame", "clip_adjacent"), "the video has one frame only")
    return Scores(
        clip_text=clip_text(frames, clip.embed_text([prompt])[0]),
        clip_frame=clip_frame(frames),
        clip_adjacent=clip_adjacent(frames),
        motion=followed,
        notes=notes,
    )


def mean_scores(scores: Sequence[Scores]) -> dict[str, float | None]:
    """The mean of each measure over the videos for which it is defined; ``None`` if it is for none."""
    given = {name: [v for one in scores if (v := getattr(one, name)) is not None] for name in Scores.names()}
    return {name: float(np.mean(values)) if values else None for name, values in given.items()}


# --- CLIP ---------------------------------------------------------------------------------------------------------


def clip_text(frames: NDArray[np.floating[Any]], prompt: NDArray[np.floating[Any]]) -> float:
    """100 x cosine of frame and prompt, mean over frames: "CLIP score" in Table 1 of Tune-A-Video (arXiv 2212.11565).

    LOVEU-TGVE (arXiv 2310.16003) calls it textual alignment. Negative values are kept.

    Args:
        frames: ``(f, d)`` embeddings.
        prompt: ``(d,)`` embedding.

    Raises:
        InputError: shapes that do not fit.
    """
    frames, unit = _unit(frames), _unit(np.asarray(prompt)[None])[0]
    if frames.shape[1] != len(unit):
        raise InputError(
            f"expected embeddings of one width, got {frames.shape[1]} of frames, {len(unit)} of the prompt."
        )
    return float(100 * (frames @ unit).mean())


def clip_frame(frames: NDArray[np.floating[Any]]) -> float | None:
    """100 x cosine, mean over all pairs of distinct frames: frame consistency of Tune-A-Video and LOVEU-TGVE.

    Args:
        frames: ``(f, d)`` embeddings; a single one gives ``None``.
    """
    frames = _unit(frames)
    first, second = np.triu_indices(len(frames), k=1)
    return float(100 * (frames @ frames.T)[first, second].mean()) if len(first) else None


def clip_adjacent(frames: NDArray[np.floating[Any]]) -> float | None:
    """100 x cosine, mean over adjacent frames: Tem-Con of FateZero (arXiv 2303.09535), there without the 100.

    Args:
        frames: ``(f, d)`` embeddings; a single one gives ``None``.
    """
    frames = _unit(frames)
    return float(100 * (frames[:-1] * frames[1:]).sum(axis=1).mean()) if len(frames) > 1 else None


def _unit(embeddings: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise InputError(f"embeddings: expected shape (n, d), got {rows.shape}.")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        raise InputError("embeddings: expected finite rows other than zero.")
    return rows / norms


# --- reconstruction -----------------------------------------------------------------------------------------------


def reconstruction_psnr(source: NDArray[np.uint8], reconstruction: NDArray[np.uint8]) -> float:
    """PSNR in dB of inversion and then sampling with the source's own prompt, over all values of all frames.

    Args:
        source, reconstruction: ``(f, h, w, 3)`` uint8 RGB of one shape.

    Returns:
        10 log10(255^2 / mean squared error); infinity if they are equal.

    Raises:
        InputError: the shapes differ.
    """
    if check_frames(source).shape != check_frames(reconstruction).shape:
        raise InputError(
            f"reconstruction_psnr compares pixel by pixel: the source is {_shape(source)}, the reconstruction "
            f"{_shape(reconstruction)}. Give the source at the size and with the frames that were inverted."
        )
    error = np.mean([np.square(a.astype(np.float64) - b).mean() for a, b in zip(source, reconstruction, strict=True)])
    return float(10 * np.log10(255.0**2 / error)) if error else float("inf")


def _shape(frames: NDArray[np.uint8]) -> str:
    return f"{frames.shape[0]} frames of {frames.shape[1]}x{frames.shape[2]}"
