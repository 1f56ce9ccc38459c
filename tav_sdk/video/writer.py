"""Frames into video files: ``VideoWriter`` for frames as they come, ``WRITERS`` for whole clips.

mp4 goes through PyAV (FFmpeg), GIF, WebP and PNG go through Pillow. Both are imported at use.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from tav_sdk.errors import InputError
from tav_sdk.files import new_file
from tav_sdk.output_paths import check_new_file, unwritable
from tav_sdk.video.frames import check_frames
from tav_sdk.video.limits import MAX_FPS, MIN_FPS
from tav_sdk.video.reader import scaling
from tav_sdk.words import brief

if TYPE_CHECKING:
    from av.container import OutputContainer
    from numpy.typing import NDArray
    from PIL import Image

_HD_HEIGHT = 720  # from here on players take BT.709 for granted, below it BT.601

X264_OPTIONS = {"crf": "18", "preset": "medium", "threads": "4", "x264-params": "mbtree=0"}
"""libx264's options, chosen with ``benchmarks/encoder.py``: equal frames give equal files.

The number of threads decides how a picture is cut into slices, so that it is fixed. x264's macroblock tree gave another
file now and then on processors with AVX-512. Without it, crf 18 keeps the pictures as good as crf 16 with it.
"""


class VideoWriter:
    """An mp4 file that is written as its frames come, so that they need not be held; encoded as ``Video.save`` does.

        with VideoWriter("out.mp4", fps=24) as writer:
            for frames in clip.chunks(8):
                writer.write(frames)

    The file appears under its name only when the block ends without an error; until then one of that name stays. Its
    folder has to be there, and to stay there.

    Args:
        path: a name that ends in ``.mp4``; an existing file is replaced.
        fps: frames per second, 0.01 to 1000.
        growing: write under the name from the first frame on, as fragments of about a second that players can show
            while the file grows. What was written stays if the block ends with an error, and can be played.

    Attributes:
        num_frames: frames written so far.

    Raises:
        InputError: another suffix, ``fps`` out of range, or, at the end of the block, no frames.
        OutputError: the file cannot be written (permission, disk full, no such folder, a folder of that name).
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, *, growing: bool = False) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise InputError(
                f"{self.path}: expected a name that ends in .mp4, got {shown_suffix(self.path)}. "
                "GIF and WebP need all frames at once: use Video.save."
            )
        self.fps = check_fps(fps)
        self.growing = growing
        self.num_frames = 0
        self._size: tuple[int, ...] | None = None
        self._mp4: _Mp4 | None = None

    def write(self, frames: NDArray[np.uint8]) -> None:
        """Add frames to the end.

        Args:
            frames: ``(f, h, w, 3)`` uint8 RGB, ``f`` at least 0, all of one height and width.

        Raises:
            InputError: a shape, dtype or size other than these, or a call outside of the ``with`` block.
            OutputError: the file cannot be written.
        """
        if self._mp4 is None:
            raise InputError(f"{self.path}: expected write() inside of the VideoWriter's with block.")
        if np.ndim(frames) == 4 and len(frames) == 0:
            return
        size = check_frames(frames).shape[1:3]
        if self._size not in (None, size):
            raise InputError(
                f"frames: expected {_by(self._size)} pixels (height x width) as those before, got {_by(size)}. "
                "All frames of a file have one size."
            )
        with _output_errors(self.path):
            self._mp4.add(frames)
        self._size = size
        self.num_frames += len(frames)

    def __enter__(self) -> VideoWriter:
        self.num_frames, self._size = 0, None
        self._block = self._open()
        self._mp4 = self._block.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mp4 = None
        if isinstance(error, OSError):  # the block's own: new_file would take it for one of writing this file
            kind, error = GeneratorExit, GeneratorExit()
        self._block.__exit__(kind, error, trace)

    @contextmanager
    def _open(self) -> Iterator[_Mp4]:
        place = _in_place(self.path) if self.growing else new_file(self.path, parents=False)
        with place as path, _Mp4(path, self.fps, growing=self.growing) as mp4:
            yield mp4
            if not self.num_frames:
                raise InputError(f"{self.path}: expected at least one frame before the block ends, got none.")


@contextmanager
def _in_place(path: Path) -> Iterator[Path]:
    """As ``new_file``, but under its name from the start, and it stays."""
    check_new_file(path, overwrite=True)
    with _output_errors(path):
        yield path


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def check_fps(fps: Any) -> float:
    """``fps`` as a float; InputError if it is no number from 0.01 to 1000."""
    try:
        value = float(fps)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not MIN_FPS <= value <= MAX_FPS:
        raise InputError(f"must be from {MIN_FPS:g} to {MAX_FPS:g} frames per second, got {brief(fps)}", field="fps")
    return value


