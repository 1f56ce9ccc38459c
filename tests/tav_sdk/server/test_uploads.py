"""Clips that were sent: what is taken, what is refused, and what the process that looks may do."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tav_sdk.server import probe as module
from tav_sdk.server import uploads
from tav_sdk.server.forms import Upload
from tav_sdk.server.probe import RefusedError, facts_of
from tav_sdk.server.problems import ProblemError
from tav_sdk.server.uploads import ClipFacts, Uploads, check_length, probe

pytestmark = pytest.mark.filterwarnings("error::ResourceWarning")


def write_clip(path: Path, *, codec="mpeg4", frames=5, width=64, height=48, extra=False) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(12))
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=8000) if extra else None
        for index in range(frames):
            picture = np.full((height, width, 3), 40 * index % 255, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            silence.sample_rate = 8000
            container.mux(sound.encode(silence))
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    return path


def gif(size=(16, 12), frames=3) -> bytes:
    pictures = [Image.new("P", size, index) for index in range(frames)]
    for picture in pictures:
        picture.putpalette(list(range(0, 48)))
    file = io.BytesIO()
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=100)
    return file.getvalue()


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, kind)
    return file.getvalue()


def refused(content: bytes) -> tuple[str, str]:
    """What facts_of says, without a process."""
    with pytest.raises(RefusedError) as caught:
        facts_of(io.BytesIO(content))
    assert len(str(caught.value)) < 200
    return caught.value.code, str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "codec", "extra"),
    [
        ("mp4", "mpeg4", False),
        ("mp4", "libx264", False),
        ("mov", "mpeg4", True),
        ("mkv", "libx264", True),
        ("webm", "libvpx-vp9", False),
        ("avi", "mpeg4", False),
    ],
)
def test_containers_that_are_taken(tmp_path, suffix, codec, extra):
    path = write_clip(tmp_path / f"clip.{suffix}", codec=codec, extra=extra)
    facts = facts_of(io.BytesIO(path.read_bytes()))
    assert facts == {"frames": 5, "width": 64, "height": 48, "fps": pytest.approx(12)}


def test_a_process_says_the_same_whatever_the_files_name_is(tmp_path):
    path = write_clip(tmp_path / "clip.mkv", codec="libx264", extra=True)
    path = path.rename(tmp_path / "clip; rm -rf.txt")
    assert asyncio.run(probe(path)) == ClipFacts(frames=5, width=64, height=48, fps=12)
    path.write_bytes(gif())
    assert asyncio.run(probe(path)) == ClipFacts(frames=3, width=16, height=12, fps=10)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"\x00", "not a video that is taken"),
        (b"hello", "not a video that is taken"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/a.mp4\n", "not a video that is taken"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not a video that is taken"),
        (b"<?xml version='1.0'?><MPD><BaseURL>http://127.0.0.1/</BaseURL></MPD>", "not a video that is taken"),
        (b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 1 RTP/AVP 96\n", "not a video that is taken"),
        (picture("PNG"), "not a video that is taken"),
        (picture("JPEG"), "not a video that is taken"),
        (picture("WEBP"), "not a video that is taken"),
        (b"\x00\x00\x00\x18ftypavif" + bytes(20), "a picture, not a video"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(20), "a picture, not a video"),
        (gif(frames=1), "a picture, not a video"),
        (b"GIF89a", "damaged or of a kind"),
        (b"\x00\x00\x00\x18ftypmp42" + b"#EXTM3U\nhttp://127.0.0.1/\n" * 9, "damaged or of a kind"),
        (b"\x1aE\xdf\xa3" + bytes(100), "damaged or of a kind"),
        (b"RIFF\x10\x00\x00\x00AVI " + bytes(100), "damaged or of a kind"),
    ],
    ids=lambda value: value[:12].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_everything_else_is_no_video(content, said):
    code, message = refused(content)
    assert code == "invalid_video"
    assert said in message


def test_damaged_clips_are_no_videos(tmp_path):
    whole = write_clip(tmp_path / "clip.mp4", codec="libx264", frames=40).read_bytes()
    assert refused(whole[: len(whole) // 2])[0] == "invalid_video"  # the index is at the end
    index = write_clip(tmp_path / "clip.avi", codec="mpeg4", frames=5).read_bytes()
    assert refused(index[:200])[0] == "invalid_video"
    fast = av.open(str(tmp_path / "fast.mp4"), "w", options={"movflags": "faststart"})
    with fast as out, av.open(io.BytesIO(whole)) as container:
        stream = out.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    early = (tmp_path / "fast.mp4").read_bytes()
    assert facts_of(io.BytesIO(early))["frames"] == 40
    code, message = refused(early[:-20])
    assert code == "invalid_video"
    assert "breaks off before its end" in message
    noise = bytearray(early)
    start = early.index(b"mdat") + 4
    noise[start:] = b"\xff" * (len(noise) - start)
    assert refused(bytes(noise))[0] == "invalid_video"


def test_sound_alone_is_no_video(tmp_path):
    code, message = refused(write_sound(tmp_path / "sound.mp4").read_bytes())
    assert code == "invalid_video"
    assert "no moving pictures" in message


@pytest.mark.parametrize(("width", "height"), [(4112, 16), (16, 4112), (4096, 4112)])
def test_large_frames_are_refused(tmp_path, width, height):
    path = write_clip(tmp_path / "clip.avi", codec="mpeg4", frames=1, width=width, height=height)
    code, message = refused(path.read_bytes())
    assert code == "video_too_large"
    assert f"4096 pixels wide and high and have 16.8 Mpixel, got {width}x{height}" in message


def test_a_header_that_lies_lets_no_large_frame_in(tmp_path):
    content = bytearray(write_clip(tmp_path / "clip.mp4", width=4112, height=16).read_bytes())
    at = content.index(b"mp4v", content.index(b"stsd"))
    assert content[at + 28 : at + 30] == (4112).to_bytes(2, "big")
    content[at + 28 : at + 30] = (80).to_bytes(2, "big")
    assert refused(bytes(content))[0] == "video_too_large"


def test_frames_up_to_the_limit_are_taken(tmp_path):
    path = write_clip(tmp_path / "clip.avi", codec="mpeg4", frames=1, width=4096, height=32)
    assert facts_of(io.BytesIO(path.read_bytes()))["width"] == 4096


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize("kind", ["gif", "avi"])
def test_nothing_of_a_large_size_is_allocated(tmp_path, kind):
    path = tmp_path / "clip"
    if kind == "gif":
        content = bytearray(gif())
        content[6:10] = b"\xff\xff\xff\xff"  # 65535x65535
    else:
        content = bytearray(write_clip(tmp_path / "c.avi", codec="rawvideo", width=80, height=48).read_bytes())
        at = content.index(b"strf") + 8
        content[at + 4 : at + 12] = (60000).to_bytes(4, "little") * 2
    path.write_bytes(content)
    code = """
