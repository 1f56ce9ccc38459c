"""Frames into video files: mp4 through PyAV (FFmpeg), GIF, WebP and PNG through Pillow. Both are imported at use."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tav_sdk.video_reader import scaling

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

_HD_HEIGHT = 720  # from here on players take BT.709 for granted, below it BT.601


def _write_mp4(frames: NDArray[np.uint8], fps: float, path: Path) -> None:
    from av.error import FFmpegError

    try:
        _encode_mp4(frames, fps, path)
    except FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error


def _encode_mp4(frames: NDArray[np.uint8], fps: float, path: Path) -> None:
    import av
    from av.video.reformatter import Colorspace

    height, width = frames.shape[1:3]
    matrix = Colorspace.ITU709 if height >= _HD_HEIGHT else Colorspace.ITU601
    # x264's output depends on the number of threads, so that it is fixed.
    options = {"crf": "16", "preset": "medium", "threads": "4"}
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        rate = Fraction(fps).limit_denominator(10_000)
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range = matrix, 1  # limited
        context.color_primaries = context.color_trc = 1  # BT.709
        for frame in frames:
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            picture = av.VideoFrame.from_ndarray(even, format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace=matrix, interpolation=scaling())
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


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

    from tav_sdk.contact_sheet import frame_sheet

    Image.fromarray(frame_sheet(frames)).save(path, "PNG")


WRITERS: dict[str, Callable[[NDArray[np.uint8], float, Path], None]] = {
    ".mp4": _write_mp4,
    ".gif": _write_gif,
    ".webp": _write_webp,
    ".png": _write_png,
}
"""By suffix: ``write(frames, fps, path)`` with ``(f, h, w, 3)`` uint8 RGB. They raise OSError."""
