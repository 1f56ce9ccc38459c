"""Video files in and out. All files are made here."""

from __future__ import annotations

import dataclasses
import os
import resource
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tav_sdk.errors import (
    InputError,
    NotAVideoError,
    NotEnoughFramesError,
    OutputError,
    TruncatedVideoError,
    VideoNotFoundError,
)
from tav_sdk.video import clip as video_module
from tav_sdk.video.clip import Video, VideoInfo, probe, read_video
from tav_sdk.video.writer import WRITERS


def _marked(num_frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frame i is grey 10 * i, with its top left quarter red."""
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    frames += (np.arange(num_frames) * 10 % 250).astype(np.uint8)[:, None, None, None]
    frames[:, : height // 2, : width // 2] = (255, 0, 0)
    return frames


def _noise(num_frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def _greys(video: Video) -> list[int]:
    """The i of each frame of ``_marked``."""
    return [round(float(frame[-4:, -4:].mean()) / 10) for frame in video.frames]


def _write(
    path: Path,
    frames: np.ndarray,
    rate: Fraction = Fraction(10),
    times: list[int] | None = None,
    setup: Callable[[av.VideoStream], None] = lambda stream: None,
    front: bool = True,
) -> Path:
    """Encode with PyAV alone. ``times``: presentation times in 1/1000 s."""
    with av.open(str(path), "w", options={"movflags": "+faststart"} if front and path.suffix == ".mp4" else {}) as file:
        stream = file.add_stream("libx264", rate=rate, options={"crf": "10", "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        setup(stream)
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = times[i], Fraction(1, 1000)
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return path


def _cut(path: Path, fraction: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


# --- Video --------------------------------------------------------------------------------------------------------


def test_video_says_its_sizes() -> None:
    clip = Video(frames=_marked(5), fps=Fraction(30000, 1001))  # type: ignore[arg-type]
    assert (clip.num_frames, clip.height, clip.width) == (5, 48, 64)
    assert clip.fps == 30000 / 1001
    assert repr(clip) == "Video(num_frames=5, height=48, width=64, fps=29.97)"


def test_video_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Video(frames=_marked(1), fps=8).fps = 9  # type: ignore[misc]


@pytest.mark.parametrize(
    ("frames", "fps", "text"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), 8, "frames: expected dtype uint8 (RGB, 0 to 255), got float32"),
        (np.zeros((2, 4, 4), np.uint8), 8, "frames: expected shape (f, h, w, 3), got (2, 4, 4)"),
        (np.zeros((2, 4, 4, 3), np.uint8), 0, "fps must be from 0.01 to 1000 frames per second, got 0"),
        (np.zeros((2, 4, 4, 3), np.uint8), float("nan"), "fps must be from 0.01 to 1000 frames per second, got nan"),
        (np.zeros((2, 4, 4, 3), np.uint8), "fast", "fps must be from 0.01 to 1000 frames per second, got 'fast'"),
    ],
)
def test_video_refuses(frames: np.ndarray, fps: float, text: str) -> None:
    with pytest.raises(InputError) as error:
        Video(frames=frames, fps=fps)
    assert text in str(error.value)


def test_content_hash_depends_on_frames_and_shape_alone() -> None:
    frames = _noise(4)
    clip = Video(frames=frames, fps=8)
    assert len(clip.content_hash) == 64
    assert clip.content_hash == Video(frames=np.asfortranarray(frames), fps=24).content_hash
    assert clip.content_hash != Video(frames=frames.reshape(4, 64, 48, 3), fps=8).content_hash
    frames[3, 47, 63, 2] ^= 1
    assert clip.content_hash != Video(frames=_noise(4), fps=8).content_hash


# --- reading ------------------------------------------------------------------------------------------------------


def test_reads_all_frames_by_default(tmp_path: Path) -> None:
    clip = read_video(_write(tmp_path / "a.mp4", _marked(12), Fraction(30000, 1001)))
    assert _greys(clip) == list(range(12))
    assert clip.fps == 30000 / 1001
    assert np.abs(clip.frames[3, 5, 5].astype(int) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize(
    ("num_frames", "start", "stride", "expected"),
    [(3, 0, 1, [0, 1, 2]), (4, 2, 3, [2, 5, 8, 11]), (None, 1, 4, [1, 5, 9]), (1, 11, 7, [11])],
)
def test_samples_by_count_start_and_stride(
    tmp_path: Path, num_frames: int | None, start: int, stride: int, expected: list[int]
) -> None:
    path = _write(tmp_path / "a.mp4", _marked(12), Fraction(24))
    clip = read_video(path, num_frames=num_frames, start=start, stride=stride)
    assert _greys(clip) == expected
    assert clip.fps == 24 / stride


def test_constant_rate_survives_a_container_that_rounds_times(tmp_path: Path) -> None:
    clip = read_video(_write(tmp_path / "a.mkv", _marked(12), Fraction(30000, 1001)), stride=2)
    assert clip.fps == 15000 / 1001


def test_rate_of_a_gif_whose_delays_are_rounded(tmp_path: Path) -> None:
    path = Video(frames=_marked(7), fps=30).save(tmp_path / "a.gif")  # delays of 3, 4, 3, 3, 4, 3 and 3 / 100 s
    assert read_video(path).fps == pytest.approx(30)


def test_variable_rate_becomes_the_average_over_the_frames_kept(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.mp4", _marked(6), times=[0, 100, 200, 1000, 1100, 1200])
    assert read_video(path).fps == pytest.approx(5 / 1.2)
    assert read_video(path, num_frames=3).fps == pytest.approx(10)
    assert read_video(path, start=1, stride=2).fps == pytest.approx(2 / 1.1)


def test_size_covers_and_cuts_the_centre(tmp_path: Path) -> None:
    frames = np.zeros((2, 48, 96, 3), np.uint8)
    frames[:, :, 24:72] = (0, 255, 0)  # the centre square
    clip = read_video(_write(tmp_path / "a.mp4", frames), size=(24, 24))
    assert clip.frames.shape == (2, 24, 24, 3)
    assert np.abs(clip.frames[:, 2:-2, 2:-2].astype(int) - (0, 255, 0)).max() <= 8


def test_only_the_frames_kept_are_in_memory(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.mp4", _marked(120, 96, 128))
    read_video(path, num_frames=1)  # imports
    tracemalloc.start()
    read_video(path, num_frames=4, stride=30)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 96 * 128 * 3


@pytest.mark.parametrize(
    ("matrix", "rotation", "turn"),
    [
        ((0, 1, -1, 0), 90, lambda frames: np.rot90(frames, -1, axes=(1, 2))),  # what a phone held upright writes
        ((-1, 0, 0, -1), 180, lambda frames: np.rot90(frames, 2, axes=(1, 2))),
        ((0, -1, 1, 0), 270, lambda frames: np.rot90(frames, 1, axes=(1, 2))),
        ((1, 0, 0, -1), 0, lambda frames: frames[:, ::-1]),  # mirrored
    ],
)
def test_rotation_in_the_track_header_is_applied(
    tmp_path: Path, matrix: tuple[int, ...], rotation: int, turn: Callable[[np.ndarray], np.ndarray]
) -> None:
    """The matrix is patched into the file: 36 bytes, 40 after the name of the box."""
    path = _write(tmp_path / "a.mp4", _marked(2))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    assert data[at : at + 4] == b"\x00\x01\x00\x00"
    a, b, c, d = (number << 16 for number in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)

    expected = turn(_marked(2))
    clip = read_video(path)
    assert clip.frames.shape == expected.shape
    assert np.abs(clip.frames.astype(int) - expected).mean() < 6
    info = probe(path)
    assert (info.height, info.width, info.rotation) == (clip.height, clip.width, rotation)


def test_pixels_that_are_not_square_are_stretched(tmp_path: Path) -> None:
    def wide(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(2)

    path = _write(tmp_path / "a.mp4", _marked(2), setup=wide)
    assert read_video(path).frames.shape == (2, 48, 128, 3)
    assert (probe(path).height, probe(path).width) == (48, 128)
    assert read_video(path, size=(48, 48)).frames.shape == (2, 48, 48, 3)


def test_full_range_video_keeps_black_and_white(tmp_path: Path) -> None:
    def full(stream: av.VideoStream) -> None:
        stream.pix_fmt = "yuvj420p"

    frames = np.zeros((2, 32, 32, 3), np.uint8)
    frames[1] = 255
    clip = read_video(_write(tmp_path / "a.mp4", frames, setup=full))
    assert clip.frames[0].max() <= 2
    assert clip.frames[1].min() >= 253


def test_probe(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.mp4", _marked(12), Fraction(24))
    assert probe(path) == VideoInfo(
        width=64, height=48, fps=24.0, num_frames=12, duration=0.5, codec="h264", rotation=0
    )
    assert probe(_write(tmp_path / "a.mkv", _marked(12), Fraction(24))).num_frames is None


# --- bad files ----------------------------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "no.mp4", tmp_path / ("n" * 300 + ".mp4")):
        with pytest.raises(VideoNotFoundError, match="there is no such file"):
            read_video(path)


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(NotAVideoError, match="is a folder or a device, not a video file"):
        read_video(tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", "notes.mp4", "list.m3u8", "list.ffconcat"])
def test_text_and_playlists_are_no_videos(tmp_path: Path, name: str) -> None:
    _write(tmp_path / "a.mp4", _marked(2))
    head = {"list.m3u8": "#EXTM3U\n#EXTINF:1\na.mp4\n", "list.ffconcat": "ffconcat version 1.0\nfile a.mp4\n"}
    (tmp_path / name).write_text(head.get(name, "hello\n" * 100))
    with pytest.raises(NotAVideoError, match="is not a video that can be read"):
        read_video(tmp_path / name)


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(NotAVideoError, match=r"it is empty \(0 bytes\)"):
        probe(tmp_path / "a.mp4")


def test_a_file_with_sound_alone_names_its_streams(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=44100)
        for k in range(8):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 44100, 1024 * k
            file.mux(stream.encode(sound))
        file.mux(stream.encode())
    with pytest.raises(NotAVideoError, match=r"has no video stream; its streams: audio \(aac\)"):
        read_video(path)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"num_frames": 8, "stride": 2},
            "has 12 frames; 8 frames from start 0 at stride 2 need 15. Use at most 6 frames or a stride of at most 1.",
        ),
        (
            {"num_frames": 6, "start": 4, "stride": 2},
            "6 frames from start 4 at stride 2 need 15. Use at most 4 frames or a stride of at most 1 "
            "or a start of at most 1.",
        ),
        ({"num_frames": 20}, "20 frames from start 0 at stride 1 need 20. Use at most 12 frames."),
        ({"start": 12}, "has 12 frames; start 12 lies behind the last. Use a start below 12."),
        ({"num_frames": 1, "start": 30}, "has 12 frames; start 30 lies behind the last."),
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_too_few_frames_says_what_to_change(tmp_path: Path, options: dict, text: str, suffix: str) -> None:
    path = _write(tmp_path / f"a{suffix}", _marked(12))
    with pytest.raises(NotEnoughFramesError) as error:
        read_video(path, **options)
    assert text in str(error.value)


def test_an_mp4_cut_before_its_index(tmp_path: Path) -> None:
    path = _cut(_write(tmp_path / "a.mp4", _noise(12), front=False), 0.5)
    with pytest.raises(TruncatedVideoError, match=r"begins as an mp4, but its index \(moov\) is missing"):
        read_video(path, num_frames=2)


@pytest.mark.parametrize("fraction", [0.4, 0.7, 0.95])
def test_an_mp4_cut_in_its_data(tmp_path: Path, fraction: float) -> None:
    path = _cut(_write(tmp_path / "a.mp4", _noise(20)), fraction)
    cases: tuple[dict[str, Any], ...] = ({"num_frames": 2}, {"num_frames": 20}, {})
    for options in cases:
        with pytest.raises(TruncatedVideoError, match=r"is truncated: it has \d+ bytes, its index names frames up to"):
            read_video(path, **options)


def test_an_mp4_cut_between_two_frames(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.mp4", _noise(20))
    with av.open(str(path)) as file:
        end = file.streams.video[0].index_entries[10].pos
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(TruncatedVideoError, match=rf"it has {end} bytes, its index names frames up to byte \d+"):
        read_video(path)


def test_a_cut_file_of_a_container_without_frame_count(tmp_path: Path) -> None:
    path = _cut(_write(tmp_path / "a.mkv", _noise(40)), 0.5)
    with pytest.raises(TruncatedVideoError, match=r"data break off after \d+ frames"):
        read_video(path, num_frames=40)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_frames": 0}, "num_frames: expected a whole number of at least 1, got 0."),
        ({"num_frames": 2.5}, "num_frames: expected a whole number of at least 1, got 2.5."),
        ({"stride": 0}, "stride: expected a whole number of at least 1, got 0."),
        ({"start": -1}, "start: expected a whole number of at least 0, got -1."),
        ({"size": (64, 0)}, "size: width: expected a whole number of at least 1, got 0."),
        ({"size": 512}, "size: expected (height, width) in pixels, got 512."),
    ],
)
def test_bad_arguments(tmp_path: Path, options: dict, text: str) -> None:
    with pytest.raises(InputError) as error:
        read_video(_write(tmp_path / "a.mp4", _marked(2)), **options)
    assert text in str(error.value)


# --- writing ------------------------------------------------------------------------------------------------------


def _smooth(num_frames: int = 6, height: int = 48, width: int = 64) -> Video:
    """A colour gradient that moves."""
    x = np.linspace(0, 255, width)[None, None, :]
    y = np.linspace(0, 255, height)[None, :, None]
    t = np.arange(num_frames)[:, None, None] * 20
    channels = np.broadcast_arrays(np.abs(x - t), y + 0 * t, 255 - x + 0 * t)
    return Video(
        frames=np.stack([c + np.zeros((num_frames, height, width)) for c in channels], -1).astype(np.uint8), fps=8
    )


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize("height", [48, 720])
def test_mp4_round_trip_keeps_colours_and_rate(tmp_path: Path, height: int) -> None:
    clip = _smooth(height=height)
    path = clip.save(tmp_path / "new" / "folder" / "a.mp4", fps=30000 / 1001)
    back = read_video(path)
    assert back.frames.shape == clip.frames.shape
    assert back.fps == 30000 / 1001
    assert _psnr(back.frames, clip.frames) > 36


def test_mp4_is_what_players_take(tmp_path: Path) -> None:
    data = _smooth().save(tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "a.mp4")) as file:
        context = file.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_range) == (5, 1)


def test_mp4_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = (_smooth().save(tmp_path / name).read_bytes() for name in ("a.mp4", "b.mp4"))
    assert first == second


def test_odd_sizes_grow_by_one_repeated_line(tmp_path: Path) -> None:
    clip = _smooth(2, 33, 47)
    back = read_video(clip.save(tmp_path / "a.mp4"))
    assert (back.height, back.width) == (34, 48)
    assert _psnr(back.frames[:, :33, :47], clip.frames) > 34


@pytest.mark.parametrize(("suffix", "least"), [(".gif", 26), (".webp", 32)])
def test_animations_loop_and_keep_frames_and_duration(tmp_path: Path, suffix: str, least: float) -> None:
    clip = _smooth()
    with Image.open(clip.save(tmp_path / f"a{suffix}", fps=12)) as image:
        assert image.n_frames == 6
        assert image.info["loop"] == 0
        duration, frames = 0, []
        for i in range(6):
            image.seek(i)
            image.load()
            duration += image.info["duration"]
            frames.append(np.asarray(image.convert("RGB")))
    assert duration == 500
    assert _psnr(np.stack(frames), clip.frames) > least


def test_png_is_a_contact_sheet(tmp_path: Path) -> None:
    with Image.open(_smooth(10).save(tmp_path / "a.PNG")) as image:
        assert image.size == (8 * 128 + 7 * 6 + 32, 2 * (96 + 21) + 6 + 32)


@pytest.mark.parametrize(("name", "got"), [("a.mov", "'.mov'"), ("a", "a name without one")])
def test_other_suffixes_are_refused(tmp_path: Path, name: str, got: str) -> None:
    with pytest.raises(InputError) as error:
        _smooth().save(tmp_path / name)
    assert f"expected a name that ends in .mp4, .gif, .webp, .png, got {got}." in str(error.value)


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".png"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"before")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limit[1]))  # writing more fails, as on a full disk
    try:
        with pytest.raises(OutputError) as error:
            Video(frames=_noise(4), fps=8).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert f"{path} cannot be written: " in str(error.value)
    assert "Check the folder, its permissions and free space." in str(error.value)
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == b"before"


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_ctrl_c_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    write = WRITERS[suffix]

    def interrupted(frames: np.ndarray, fps: float, path: Path) -> None:
        write(frames, fps, path)
        assert path.parent.parent == tmp_path
        assert path.exists()
        raise KeyboardInterrupt

    monkeypatch.setitem(WRITERS, suffix, interrupted)
    with pytest.raises(KeyboardInterrupt):
        _smooth().save(tmp_path / f"a{suffix}")
    assert os.listdir(tmp_path) == []


def test_a_folder_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(OutputError, match="is a folder; expected the name of a file to write"):
        _smooth().save(tmp_path / "a.mp4")


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match="cannot be written: "):
        _smooth().save(tmp_path / "out" / "a.mp4")


# --- the rest -----------------------------------------------------------------------------------------------------


def test_importing_loads_neither_codecs_nor_pillow() -> None:
    code = (
        "import sys, tav_sdk.video, tav_sdk.video.contact_sheet; print([m for m in ('av', 'PIL') if m in sys.modules])"
    )
    root = Path(video_module.__file__).resolve().parents[1]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("stride", "rate", "frames"), [(2, Fraction(30000, 1001), 91), (1, Fraction(24), 72), (2, Fraction(10), 80)]
)
def test_clips_as_cameras_and_editors_write_them(tmp_path: Path, stride: int, rate: Fraction, frames: int) -> None:
    """Frames that refer to later ones, a key frame now and then, a size that is no multiple of 16."""

    def setup(stream: av.VideoStream) -> None:
        stream.codec_context.max_b_frames, stream.codec_context.gop_size = 2, 30

    path = _write(tmp_path / "clip.mp4", _marked(frames, 270, 482), rate, setup=setup)
    clip = read_video(path, num_frames=8, stride=stride, size=(128, 192))
    assert clip.frames.shape == (8, 128, 192, 3)
    assert clip.fps == pytest.approx(float(rate / stride))
    assert probe(path).num_frames == frames
    assert _greys(clip) == [stride * i for i in range(8)]
