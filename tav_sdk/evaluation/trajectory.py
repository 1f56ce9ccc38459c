"""Where a video's subject is, and how alike two trajectories are: the measure ``motion``, numpy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tav_sdk.errors import InputError
from tav_sdk.video.frames import check_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MIN_MOTION", "check_trajectory", "find_trajectory", "motion"]

MIN_MOTION = 0.05
"""Extent of a trajectory, as a fraction of the frame, below which a subject stands still."""

_WORKING_SIZE = 64  # pixels along the shorter side at which a subject is looked for
_BOX = 0.25  # side of the box filter over the width: about half a subject, so that it outweighs small things
_SATURATION, _NOISE = 80.0, 12.0  # differences of uint8 values: changed is changed from here on; and not below
_CLEARLY = 1.5  # times the median difference is more than noise
_SUBJECT = (0.22, 0.33)  # half width and half height around a found subject that are not background
_ROUNDS = 4


def motion(video: NDArray[np.floating[Any]], source: NDArray[np.floating[Any]]) -> float | None:
    """How well an edit keeps the source's motion: the correlation of the subject's two trajectories.

    Both are projected on the source's main axis (the first principal direction of its positions); the result is
    Pearson's correlation of the two, so neither place nor scale of the subject counts. It is 0 if the edit's subject
    moves by less than ``MIN_MOTION`` along that axis: the jitter of what stands still correlates with anything.

    Args:
        video: ``(f, 2)``, the subject's (x, y) in the edit as fractions of width and height.
        source: likewise in the source.

    Returns:
        -1 to 1, or ``None`` if the source's subject moves by less than ``MIN_MOTION``.

    Raises:
        InputError: other shapes, or lengths that differ.
    """
    video, source = check_trajectory("video", video), check_trajectory("source", source)
    if len(video) != len(source):
        raise InputError(
            f"expected trajectories of one length, got {len(video)} of the video, {len(source)} of the source."
        )
    centred, other = source - source.mean(axis=0), video - video.mean(axis=0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    expected, got = centred @ axis, other @ axis  # (f,)
    if np.ptp(expected) < MIN_MOTION:
        return None
    if np.ptp(got) < MIN_MOTION:
        return 0.0
    return float(np.clip(expected @ got / np.sqrt((expected @ expected) * (got @ got)), -1, 1))


def find_trajectory(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Where the subject is in every frame: the centroid of what differs from the background, without a classifier.

    The frames are averaged down to 64 pixels or a little more. The background is the median of each pixel over time.
    A pixel's difference from it, less the frame's own median (a change of light), is the largest of the channels,
    saturated, and smoothed with a box a quarter as wide as the frame; what exceeds half of the frame's maximum, and
    1.5 times the median over all frames, is the weight of the centroid. Where a subject is over a pixel for half of
    the time, the median takes it for background: so background and centroids are found anew three times, each time
    without the subject's surroundings.

    A camera that pans slowly is tolerated. A scene that moves as a whole and several subjects are not told apart,
    and in strong flicker of large patches a subject that stands still is lost.

    Args:
        frames: ``(f, h, w, 3)`` uint8 RGB.

    Returns:
        ``(f, 2)``: x and y as fractions of width and height; the middle of the frame if nothing differs anywhere.
    """
    values = _small(check_frames(frames))  # (f, h, w, 3)
    num_frames, height, width = values.shape[:3]
    xs, ys = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    radius = max(1, round(width * _BOX / 2))
    centers = np.full((num_frames, 2), 0.5)
    background = np.median(values, axis=0)
    for _ in range(_ROUNDS):
        change = values - background
        change -= np.median(change, axis=(1, 2), keepdims=True)
        smooth = _box_filter(np.minimum(np.abs(change).max(axis=-1), _SATURATION), radius)  # (f, h, w)
        least = max(_NOISE, _CLEARLY * float(np.median(smooth)))  # so that mere noise has no centroid
        threshold = np.maximum(smooth.max(axis=(1, 2)) / 2, least)
        weight = np.clip(smooth - threshold[:, None, None], 0, None)
        total = weight.sum(axis=(1, 2))
        seen = np.flatnonzero(total > 0)
        if not len(seen):
            break
        found = np.stack([weight.sum(axis=1) @ xs, weight.sum(axis=2) @ ys], axis=1)[seen] / total[seen, None]
        # A frame in which nothing differs takes its place from its neighbours.
        centers = np.stack([np.interp(np.arange(num_frames), seen, column) for column in found.T], axis=1)
        near_x = np.abs(xs - centers[:, :1]) < _SUBJECT[0]  # (f, w)
        near_y = np.abs(ys - centers[:, 1:]) < _SUBJECT[1]  # (f, h)
        hidden = near_y[:, :, None] & near_x[:, None, :]  # (f, h, w)
        always = hidden.all(axis=0)  # no frame shows what is behind: keep what there is
        masked = np.where((hidden & ~always)[..., None], np.nan, values)
        background = np.where(always[..., None], background, np.nanmedian(masked, axis=0))
    return centers


def _small(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Means over square blocks, so that the cost does not grow with the frame; the rest at right and bottom is cut."""
    num_frames, height, width = frames.shape[:3]
    block = max(1, min(height, width) // _WORKING_SIZE)
    rows, columns = height // block, width // block
    cut = frames[:, : rows * block, : columns * block]
    return cut.reshape(num_frames, rows, block, columns, block, 3).mean(axis=(2, 4), dtype=np.float32)


def _box_filter(values: NDArray[np.floating[Any]], radius: int) -> NDArray[np.float64]:
    """Means over boxes of ``2 radius + 1`` pixels; ``(f, h, w)`` in and out, edges repeated."""
    size = 2 * radius + 1
    padded = np.pad(values.astype(np.float64), ((0, 0), (radius, radius), (radius, radius)), mode="edge")
    sums = np.pad(padded, ((0, 0), (1, 0), (1, 0))).cumsum(axis=1).cumsum(axis=2)
    boxes = sums[:, size:, size:] - sums[:, :-size, size:] - sums[:, size:, :-size] + sums[:, :-size, :-size]
    return boxes / size**2


def check_trajectory(name: str, positions: Any) -> NDArray[np.float64]:
    """A trajectory as ``(f, 2)`` float64.

    Raises:
        InputError: it is no list of pairs of finite numbers; the message calls it ``name``.
    """
    try:
        checked = np.asarray(positions, dtype=np.float64)
    except (TypeError, ValueError):
        checked = np.full((1, 1), np.nan)
    if checked.ndim != 2 or checked.shape[1] != 2 or not len(checked) or not np.isfinite(checked).all():
        raise InputError(f"{name}: expected a list of [x, y], one for each frame, as fractions of width and height.")
    return checked
