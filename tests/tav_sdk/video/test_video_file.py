"""Long clips: ``VideoFile`` against ``read_video``, ``VideoWriter`` against ``Video.save``. All files are made here."""

from __future__ import annotations

import gc
import os
import resource
import shutil
import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tav_sdk.errors import InputError, OutputError, TavError, VideoError, VideoNotFoundError
from tav_sdk.video.clip import Clip, Video, read_video
from tav_sdk.video.file import VideoFile
from tav_sdk.video.writer import VideoWriter


def _noise(num_frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def _clip(num_frames: int = 12, height: int = 48, width: int = 64, fps: float = 30000 / 1001) -> Video:
    """Frame i is grey 10 * i."""
    greys = (np.arange(num_frames) * 10 % 250).astype(np.uint8)[:, None, None, None]
    return Video(frames=greys + np.zeros((num_frames, height, width, 3), np.uint8), fps=fps)


def _uneven(path: Path) -> Path:
    """A file of variable rate."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for frame, time in zip(_clip(6).frames, [0, 100, 200, 1000, 1100, 1200], strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = time, Fraction(1, 1000)
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return path


def _write(writer: VideoWriter, *chunks: Any, error: BaseException | None = None) -> None:
    """Write chunks in a ``with`` block, which ends with ``error`` if there is one."""
    with writer:
        for frames in chunks:
            writer.write(frames)
        if error is not None:
            raise error


def _same(file: VideoFile, video: Video) -> None:
    assert np.array_equal(np.concatenate(list(file.chunks(5))), video.frames)
    assert (file.num_frames, file.height, file.width) == (video.num_frames, video.height, video.width)
    assert file.fps == video.fps
    assert file.content_hash == video.content_hash


# --- VideoFile ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_frames": 7},
        {"start": 4},
        {"stride": 5},
        {"num_frames": 3, "start": 2, "stride": 3},
        {"size": (32, 24)},
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_has_the_frames_of_read_video(tmp_path: Path, options: dict[str, Any], suffix: str) -> None:
    path = _clip().save(tmp_path / f"a{suffix}")
    _same(VideoFile(path, **options), read_video(path, **options))


@pytest.mark.parametrize("options", [{}, {"num_frames": 3}, {"start": 1, "stride": 2}])
def test_has_the_rate_of_read_video_where_it_varies(tmp_path: Path, options: dict[str, Any]) -> None:
    path = _uneven(tmp_path / "a.mp4")
    _same(VideoFile(path, **options), read_video(path, **options))


def test_says_its_sizes(tmp_path: Path) -> None:
    path = _clip().save(tmp_path / "a.mp4")
    assert repr(VideoFile(str(path))) == f"VideoFile(path='{path}', num_frames=12, height=48, width=64, fps=29.97)"


@pytest.mark.parametrize(("length", "lengths"), [(1, [1] * 12), (5, [5, 5, 2]), (6, [6, 6]), (20, [12])])
def test_chunks_are_of_one_length_and_the_last_may_be_shorter(tmp_path: Path, length: int, lengths: list[int]) -> None:
    path = _clip().save(tmp_path / "a.mp4")
    clips: list[Clip] = [VideoFile(path), read_video(path)]
    in_file, in_memory = ([*clip.chunks(length)] for clip in clips)
    assert [len(chunk) for chunk in in_file] == [len(chunk) for chunk in in_memory] == lengths
    assert all(np.array_equal(a, b) for a, b in zip(in_file, in_memory, strict=True))


def test_chunks_can_be_read_again_and_at_once(tmp_path: Path) -> None:
    file = VideoFile(_clip().save(tmp_path / "a.mp4"))
    for a, b in zip(file.chunks(4), file.chunks(4), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("length", [0, 2.0])
def test_chunks_refuses_a_length_at_the_call(tmp_path: Path, length: int) -> None:
    path = _clip().save(tmp_path / "a.mp4")
    clips: list[Clip] = [VideoFile(path), read_video(path)]
    for clip in clips:
        with pytest.raises(InputError) as error:
            clip.chunks(length)
        assert str(error.value) == f"length: expected a whole number of at least 1, got {length}."


def test_only_a_few_chunks_are_in_memory(tmp_path: Path) -> None:
    path = _clip(300, 64, 64).save(tmp_path / "a.mp4")
    VideoFile(path, num_frames=1)  # imports
    tracemalloc.start()
    file = VideoFile(path, size=(60, 60))
    for _ in file.chunks(8):
        pass
    assert len(file.content_hash) == 64
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * 64 * 64 * 3


def test_decoded_frames_need_no_garbage_collector(tmp_path: Path) -> None:
    """They are outside of what tracemalloc sees."""
    file = VideoFile(_clip(60).save(tmp_path / "a.mp4"))
    gc.collect()
    gc.disable()
    try:
        for _ in file.chunks(8):
            pass
        held = sum(type(thing) is av.VideoFrame for thing in gc.get_objects())
    finally:
        gc.enable()
    assert held <= 2


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(VideoNotFoundError, match=r"no\.mp4: there is no such file\. Check the path to the video\."):
        VideoFile(tmp_path / "no.mp4")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_frames": 8, "stride": 2}, "has 12 frames; 8 frames from start 0 at stride 2 need 15. Use at most 6"),
        ({"start": 12}, "has 12 frames; start 12 lies behind the last. Use a start below 12."),
        ({"num_frames": 0}, "num_frames: expected a whole number of at least 1, got 0."),
        ({"start": -1}, "start: expected a whole number of at least 0, got -1."),
        ({"stride": 0}, "stride: expected a whole number of at least 1, got 0."),
        ({"size": 512}, "size: expected (height, width) in pixels, got 512."),
    ],
)
def test_refuses_what_read_video_refuses(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    path = _clip().save(tmp_path / "a.mp4")
    with pytest.raises(TavError) as expected:
        read_video(path, **options)
    with pytest.raises(type(expected.value)) as error:
        VideoFile(path, **options)
    assert text in str(error.value)
    assert str(error.value) == str(expected.value)


@pytest.mark.parametrize(
    ("options", "change", "got"),
    [
        ({}, _clip(9), "9 frames"),
        ({"num_frames": 12}, _clip(9), "9 frames"),
        ({"start": 0}, _clip(14), "more than 12 frames"),
        ({}, _clip(12, 32, 64), "frames of 32x64"),
    ],
)
def test_a_file_that_changes_is_noticed(tmp_path: Path, options: dict[str, Any], change: Video, got: str) -> None:
    path = _clip().save(tmp_path / "a.mp4")
    file = VideoFile(path, **options)
    change.save(path)
    with pytest.raises(VideoError) as error:
        list(file.chunks(5))
    assert str(error.value) == (
        f"{path} has changed since it was opened: expected 12 frames of 48x64 pixels (height x width), got {got}. "
        "Open it again."
    )


# --- VideoWriter --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(48, 64), (33, 47)])
def test_writes_the_file_that_save_writes(tmp_path: Path, size: tuple[int, int]) -> None:
    clip = Video(frames=_noise(12, *size), fps=30000 / 1001)
    (tmp_path / "new").mkdir()
    with VideoWriter(tmp_path / "new" / "a.mp4", clip.fps) as writer:
        for frames in (clip.frames[:5], clip.frames[:0], clip.frames[5:6], clip.frames[6:]):
            writer.write(frames)
        assert not writer.path.exists()
    assert writer.num_frames == 12
    assert writer.path.read_bytes() == clip.save(tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize("error", [RuntimeError("stop"), TimeoutError("stop"), KeyboardInterrupt("stop")])
def test_an_error_of_the_block_passes(tmp_path: Path, growing: bool, error: BaseException) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", 8, growing=growing)
    with pytest.raises(type(error), match=r"^stop$") as raised:
        _write(writer, _noise(12), error=error)
    assert raised.value is error
    assert os.listdir(tmp_path) == (["a.mp4"] if growing else [])


@pytest.mark.parametrize("growing", [False, True])
def test_no_folder_is_made(tmp_path: Path, growing: bool) -> None:
    with pytest.raises(OutputError, match=r"a.mp4 cannot be written: No such file or directory"):
        _write(VideoWriter(tmp_path / "new" / "a.mp4", 8, growing=growing), _noise(2))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_removed_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()

    def chunks() -> Iterator[np.ndarray]:
        yield _noise(2)
        shutil.rmtree(tmp_path / "new")
        yield _noise(2)

    with pytest.raises(OutputError, match=r"a.mp4 cannot be written: No such file or directory"):
        _write(VideoWriter(tmp_path / "new" / "a.mp4", 8), *chunks())
    assert os.listdir(tmp_path) == []


def test_an_error_of_the_block_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"before")
    with pytest.raises(RuntimeError, match="stop"):
        _write(VideoWriter(tmp_path / "a.mp4", 8), _noise(12), error=RuntimeError("stop"))
    assert os.listdir(tmp_path) == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"before"


def test_a_growing_file_has_the_frames_of_a_whole_one(tmp_path: Path) -> None:
    clip = _clip(70)
    with VideoWriter(tmp_path / "a.mp4", clip.fps, growing=True) as writer:
        for frames in clip.chunks(16):
            writer.write(frames)
    back = read_video(tmp_path / "a.mp4")
    assert back.frames.shape == clip.frames.shape
    assert np.abs(back.frames.astype(int) - clip.frames).max() <= 3
    assert back.fps == clip.fps


def test_a_growing_file_can_be_read_while_it_grows(tmp_path: Path) -> None:
    clip = _clip(60, fps=8)
    with VideoWriter(tmp_path / "a.mp4", 8, growing=True) as writer:
        writer.write(clip.frames)
        seen = read_video(tmp_path / "a.mp4", num_frames=24)
    assert np.abs(seen.frames.astype(int) - clip.frames[:24]).max() <= 3


def test_a_growing_file_keeps_its_frames_after_an_error(tmp_path: Path) -> None:
    clip = _clip(20, fps=8)
    with pytest.raises(RuntimeError, match="stop"):
        _write(VideoWriter(tmp_path / "a.mp4", 8, growing=True), *clip.chunks(8), error=RuntimeError("stop"))
    back = read_video(tmp_path / "a.mp4")
    assert back.num_frames == 20
    assert np.abs(back.frames.astype(int) - clip.frames).max() <= 3


@pytest.mark.parametrize(("name", "got"), [("a.gif", "'.gif'"), ("a.webp", "'.webp'"), ("a", "a name without one")])
def test_writer_refuses_other_suffixes(tmp_path: Path, name: str, got: str) -> None:
    with pytest.raises(InputError) as error:
        VideoWriter(tmp_path / name, 8)
    assert str(error.value) == (
        f"{tmp_path / name}: expected a name that ends in .mp4, got {got}. "
        "GIF and WebP need all frames at once: use Video.save."
    )


def test_writer_refuses_a_rate(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fps must be from 0\.01 to 1000 frames per second, got 0"):
        VideoWriter(tmp_path / "a.mp4", 0)


def test_writer_refuses_frames_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        _write(VideoWriter(tmp_path / "a.mp4", 8), _noise(2), _noise(2, 32, 64))
    assert str(error.value) == (
        "frames: expected 48x64 pixels (height x width) as those before, got 32x64. All frames of a file have one size."
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), "frames: expected dtype uint8 (RGB, 0 to 255), got float32"),
        (np.zeros((4, 4, 3), np.uint8), "frames: expected shape (f, h, w, 3), got (4, 4, 3)"),
        ([], "frames: expected a numpy array (f, h, w, 3) of uint8, got list."),
    ],
)
def test_writer_refuses_what_are_no_frames(tmp_path: Path, frames: Any, text: str) -> None:
    with pytest.raises(InputError) as error:
        _write(VideoWriter(tmp_path / "a.mp4", 8), frames)
    assert text in str(error.value)


@pytest.mark.parametrize("growing", [False, True])
def test_writer_refuses_to_end_without_frames(tmp_path: Path, growing: bool) -> None:
    path = tmp_path / "a.mp4"
    with pytest.raises(InputError) as error:
        _write(VideoWriter(path, 8, growing=growing), _noise(0))
    assert str(error.value) == f"{path}: expected at least one frame before the block ends, got none."
    assert os.listdir(tmp_path) == []


def test_writer_refuses_frames_outside_of_its_block(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", 8)
    with pytest.raises(InputError, match=r"expected write\(\) inside of the VideoWriter's with block"):
        writer.write(_noise(1))


@pytest.mark.parametrize("growing", [False, True])
def test_writer_refuses_a_folder_of_that_name(tmp_path: Path, growing: bool) -> None:
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(OutputError, match="is a folder; expected the name of a file to write"):
        _write(VideoWriter(tmp_path / "a.mp4", 8, growing=growing), _noise(1))


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize("num_frames", [4, 60])  # the disk is full at the end of the block, and inside of it
def test_writer_says_that_the_disk_is_full(tmp_path: Path, growing: bool, num_frames: int) -> None:
    path = tmp_path / "a.mp4"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limit[1]))  # writing more fails, as on a full disk
    try:
        with pytest.raises(OutputError) as error:
            _write(VideoWriter(path, 8, growing=growing), _noise(num_frames, 128, 128))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert f"{path} cannot be written: " in str(error.value)
    assert "Check the folder, its permissions and free space." in str(error.value)
    assert os.listdir(tmp_path) == (["a.mp4"] if growing else [])
