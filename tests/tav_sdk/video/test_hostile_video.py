"""Video files that ask for more than anyone has: pixels, samples, shapes and rates; and paths that are no files."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tav_sdk.errors import InputError, NotAVideoError, TruncatedVideoError, VideoError
from tav_sdk.video import file as file_module
from tav_sdk.video import limits
from tav_sdk.video.clip import Video, probe, read_video
from tav_sdk.video.file import VideoFile, open_clip
from tav_sdk.video.mp4_index import check_mp4_index
from tav_sdk.video.writer import VideoWriter

READERS = [probe, read_video, open_clip, VideoFile]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def mp4(tmp_path: Path) -> Path:
    """8 frames, 32x48 pixels."""
    frames = np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3), dtype=np.uint8)
    return Video(frames=frames, fps=8).save(tmp_path / "clip.mp4")


def _gif(path: Path, height: int, width: int) -> Path:
    """A GIF of a few bytes whose frame has this size and begins black."""
    size = struct.pack("<HH", width, height)
    picture = b"\x2c" + struct.pack("<HH", 0, 0) + size + b"\x00\x02\x02\x4c\x01\x00"
    path.write_bytes(b"GIF89a" + size + b"\x80\x00\x00\x00\x00\x00\xff\xff\xff" + picture + b"\x3b")
    return path


def _patched(path: Path, box: bytes, offset: int, values: bytes) -> Path:
    """The file with other bytes, ``offset`` bytes behind the name of a box."""
    data = bytearray(path.read_bytes())
    at = data.index(box) + 4 + offset
    data[at : at + len(values)] = values
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("reader", READERS)
def test_a_gif_of_16000_by_16000_pixels_is_refused_before_a_frame_is_made(tmp_path: Path, reader) -> None:
    path = _gif(tmp_path / "bomb.gif", 16000, 16000)
    code = (
        "import resource, sys\n"
        f"from tav_sdk.video.clip import probe, read_video\nfrom tav_sdk.video.file import VideoFile, open_clip\n"
        "from tav_sdk.errors import VideoError\nimport av\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\nbefore = peak()\n"
        f"try:\n    {reader.__name__}({str(path)!r})\n"
        "except VideoError as error:\n    print(peak() - before, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    grown, _, message = done.stdout.partition(" ")
    assert "has frames of 16000x16000 pixels (height x width), more than the 35651584 pixels" in message
    assert int(grown) < 100


def test_a_png_of_16000_by_16000_pixels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 16000, 16000) + bytes(9))
    with pytest.raises(VideoError, match="has frames of 16000x16000 pixels"):
        read_video(path)


def test_a_small_gif_is_read(tmp_path: Path) -> None:
    assert read_video(_gif(tmp_path / "a.gif", 4, 4), num_frames=1).frames.shape == (1, 4, 4, 3)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("box", "offset", "values"),
    [(b"stsz", 4, struct.pack(">II", 1, 80_000_000)), (b"stts", 8, b"\x7f\xff\xff\xff")],
    ids=["sizes", "times"],
)
def test_an_index_of_more_samples_than_bytes_is_refused(mp4: Path, reader, box, offset, values) -> None:
    with pytest.raises(TruncatedVideoError, match=r"its index names [0-9]+ samples, the file has [0-9]+ bytes"):
        reader(_patched(mp4, box, offset, values))


def test_a_compressed_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mov"
    path.write_bytes(struct.pack(">I4sI4sI4s", 24, b"moov", 16, b"cmov", 0, b"zlib"))
    with pytest.raises(NotAVideoError, match="has a compressed index"):
        read_video(path)


@pytest.mark.parametrize("tail", [b"", b"\x00", b"\x00\x00\x00\x01moov\x00", b"\x00\x00\x00\x04moov" * 3])
def test_boxes_that_break_off_are_left_to_the_decoder(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"\x00\x00\x00\x08ftyp" + tail)
    check_mp4_index(path)


@pytest.mark.parametrize("reader", READERS)
def test_pixels_100_times_as_wide_as_high_are_refused(tmp_path: Path, reader) -> None:
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        target.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 48, 3), np.uint8), format="rgb24")))
        target.mux(stream.encode())
    with pytest.raises(VideoError, match=r"its pixels are 100 times as wide as high, expected 0\.0625 to 16"):
        reader(_patched(path, b"pasp", 0, struct.pack(">II", 100, 1)))


@pytest.mark.parametrize("reader", READERS)
def test_a_rate_out_of_range_is_the_files_fault(mp4: Path, reader) -> None:
    with pytest.raises(VideoError, match=r"gives .* frames per second, expected 0\.01 to 1000"):
        reader(_patched(mp4, b"mdhd", 12, struct.pack(">I", 2**31 - 1)))


def test_a_clip_that_would_not_fit_in_memory_is_refused(mp4: Path, monkeypatch) -> None:
    with pytest.raises(VideoError, match=r"clip\.mp4: 8 frames of 100000x100000 pixels .* are more than the 4 GiB"):
        read_video(mp4, num_frames=8, size=(100_000, 100_000))
    monkeypatch.setattr(limits, "MAX_HELD_BYTES", 3 * 32 * 48 * 3)
    with pytest.raises(VideoError, match="4 frames of 32x48 pixels"):
        read_video(mp4)


def test_a_pass_over_too_many_pixels_ends(mp4: Path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "MAX_READ_PIXELS", 4 * 32 * 48)
    with pytest.raises(VideoError, match="pixels over all its frames"):
        VideoFile(mp4)


def test_few_large_frames_stay_on_disk(mp4: Path, monkeypatch) -> None:
    assert isinstance(open_clip(mp4), Video)
    monkeypatch.setattr(file_module, "IN_MEMORY_BYTES", 3 * 32 * 48 * 3)
    clip = open_clip(mp4)
    assert isinstance(clip, VideoFile)
    assert clip.content_hash == read_video(mp4).content_hash


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_a_device_and_a_loop_of_links_are_no_videos(tmp_path: Path, reader) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path / "loop", tmp_path / ("x" * 300), "zero\0byte"):
        with pytest.raises(VideoError):
            reader(path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("path", [None, 1.5, ["a.mp4"]])
def test_a_path_is_a_text_or_a_path(reader, path) -> None:
    with pytest.raises(InputError, match="path must be a path, got"):
        reader(path)


def test_equal_frames_give_equal_files(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    files = {Video(frames=frames, fps=8).save(tmp_path / "a.mp4").read_bytes() for _ in range(20)}
    with VideoWriter(tmp_path / "b.mp4", fps=8) as writer:
        writer.write(frames)
    assert files == {(tmp_path / "b.mp4").read_bytes()}
    assert b" mbtree=0 " in files.pop()


def test_frames_are_not_scaled_beyond_what_is_held(clip_path):
    with pytest.raises(VideoError, match=r"1 frames of 1000000000x1000000000 pixels .* are more than the 4 GiB"):
        read_video(clip_path, num_frames=None, size=(10**9, 10**9))
