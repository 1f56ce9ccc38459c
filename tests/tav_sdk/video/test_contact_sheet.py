"""Contact sheets."""

from __future__ import annotations

import numpy as np
import pytest

from tav_sdk.errors import InputError
from tav_sdk.video.clip import Video
from tav_sdk.video.contact_sheet import contact_sheet, frame_sheet


def _grey(num_frames: int, height: int = 40, width: int = 100) -> np.ndarray:
    """Frame i has the value 2 * i everywhere."""
    values = np.arange(num_frames, dtype=np.uint8) * 2
    return np.broadcast_to(values[:, None, None, None], (num_frames, height, width, 3)).copy()


def _columns(sheet: np.ndarray, y: int) -> list[int]:
    """The distinct non-white values along one line, left to right."""
    line = sheet[y, :, 0]
    return [int(value) for i, value in enumerate(line) if value < 250 and (i == 0 or line[i - 1] != value)]


def test_frames_run_left_to_right_at_their_size_on_white() -> None:
    sheet = contact_sheet({"": _grey(3)})
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == 16 + 3 * 100 + 2 * 6 + 16
    assert sheet[0, 0].tolist() == [255, 255, 255]
    assert _columns(sheet, 30) == [0, 2, 4]


def test_longer_clips_are_thinned_evenly_with_both_ends() -> None:
    assert _columns(contact_sheet({"": _grey(22)}, num_columns=4), 30) == [0, 14, 28, 42]


def test_every_row_is_drawn_below_its_label() -> None:
    one = contact_sheet({"source": _grey(2)})
    two = contact_sheet({"source": _grey(2), "an edit": Video(frames=_grey(2) + 100, fps=8)})
    assert two.shape[0] > 2 * (one.shape[0] - 32)
    np.testing.assert_array_equal(two[: one.shape[0] - 16, 16:138], one[:-16, 16:138])
    assert (one[16:36, 16:100] < 100).any()  # the label's ink, above the first frame
    assert _columns(two, one.shape[0] - 16 + 6 + 24 + 20) == [100, 102]


def test_frame_numbers_stand_below_the_frames() -> None:
    sheet = contact_sheet({"": _grey(1)})
    below = sheet[16 + 40 :, :, 0]
    assert 100 < below.min() < 160


def test_large_frames_are_reduced_and_scale_overrides() -> None:
    frames = _grey(1, 256, 384)
    assert contact_sheet({"": frames}).shape[1] == 192 + 32
    assert contact_sheet({"": frames}, scale=0.5).shape[1] == 192 + 32
    assert contact_sheet({"": frames}, scale=1).shape[1] == 384 + 32


def test_a_long_label_is_wrapped_within_the_sheet() -> None:
    short = contact_sheet({"a man": _grey(8)})
    long = contact_sheet({"a man is skiing on the beach " * 12 + "x" * 300: _grey(8)})
    assert long.shape[1] == short.shape[1]
    assert long.shape[0] > short.shape[0] + 4 * 24
    assert (long[:, -8:] == 255).all()


def test_a_label_is_cut_before_it_is_measured(monkeypatch) -> None:
    """A prompt of 3,000 characters without spaces took a minute: every beginning of it was measured, line by line."""
    from PIL.ImageFont import FreeTypeFont

    measured: list[str] = []
    real = FreeTypeFont.getlength

    def getlength(self: FreeTypeFont, text: str, *args: object) -> float:
        measured.append(text)
        return real(self, text, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(FreeTypeFont, "getlength", getlength)
    sheet = contact_sheet({"x" * 3000: _grey(2)})
    assert max(map(len, measured)) == 600
    assert measured[0] == "x" * 597 + "..."
    assert len(measured) < 500
    np.testing.assert_array_equal(sheet, contact_sheet({"x" * 597 + "...": _grey(2)}))


def test_a_label_of_600_characters_stays_whole() -> None:
    whole = contact_sheet({"ab " * 199 + "abc": _grey(8)})
    assert whole.shape != contact_sheet({"ab " * 100 + "abc": _grey(8)}).shape
    np.testing.assert_array_equal(whole, contact_sheet({"  ab\n" * 199 + "abc": _grey(8)}))


def test_what_cannot_be_drawn_is_escaped() -> None:
    np.testing.assert_array_equal(
        contact_sheet({"a\x1b[1m\u202eb": _grey(8)}), contact_sheet({"a\\x1b[1m\\u202eb": _grey(8)})
    )


def test_frame_sheet_shows_every_frame_in_rows() -> None:
    sheet = frame_sheet(Video(frames=_grey(20), fps=8))
    row = 40 + 21 + 6
    assert [_columns(sheet, 30 + k * row) for k in range(3)] == [
        [0, 2, 4, 6, 8, 10, 12, 14],
        [16, 18, 20, 22, 24, 26, 28, 30],
        [32, 34, 36, 38],
    ]


def test_frame_sheet_stays_bounded_for_long_clips() -> None:
    assert frame_sheet(_grey(500, 8, 8)).shape[0] == 8 * (16 + 21) + 7 * 6 + 32


@pytest.mark.parametrize(
    ("rows", "options", "text"),
    [
        ({}, {}, "rows: expected at least one labelled clip, got none"),
        ({"a": _grey(1)}, {"num_columns": 0}, "num_columns: expected a whole number of at least 1, got 0"),
        ({"a": _grey(1)}, {"scale": 0}, "scale: expected a number above 0 and at most 16, got 0"),
        ({"a": _grey(1)}, {"scale": "2"}, "scale: expected a number above 0 and at most 16, got '2'"),
        ({"a": np.zeros((4, 4, 3))}, {}, "frames: expected dtype uint8 (RGB, 0 to 255), got float64"),
    ],
)
def test_bad_arguments(rows: dict, options: dict, text: str) -> None:
    with pytest.raises(InputError) as error:
        contact_sheet(rows, **options)
    assert text in str(error.value)


def test_small_frames_are_drawn_twice_as_large() -> None:
    assert contact_sheet({"": _grey(1, 64, 64)}).shape[1] == 128 + 32
    assert contact_sheet({"": _grey(1, 64, 64)}, scale=1).shape[1] == 64 + 32
