"""Contact sheets: frames of one or more clips side by side in one labelled picture."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tav_sdk.errors import InputError
from tav_sdk.video.frames import check_frames
from tav_sdk.words import brief, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.ImageFont import FreeTypeFont, ImageFont


__all__ = ["Excerpt", "contact_sheet", "evenly", "frame_sheet"]

_TILE_WIDTH = 192  # pixels, the widest a frame becomes unless ``scale`` says otherwise
_SMALL = 96  # pixels; narrower frames are drawn at twice their size
_MAX_FRAMES = 64
_INK, _FAINT_INK, _PAPER = (20, 20, 20), (110, 110, 110), (255, 255, 255)
_MAX_LABEL = 600  # characters; the rest of a longer label is left out
_LABEL_SIZE, _INDEX_SIZE = 18, 13  # font sizes, pixels
_MARGIN, _GAP = 16, 6  # pixels around the sheet, and between frames


class HasFrames(Protocol):
    """A clip in memory, such as a :class:`tav_sdk.Video`, or an :class:`Excerpt` of one."""

    @property
    def frames(self) -> NDArray[np.uint8]:
        """``(f, h, w, 3)`` uint8 RGB."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Excerpt:
    """Some frames of a longer clip.

    Attributes:
        frames: ``(f, h, w, 3)`` uint8 RGB.
        indices: their places in the clip.
    """

    frames: NDArray[np.uint8]
    indices: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class _Row:
    label: str
    frames: NDArray[np.uint8]  # (f, h, w, 3)
    indices: Sequence[int]  # those shown
    numbers: Sequence[int]  # below them


def contact_sheet(
    rows: Mapping[str, HasFrames | NDArray[np.uint8]], *, num_columns: int = 8, scale: float | None = None
) -> NDArray[np.uint8]:
    """Draw one row for each clip, such as a source and its edits: label above, frames left to right, index below each.

    Args:
        rows: label to clip, ``(f, h, w, 3)`` uint8 RGB, or to some frames of one; long labels are wrapped, and cut
            after 600 characters; an empty one takes no room.
        num_columns: frames in a row. Of a longer clip this many are shown, evenly chosen, first and last included.
        scale: drawn size over frame size; ``None`` draws frames at their size, but no wider than 192 pixels, and
            twice as large where they are narrower than 96.

    Returns:
        ``(height, width, 3)`` uint8 RGB on white.

    Raises:
        InputError: no rows, or an argument, shape or dtype out of range.
    """
    if not rows:
        raise InputError("rows: expected at least one labelled clip, got none.")
    _check_columns(num_columns)
    drawn: list[_Row] = []
    for label, clip in rows.items():
        frames = _frames_of(clip)
        indices = evenly(len(frames), num_columns)
        numbers = [clip.indices[index] for index in indices] if isinstance(clip, Excerpt) else indices
        drawn.append(_Row(label=_cut(str(label)), frames=frames, indices=indices, numbers=numbers))
    return _draw(drawn, scale)


def frame_sheet(
    clip: HasFrames | NDArray[np.uint8], *, num_columns: int = 8, scale: float | None = None
) -> NDArray[np.uint8]:
    """Draw one clip over as many rows as it takes; of more than 64 frames, 64 evenly chosen.

    Arguments, result and errors are those of :func:`contact_sheet`.
    """
    _check_columns(num_columns)
    frames = _frames_of(clip)
    indices = evenly(len(frames), _MAX_FRAMES)
    lines = [indices[first : first + num_columns] for first in range(0, len(indices), num_columns)]
    rows = [_Row(label="", frames=frames, indices=line, numbers=line) for line in lines]
    return _draw(rows, scale)


def _check_columns(num_columns: Any) -> None:
    if isinstance(num_columns, bool) or not isinstance(num_columns, (int, np.integer)) or num_columns < 1:
        raise InputError(f"num_columns: expected a whole number of at least 1, got {brief(num_columns)}.")


def _frames_of(clip: Any) -> NDArray[np.uint8]:
    return check_frames(getattr(clip, "frames", clip))


def evenly(num_frames: int, most: int) -> list[int]:
    """At most so many places in a clip, evenly chosen, first and last included."""
    if num_frames <= most:
        return list(range(num_frames))
    if most == 1:
        return [0]
    return [round(i * (num_frames - 1) / (most - 1)) for i in range(most)]


def _draw(rows: Sequence[_Row], scale: float | None) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw, ImageFont

    if scale is not None and not (isinstance(scale, int | float | np.number) and 0 < scale <= 16):
        raise InputError(f"scale: expected a number above 0 and at most 16, got {brief(scale)}.")
    label_font, index_font = ImageFont.load_default(_LABEL_SIZE), ImageFont.load_default(_INDEX_SIZE)
    label_line, index_line = _LABEL_SIZE + 6, _INDEX_SIZE + 8
    sizes = [_tile_size(row.frames, scale) for row in rows]  # (height, width) each
    column = max([width for _, width in sizes] + [24])
    num_columns = max(len(row.indices) for row in rows)
    inner = num_columns * column + (num_columns - 1) * _GAP
    inner = max(inner, min(320, max(round(label_font.getlength(row.label)) for row in rows)))  # room for a label
    labels = [_wrapped(row.label, label_font, inner) for row in rows]
    row_heights = [len(lines) * label_line + size[0] + index_line for lines, size in zip(labels, sizes, strict=True)]

    sheet = Image.new("RGB", (inner + 2 * _MARGIN, sum(row_heights) + (len(rows) - 1) * _GAP + 2 * _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _MARGIN
    for row, (height, width), lines, row_height in zip(rows, sizes, labels, row_heights, strict=True):
        y = top
        for line in lines:
            draw.text((_MARGIN, y), line, fill=_INK, font=label_font)
            y += label_line
        for place, (index, number) in enumerate(zip(row.indices, row.numbers, strict=True)):
            x = _MARGIN + place * (column + _GAP) + (column - width) // 2
            tile = Image.fromarray(np.ascontiguousarray(row.frames[index]))
            if tile.size != (width, height):
                tile = tile.resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(tile, (x, y))
            draw.text((x + width // 2, y + height + 4), str(number), fill=_FAINT_INK, font=index_font, anchor="ma")
        top += row_height + _GAP
    return np.asarray(sheet).copy()


def _tile_size(frames: NDArray[np.uint8], scale: float | None) -> tuple[int, int]:
    height, width = frames.shape[1:3]
    if scale is None:
        scale = 2.0 if width < _SMALL else min(1.0, _TILE_WIDTH / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _cut(label: str) -> str:
    """A label in one line that can be drawn and measured in no time, whatever it says."""
    # Twice as much as can stay: spaces and what is escaped change the length.
    text = printable(" ".join(label[: 2 * _MAX_LABEL].split()))
    is_whole = len(label) <= 2 * _MAX_LABEL and len(text) <= _MAX_LABEL
    return text if is_whole else f"{text[: _MAX_LABEL - 3]}..."


def _wrapped(label: str, font: FreeTypeFont | ImageFont, width: float) -> list[str]:
    """Break a label into lines of at most ``width`` pixels, at spaces where there are any."""
    lines: list[str] = []
    for word in label.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        while font.getlength(word) > width and len(word) > 1:
            lengths = range(2, len(word) + 1)
            fits = 1 + bisect_right(lengths, width, key=lambda length: font.getlength(word[:length]))
            lines.append(word[:fits])
            word = word[fits:]
        lines.append(word)
    return lines
