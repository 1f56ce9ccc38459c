"""Control videos: what a ControlNet is shown beside the noisy clip, computed from a video or given as one.

OpenCV, of the extra ``control``, is imported at use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tav_sdk.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CANNY_THRESHOLDS = (100, 200)
"""Thresholds of the gradient, low and high, that ControlNets for Canny edges were trained with."""


def canny(frames: NDArray[np.uint8], *, low: int = CANNY_THRESHOLDS[0], high: int = CANNY_THRESHOLDS[1]) -> Any:
    """Canny edges of every frame, white on black.

    Args:
        frames: ``(f, h, w, 3)`` uint8 RGB.
        low: a pixel whose gradient is below it is no edge; 0 to 1000.
        high: one whose gradient is above it is an edge, and so are those in between that touch one.

    Returns:
        ``(f, h, w, 3)`` uint8, 0 or 255.

    Raises:
        InputError: a threshold is out of range, ``low`` is above ``high``, or ``frames`` are something else.
        MissingExtraError: OpenCV is not installed.
    """
    if not 0 <= low <= high <= 1000:
        raise InputError(f"Canny's thresholds must be 0 <= low <= high <= 1000, got {low} and {high}")
    cv2 = _opencv()
    _check_frames(frames)
    edges = np.stack([cv2.Canny(np.ascontiguousarray(frame), low, high) for frame in frames])  # (f, h, w)
    return np.repeat(edges[..., None], 3, axis=-1)


def soft_edges(frames: NDArray[np.uint8]) -> Any:
    """The strength of edges in every frame, without thresholds: the gradient's magnitude (Scharr), scaled per frame.

    Args:
        frames: ``(f, h, w, 3)`` uint8 RGB.

    Returns:
        ``(f, h, w, 3)`` uint8, black where there is none, the strongest edge of a frame white.

    Raises:
        InputError: ``frames`` are something else.
        MissingExtraError: OpenCV is not installed.
    """
    cv2 = _opencv()
    _check_frames(frames)
    maps = []
    for frame in frames:
        gray = cv2.GaussianBlur(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY), (3, 3), 0)
        gradients = [cv2.Scharr(gray, cv2.CV_32F, *axes) for axes in ((1, 0), (0, 1))]
        magnitude = np.hypot(*gradients)
        maps.append(np.clip(magnitude * (255 / max(float(magnitude.max()), 1.0)), 0, 255).astype(np.uint8))
    return np.repeat(np.stack(maps)[..., None], 3, axis=-1)


DETECTORS: dict[str, Callable[[NDArray[np.uint8]], Any]] = {"canny": canny, "soft-edges": soft_edges}
"""By name: what a control video can be computed with from the clip itself."""


def agreement(edges: NDArray[np.uint8], control: NDArray[np.uint8], *, tolerance: int = 1) -> float:
    """How well two maps of edges agree: the F-measure of edge pixels, with a tolerance.

    Args:
        edges: ``(f, h, w, 3)`` uint8, edges above 127; recomputed from an edit.
        control: the same shape; what was asked for.
        tolerance: pixels that an edge may lie beside another, in both directions.

    Returns:
        In [0, 1]: the harmonic mean of the share of ``edges`` that lie on ``control``, and of ``control`` that was
        found; 1 if both are empty.

    Raises:
        InputError: the shapes differ.
        MissingExtraError: OpenCV is not installed.
    """
    if edges.shape != control.shape:
        raise InputError(f"maps of edges must have the same shape, got {edges.shape} and {control.shape}")
    cv2 = _opencv()
    found, asked = (maps[..., 0] > 127 for maps in (edges, control))
    if not found.any() and not asked.any():
        return 1.0
    kernel = np.ones((2 * tolerance + 1,) * 2, np.uint8)
    near_found, near_asked = (
        np.stack([cv2.dilate(one.astype(np.uint8), kernel) for one in maps]) > 0 for maps in (found, asked)
    )
    precision = float((found & near_asked).sum() / max(found.sum(), 1))
    recall = float((asked & near_found).sum() / max(asked.sum(), 1))
    return 2 * precision * recall / max(precision + recall, 1e-12)


def _check_frames(frames: Any) -> None:
    if not (isinstance(frames, np.ndarray) and frames.ndim == 4 and frames.shape[3] == 3 and frames.dtype == np.uint8):
        got = f"{frames.dtype}{list(frames.shape)}" if isinstance(frames, np.ndarray) else type(frames).__name__
        raise InputError(f"frames must be uint8[f, h, w, 3], got {got}; of a Video they are video.frames")


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError("computing control videos", "control", "cv2") from error
    return cv2