status = open("/proc/self/status")
from tav_sdk.server.probe import main
main()
print()
print(next(line for line in status if line.startswith("VmHWM")))
"""
    with path.open("rb") as file:
        said = subprocess.run([sys.executable, "-c", code], stdin=file, capture_output=True, text=True, check=True)
    answer, peak = said.stdout.split("\n", 1)
    assert int(peak.split()[1]) < 100 * 1024
    assert '"video_too_large"' in answer
    with pytest.raises(ProblemError) as caught:
        asyncio.run(probe(path, param="video"))
    error = caught.value.body["error"]
    assert (caught.value.status, error["code"], error["param"]) == (400, "video_too_large", "video")
    assert error["message"].startswith("video: frames may be 4096 pixels wide")


def test_a_refusal_is_a_problem_of_the_field(tmp_path):
    path = tmp_path / "clip"
    path.write_bytes(b"#EXTM3U\n")
    with pytest.raises(ProblemError) as caught:
        asyncio.run(probe(path))
    error = caught.value.body["error"]
    assert (caught.value.status, error["code"], error["param"]) == (400, "invalid_video", "input_reference")
    assert error["type"] == "invalid_request_error"
    assert "send mp4, mov, mkv, webm, avi or gif" in error["message"]
    assert str(tmp_path) not in error["message"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_the_process_can_open_write_and_take_little():
    code = """
import resource, socket
from tav_sdk.server.probe import confine
confine()
for kind in ("CPU", "AS", "FSIZE", "NOFILE", "CORE"):
    print(kind, *resource.getrlimit(getattr(resource, f"RLIMIT_{kind}")))
for name, call in {
    "read": lambda: open("/etc/passwd"),
    "socket": lambda: socket.socket(),
    "memory": lambda: bytearray(3 << 30),
    "more": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9)) or open("/etc/passwd"),
}.items():
    try:
        call()
        print(name, "worked")
    except (OSError, MemoryError, ValueError) as error:
        print(name, "failed")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = dict(line.split(" ", 1) for line in ended.stdout.splitlines())
    two_gib = str(2 << 30)
    assert lines["CPU"] == "30 30"
    assert lines["AS"] == f"{two_gib} {two_gib}"
    assert lines["FSIZE"] == lines["NOFILE"] == lines["CORE"] == "0 0"
    expected = {"read": "failed", "socket": "failed", "memory": "failed"}
    assert {name: lines[name] for name in expected} == expected
    if os.geteuid() != 0:
        assert lines["more"] == "failed"


