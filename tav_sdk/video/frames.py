"""Frames as arrays: ranges, sizes, orientation.

Two layouts, and only these: frames ``(f, h, w, 3)`` uint8 RGB in 0..255, as read from and written to files, and pixels
``(f, 3, h, w)`` float32 in [-1, 1], as the VAE takes and gives them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tav_sdk.errors import InputError, SizeError

if TYPE_CHECKING:
    from numpy.typing import NDArray


__all__ = ["apply_display_matrix", "check_frames", "check_size", "cover_crop", "to_frames", "to_pixels"]


def check_frames(frames: Any) -> NDArray[np.uint8]:
    """Return ``frames`` unchanged if they are ``(f, h, w, 3)`` uint8 with at least one frame and one pixel.

    Raises:
        InputError: they are something else; the message says what came.
    """
    if not isinstance(frames, np.ndarray):
        raise InputError(f"frames: expected a numpy array (f, h, w, 3) of uint8, got {type(frames).__name__}.")
    if frames.dtype != np.uint8:
        hint = " Use tav_sdk.video.frames.to_frames for pixels in [-1, 1]." if frames.dtype.kind == "f" else ""
        raise InputError(f"frames: expected dtype uint8 (RGB, 0 to 255), got {frames.dtype}.{hint}")
    if frames.ndim != 4 or frames.shape[-1] != 3:
        hint = " One image needs a frame axis: image[None]." if frames.ndim == 3 and frames.shape[-1] == 3 else ""
        raise InputError(f"frames: expected shape (f, h, w, 3), got {frames.shape}.{hint}")
    if 0 in frames.shape:
        raise InputError(f"frames: expected at least one frame of at least one pixel, got shape {frames.shape}.")
    return frames


def to_pixels(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn frames into pixels: ``frames / 127.5 - 1``.

    Args:
        frames: ``(f, h, w, 3)`` uint8 RGB.

    Returns:
        ``(f, 3, h, w)`` float32 in [-1, 1], contiguous.

    Raises:
        InputError: shape or dtype are not these.
    """
    pixels = np.ascontiguousarray(check_frames(frames).transpose(0, 3, 1, 2), dtype=np.float32)  # (f, 3, h, w)
    pixels /= 127.5
    pixels -= 1.0
    return pixels


def to_frames(pixels: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Turn pixels into frames, the inverse of :func:`to_pixels`: values are clipped to [-1, 1] and rounded.

    Args:
        pixels: ``(f, 3, h, w)`` of any float dtype, nominally in [-1, 1].

    Returns:
        ``(f, h, w, 3)`` uint8 RGB, contiguous.

    Raises:
        InputError: shape or dtype are not these, or a value is NaN.
    """
    if not isinstance(pixels, np.ndarray) or pixels.dtype.kind != "f":
        got = pixels.dtype if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise InputError(f"pixels: expected a numpy array (f, 3, h, w) of floats in [-1, 1], got {got}.")
    if pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape:
        raise InputError(f"pixels: expected shape (f, 3, h, w), got {pixels.shape}.")
    values = pixels.astype(np.float32)
    num_nan = int(np.isnan(values).sum())
    if num_nan:
        raise InputError(f"pixels: expected numbers in [-1, 1], got {num_nan} NaN of {values.size} values.")
    values = (values / 2.0 + 0.5).clip(0.0, 1.0) * 255.0
    return np.ascontiguousarray(np.rint(values).astype(np.uint8).transpose(0, 2, 3, 1))  # (f, h, w, 3)


def check_size(height: int, width: int, multiple: int) -> None:
    """Check that a model can take frames of ``height`` x ``width`` pixels.

    Args:
        multiple: the VAE's factor times 2 to the number of the U-Net's upsamplers; 64 for Stable Diffusion.

    Raises:
        SizeError: either is not a positive multiple; the message names the nearest that are.
    """
    if multiple < 1:
        raise InputError(f"multiple: expected at least 1, got {multiple}.")
    problems: list[str] = []
    for name, value in (("height", height), ("width", width)):
        if value >= multiple and value % multiple == 0:
            continue
        below = value // multiple * multiple
        nearest = (
            f"the nearest valid {name}s are {below} and {below + multiple}"
            if below >= multiple
            else f"the smallest valid {name} is {multiple}"
        )
        problems.append(
            f"{name} {value} is not a multiple of {multiple}; {nearest}"
            if value > 0
            else f"{name} {value} is not positive; {nearest}"
        )
    if problems:
        raise SizeError("; ".join(problems) + ".")


def apply_display_matrix(frame: NDArray[np.uint8], matrix: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Turn or mirror one frame as a video file's display matrix says, in steps of 90 degrees.

    Args:
        frame: ``(h, w, 3)``.
        matrix: the nine integers of the matrix in the file's order, ``(a, b, u, c, d, v, x, y, w)``: a pixel at
            ``(p, q)`` is shown at ``(a p + c q, b p + d q)``, up to scale.

    Returns:
        ``(h, w, 3)`` or ``(w, h, 3)``, a view.
    """
    a, b, c, d = (int(matrix[i]) for i in (0, 1, 3, 4))
    to_right, to_bottom = a, d  # signs of the axes as shown; negative means mirrored
    if abs(b) > abs(a):
        frame = frame.transpose(1, 0, 2)
        to_right, to_bottom = c, b
    if to_right < 0:
        frame = frame[:, ::-1]
    if to_bottom < 0:
        frame = frame[::-1]
    return frame


def cover_crop(frame: NDArray[np.uint8], size: tuple[int, int], pixel_aspect: float = 1.0) -> NDArray[np.uint8]:
    """Scale one frame so that it covers ``size``, and cut out its centre.

    Lanczos with antialiasing (Pillow). A frame that only needs cutting is cut at whole pixels, not resampled.

    Args:
        frame: ``(h, w, 3)`` uint8.
        size: ``(height, width)`` wanted.
        pixel_aspect: width over height of one pixel of ``frame`` as shown; 1 for square pixels.

    Returns:
        ``(height, width, 3)`` uint8, contiguous.
    """
    height, width = size
    source_height, source_width = frame.shape[:2]
    shown_width = source_width * pixel_aspect
    factor = max(height / source_height, width / shown_width)
    crop_height = min(height / factor, source_height)
    crop_width = min(width / factor / pixel_aspect, source_width)
    top, left = (source_height - crop_height) / 2, (source_width - crop_width) / 2
    if factor == 1.0 and pixel_aspect == 1.0:
        top, left = int(top), int(left)
        return np.ascontiguousarray(frame[top : top + height, left : left + width])

    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(frame)).resize(
        (width, height),
        Image.Resampling.LANCZOS,
        box=(left, top, left + crop_width, top + crop_height),
        reducing_gap=3.0,
    )
    return np.asarray(image).copy()


VAE_CHUNK = 4
"""Frames that go through the VAE at a time: memory of a chunk, not of a clip."""


def chunk_lengths(num_frames: int) -> tuple[int, ...]:
    """The numbers of frames that the VAE's graphs are called with for one clip."""
    return tuple(sorted({min(VAE_CHUNK, num_frames), num_frames % VAE_CHUNK or VAE_CHUNK}))