def shown_suffix(path: Path) -> str:
    """A name's suffix as error messages show it."""
    return f"'{path.suffix}'" if path.suffix else "a name without one"


def _by(size: tuple[int, ...] | None) -> str:
    return "x".join(map(str, size or ()))


# --- mp4 ----------------------------------------------------------------------------------------------------------


class _Mp4:
    """H.264 into an mp4 file, which is made at the first frame and takes its size. Raises OSError."""

    def __init__(self, path: Path, fps: float, *, growing: bool = False) -> None:
        self._path, self._fps, self._growing = path, fps, growing
        self._container: OutputContainer | None = None

    def __enter__(self) -> _Mp4:
        return self

    def add(self, frames: NDArray[np.uint8]) -> None:
        """Encode frames ``(f, h, w, 3)`` uint8 RGB."""
        import av

        with _system_errors():
            container = self._container or self._open(*frames.shape[1:3])
            for frame in frames:
                height, width = frame.shape[:2]
                even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                picture = av.VideoFrame.from_ndarray(even, format="rgb24")
                picture = picture.reformat(format="yuv420p", dst_colorspace=self._matrix, interpolation=scaling())
                container.mux(self._stream.encode(picture))

    def _open(self, height: int, width: int) -> OutputContainer:
        import av
        from av.video.reformatter import Colorspace

        self._matrix = Colorspace.ITU709 if height >= _HD_HEIGHT else Colorspace.ITU601
        options = dict(X264_OPTIONS)
        layout = {"movflags": "+faststart"}
        if self._growing:
            # A fragment ends at a key frame, and players see it once it is flushed. Without skip_trailer the index at
            # the end, which few players read, hides from FFmpeg that the last fragment could not be written.
            options["g"] = str(max(1, round(self._fps)))
            layout = {"movflags": "+frag_keyframe+empty_moov+default_base_moof+skip_trailer", "flush_packets": "1"}
        container = av.open(str(self._path.absolute()), "w", format="mp4", options=layout)
        rate = Fraction(self._fps).limit_denominator(10_000)
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range = self._matrix, 1  # limited
        context.color_primaries = context.color_trc = 1  # BT.709
        self._container, self._stream = container, stream
        return container

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._container is None:
            return
        # After an error that one is told, not what closing the file says.
        with suppress(OSError) if error else nullcontext(), _system_errors(), self._container as container:
            if error is None or self._growing:
                container.mux(self._stream.encode())


@contextmanager
def _system_errors() -> Iterator[None]:
    """FFmpeg's errors as plain OSError."""
    from av.error import FFmpegError

    try:
        yield
    except FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error


def _write_mp4(frames: NDArray[np.uint8], fps: float, path: Path) -> None:
    with _Mp4(path, fps) as mp4:
        mp4.add(frames)


# --- whole clips --------------------------------------------------------------------------------------------------


def _images(frames: NDArray[np.uint8]) -> list[Image.Image]:
    from PIL import Image

    return [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]


def _delays(num_frames: int, fps: float, units_per_second: int, shortest: int) -> list[int]:
    """Delay of each frame in whole units, rounded so that the errors do not add up."""
    ends = [round(i * units_per_second / fps) for i in range(num_frames + 1)]
    return [max(after - before, shortest) for before, after in pairwise(ends)]


def _write_gif(frames: NDArray[np.uint8], fps: float, path: Path) -> None:
    from PIL import Image

    images = _images(frames)
    some = images[:: -(-len(images) // 32)]  # at most 32 small pictures stand for the clip's colours
    for_palette = Image.fromarray(np.concatenate([np.asarray(image.resize((96, 96))) for image in some]))
    palette = for_palette.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=1)
    first, *rest = [image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for image in images]
    delays = [10 * delay for delay in _delays(len(frames), fps, 100, shortest=2)]
    first.save(path, "GIF", save_all=True, append_images=rest, duration=delays, loop=0)


def _write_webp(frames: NDArray[np.uint8], fps: float, path: Path) -> None:
    first, *rest = _images(frames)
    delays = _delays(len(frames), fps, 1000, shortest=1)
    first.save(path, "WEBP", save_all=True, append_images=rest, duration=delays, loop=0, quality=90, method=4)


def _write_png(frames: NDArray[np.uint8], fps: float, path: Path) -> None:
    from PIL import Image

    from tav_sdk.video.contact_sheet import frame_sheet

    Image.fromarray(frame_sheet(frames)).save(path, "PNG")


WRITERS: dict[str, Callable[[NDArray[np.uint8], float, Path], None]] = {
    ".mp4": _write_mp4,
    ".gif": _write_gif,
    ".webp": _write_webp,
    ".png": _write_png,
}
"""By suffix: ``write(frames, fps, path)`` with ``(f, h, w, 3)`` uint8 RGB. They raise OSError."""