def test_a_process_that_takes_too_long_or_falls_is_an_invalid_video(tmp_path, monkeypatch, caplog):
    path = write_clip(tmp_path / "clip.mp4")
    monkeypatch.setattr(uploads, "WALL_S", 0.01 - uploads.GRACE_S)
    with pytest.raises(ProblemError) as caught:
        asyncio.run(probe(path))
    assert caught.value.code == "invalid_video"
    assert "time and memory" in caught.value.message
    monkeypatch.setattr(uploads, "WALL_S", 60)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ProblemError) as caught:
        asyncio.run(probe(path))
    assert caught.value.code == "invalid_video"
    assert "ended with status 1" in caplog.text


def test_a_cancelled_probe_leaves_no_process(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "clip.mp4")

    started: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def cancelled():
        task = asyncio.create_task(probe(path))
        while not started:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def seen(*arguments: Any, **more: Any) -> asyncio.subprocess.Process:
        started.append(await start(*arguments, **more))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", seen)
    asyncio.run(cancelled())
    assert [process.returncode for process in started] == [-9]  # ended, and its status was asked for


def test_only_so_many_are_looked_at_at_once(tmp_path, monkeypatch):
    running = most = 0

    async def slow(path, *, param):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return ClipFacts(frames=1, width=1, height=1, fps=1)

    monkeypatch.setattr(uploads, "probe", slow)

    async def many():
        clips = Uploads(tmp_path)
        await asyncio.gather(*(clips.probe(tmp_path) for _ in range(10)))

    asyncio.run(many())
    assert most == uploads.MAX_PROBES


@pytest.mark.parametrize(("start", "stride", "num_frames"), [(0, 1, 10), (9, 5, 1), (1, 4, 3)])
def test_a_clip_needs_the_frames_that_are_asked_for(start, stride, num_frames):
    asked = {"num_frames": num_frames, "start": start, "stride": stride}
    check_length(ClipFacts(frames=10, width=1, height=1, fps=1), **asked)
    with pytest.raises(ProblemError) as caught:
        check_length(ClipFacts(frames=1, width=1, height=1, fps=1), **asked, param="video")
    error = caught.value.body["error"]
    assert (caught.value.status, error["code"], error["param"]) == (400, "video_too_short", "video")
    needed = start + stride * (num_frames - 1) + 1
    assert error["message"].startswith("video has 1 frame; ")
    assert f"need {needed}." in error["message"]
    with pytest.raises(ProblemError, match=f"has {needed - 1} frames"):
        check_length(ClipFacts(frames=needed - 1, width=1, height=1, fps=1), **asked)


def test_clips_are_kept_once_under_their_hash(tmp_path):
    clips = Uploads(tmp_path)
    sha256 = hashlib.sha256(b"clip").hexdigest()
    kept = clips.path(sha256)
    for _ in range(2):
        path = clips.incoming / "upload-1"
        path.write_bytes(b"clip")
        kept = asyncio.run(clips.keep(Upload(field="video", path=path, size=4, sha256=sha256)))
        assert kept == clips.path(sha256) == tmp_path / "clips" / sha256
        assert kept.read_bytes() == b"clip"
        assert not path.exists()
    clips.remove(sha256)
    clips.remove(sha256)
    assert not kept.exists()
    for wrong in ("../../etc/passwd", "", "A" * 64, sha256 + "\n"):
        with pytest.raises(ValueError, match="64 digits"):
            clips.path(wrong)


def test_what_a_killed_server_left_is_swept(tmp_path):
    clips = Uploads(tmp_path)
    (clips.incoming / "upload-1").write_bytes(b"half")
    (clips.clips / ("0" * 64)).write_bytes(b"whole")
    assert Uploads(tmp_path).sweep() == 1
    assert list(clips.incoming.iterdir()) == []
    assert (clips.clips / ("0" * 64)).exists()


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    clips = Uploads(tmp_path)
    path = clips.incoming / "upload-1"
    path.write_bytes(b"clip")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(uploads.os, "replace", full)
    with pytest.raises(ProblemError) as caught:
        asyncio.run(clips.keep(Upload(field="video", path=path, size=4, sha256="0" * 64)))
    assert (caught.value.status, caught.value.code) == (507, "storage_full")
    assert not path.exists()


def test_the_limits_are_the_contracts():
    assert (module.MAX_SIDE, module.CPU_S, module.MEMORY_BYTES) == (4096, 30, 2 << 30)
