"""Frames as arrays: ranges, sizes, orientation."""

from __future__ import annotations

import numpy as np
import pytest

from tav_sdk.errors import InputError, SizeError
from tav_sdk.video.frames import apply_display_matrix, check_size, cover_crop, to_frames, to_pixels


def test_every_value_survives_the_round_trip() -> None:
    frames = np.arange(256, dtype=np.uint8).repeat(3).reshape(2, 16, 8, 3)
    np.testing.assert_array_equal(to_frames(to_pixels(frames)), frames)


def test_pixels_are_channels_first_in_minus_one_to_one() -> None:
    frames = np.zeros((2, 3, 4, 3), np.uint8)
    frames[1, 2, 3] = (255, 0, 51)
    pixels = to_pixels(frames)
    assert pixels.shape == (2, 3, 3, 4)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    np.testing.assert_allclose(pixels[1, :, 2, 3], [1.0, -1.0, -0.6], atol=1e-6)


def test_frames_are_clipped_and_rounded() -> None:
    pixels = np.array([-np.inf, -1.5, 0.0, 2.0, 1.9 / 127.5 - 1, 1.0], np.float64).reshape(1, 1, 2, 3).repeat(3, axis=1)
    assert to_frames(pixels)[0, :, :, 0].ravel().tolist() == [0, 0, 128, 255, 2, 255]


def test_half_precision_pixels_are_taken() -> None:
    assert to_frames(np.ones((1, 3, 2, 2), np.float16)).min() == 255


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        (
            np.zeros((2, 4, 4, 3), np.float32),
            "expected dtype uint8 (RGB, 0 to 255), got float32. Use tav_sdk.video.frames",
        ),
        (np.zeros((2, 3, 4, 4), np.uint8), "expected shape (f, h, w, 3), got (2, 3, 4, 4)"),
        (np.zeros((4, 4, 3), np.uint8), "got (4, 4, 3). One image needs a frame axis: image[None]."),
        (np.zeros((0, 4, 4, 3), np.uint8), "expected at least one frame of at least one pixel, got shape (0, 4, 4, 3)"),
        ([[1]], "expected a numpy array (f, h, w, 3) of uint8, got list"),
    ],
)
def test_to_pixels_refuses_what_are_no_frames(frames: object, text: str) -> None:
    with pytest.raises(InputError) as error:
        to_pixels(frames)  # type: ignore[arg-type]
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        (np.zeros((1, 3, 2, 2), np.uint8), "of floats in [-1, 1], got uint8"),
        ("x", "of floats in [-1, 1], got str"),
        (np.zeros((1, 2, 2, 3), np.float32), "expected shape (f, 3, h, w), got (1, 2, 2, 3)"),
        (np.full((1, 3, 2, 2), np.nan, np.float32), "got 12 NaN of 12 values"),
    ],
)
def test_to_frames_refuses_what_are_no_pixels(pixels: object, text: str) -> None:
    with pytest.raises(InputError) as error:
        to_frames(pixels)  # type: ignore[arg-type]
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("height", "width", "text"),
    [
        (500, 512, "height 500 is not a multiple of 64; the nearest valid heights are 448 and 512."),
        (512, 70, "width 70 is not a multiple of 64; the nearest valid widths are 64 and 128."),
        (20, 512, "height 20 is not a multiple of 64; the smallest valid height is 64."),
        (512, 0, "width 0 is not positive; the smallest valid width is 64."),
        (500, 70, "are 448 and 512; width 70 is not"),
    ],
)
def test_a_size_the_base_cannot_take_names_the_nearest(height: int, width: int, text: str) -> None:
    with pytest.raises(SizeError) as error:
        check_size(height, width, 64)
    assert text in str(error.value)


def test_multiples_pass() -> None:
    check_size(64, 512, 64)
    check_size(24, 8, 8)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), lambda frame: frame),
        ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
        ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
        ((0, -1, 1, 0), lambda frame: np.rot90(frame, 1)),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda frame: frame.transpose(1, 0, 2)),
    ],
)
def test_display_matrix(matrix: tuple[int, ...], expected) -> None:
    a, b, c, d = matrix
    frame = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    turned = apply_display_matrix(frame, np.array([a, b, 0, c, d, 0, 0, 0, 1], np.int32))
    np.testing.assert_array_equal(turned, expected(frame))


def test_cutting_alone_resamples_nothing() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (32, 49, 3), dtype=np.uint8)
    np.testing.assert_array_equal(cover_crop(frame, (32, 32)), frame[:, 8:40])


@pytest.mark.parametrize("size", [(16, 16), (48, 100), (7, 31), (200, 10)])
def test_cover_crop_gives_exactly_the_size_and_keeps_the_centre(size: tuple[int, int]) -> None:
    frame = np.zeros((60, 80, 3), np.uint8)
    frame[25:35, 35:45] = 255
    result = cover_crop(frame, size)
    assert result.shape == (*size, 3)
    ys, xs = np.nonzero(result[..., 0] > 127)
    assert abs(ys.mean() - (size[0] - 1) / 2) <= 0.51
    assert abs(xs.mean() - (size[1] - 1) / 2) <= 0.51


def test_shrinking_averages_instead_of_dropping_pixels() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(cover_crop(stripes, (8, 8)).astype(int) - 127).max() <= 3


def test_cover_crop_stretches_pixels_that_are_not_square() -> None:
    frame = np.zeros((40, 20, 3), np.uint8)  # shown 40 x 40
    frame[10:30, 5:15] = 255  # shown as a square of 20
    result = cover_crop(frame, (40, 40), pixel_aspect=2.0)
    assert (result[20, :, 0] > 127).sum() == 20
    assert (result[:, 20, 0] > 127).sum() == 20
