"""Looks at an uploaded clip in a process of its own, which may open nothing, write nothing, and use little.

``python -m tav_sdk.server.probe < CLIP`` prints a JSON object: ``frames``, ``width``, ``height``, ``fps``; or ``code``
and ``message`` of a refusal. The clip comes as an open file, so that no name of a client reaches FFmpeg, and before its
first byte is read, the process has lost the right to open a file or a socket.
"""

from __future__ import annotations

import contextlib
import io
import json
import signal
import sys
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

MAX_SIDE = 4096
MAX_PIXELS = 16_800_000
CPU_S = 30
WALL_S = 60
MEMORY_BYTES = 2 << 30
MAX_RATE = 1000.0
"""Frames per second that a clip may have; so many can be written, too."""

_STILL_BRANDS = (b"mif1", b"miaf", b"heic", b"heix", b"heim", b"heis", b"avif", b"crx ", b"jxl ", b"jp2 ")
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_KINDS = "mp4, mov, mkv, webm, avi or gif"
_TWO_FRAMES = bytes.fromhex(
    "47494638396102000200810000000000ffffff00000000000021f904000a0000002c00000000020002000008060001080410100021f904010a00"
    "01002c000000000200020081ffffff0000000000000000000806000108041010003b"
)
"""A GIF of 2x2 pixels."""


class RefusedError(Exception):
    """The clip cannot be used; ``code`` is the contract's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def container_of(head: bytes) -> str:
    """FFmpeg's name of the container that a file begins as.

    Raises:
        RefusedError: it is none of those that are taken.
    """
    if head[4:8] in _BOXES:
        if head[4:8] == b"ftyp" and head[8:12] in _STILL_BRANDS:
            raise RefusedError("invalid_video", f"this is a picture, not a video; send {_KINDS}")
        return "mov"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    what = "the file is empty" if not head else "this is not a video that is taken"
    raise RefusedError("invalid_video", f"{what}; send {_KINDS}")


def check_size(width: int, height: int) -> None:
    """Check a frame's size in pixels.

    Raises:
        RefusedError: it is none, or too large.
    """
    if width < 1 or height < 1:
        raise RefusedError("invalid_video", "the video does not say how large its frames are; send it as mp4")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise RefusedError(
            "video_too_large",
            f"frames may be {MAX_SIDE} pixels wide and high and have {MAX_PIXELS / 1e6:g} Mpixel, got {width}x{height}",
        )


def facts_of(file: BinaryIO) -> dict[str, Any]:
    """Frames, size and rate of an open clip. All frames are counted; the first is decoded.

    Raises:
        RefusedError: it cannot be used.
    """
    import av
    from av.error import FFmpegError

    file.seek(0)
    kind = container_of(file.read(16))
    size = file.seek(0, 2)
    file.seek(0)
    formats = {"mov": "mov,mp4,m4a,3gp,3g2,mj2", "matroska": "matroska,webm"}
    options = {
        "format_whitelist": formats.get(kind, kind),
        "protocol_whitelist": "none",  # whatever the file names, nothing else is opened
        "threads": "1",
    }
    try:
        # FFmpeg decodes while it looks for streams. Without decoders it says what the header does; with them it takes
        # no frame that is larger than allowed, should the header have lied.
        with av.open(file, format=kind, options={**options, "codec_whitelist": "none"}) as container:
            codec = _stream(container).codec_context
            if codec.width or codec.height:
                check_size(codec.width, codec.height)
        file.seek(0)
        with av.open(file, format=kind, options={**options, "max_pixels": str(MAX_PIXELS)}) as container:
            stream = _stream(container)
            check_size(stream.codec_context.width, stream.codec_context.height)
            return _counted(container, stream, size, still=kind == "gif")
    except (FFmpegError, EOFError, ValueError, OverflowError) as error:
        raise RefusedError(
            "invalid_video", f"the video is damaged or of a kind that cannot be read; send {_KINDS} again"
        ) from error


def _stream(container: InputContainer) -> VideoStream:
    """The first stream of moving pictures."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:  # cover art of an audio file
            return stream
    raise RefusedError("invalid_video", "there are no moving pictures in this file; send a video")


def _counted(container: InputContainer, stream: VideoStream, size: int, *, still: bool) -> dict[str, Any]:
    if max((entry.pos + entry.size for entry in stream.index_entries), default=0) > size:
        raise RefusedError("invalid_video", "the video breaks off before its end; copy and send it again")
    rate: Fraction | None = stream.average_rate or stream.guessed_rate
    if not rate or not 0.01 <= rate <= MAX_RATE:
        raise RefusedError("invalid_video", "the video does not say its frame rate; send it as mp4")
    stream.thread_type, stream.codec_context.thread_count = "NONE", 1
    frames, decoded = 0, None
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise RefusedError("invalid_video", "the video breaks off before its end; copy and send it again")
        if decoded is None:
            decoded = next(iter(packet.decode()), None)
        if packet.size and not packet.is_discard:
            frames += 1
    if decoded is None:
        decoded = next(iter(stream.decode(None)), None)
    if decoded is None or not frames:
        raise RefusedError("invalid_video", "not one frame of the video can be read; send it again")
    if still and frames == 1:
        raise RefusedError("invalid_video", f"this is a picture, not a video; send {_KINDS}")
    check_size(decoded.width, decoded.height)
    return {"frames": frames, "width": decoded.width, "height": decoded.height, "fps": float(rate)}


def confine() -> None:
    """Take from this process what it does not need: time, memory, and new files, sockets and processes."""
    with contextlib.suppress(AttributeError, ValueError):
        signal.alarm(WALL_S)  # also if whoever waits for it is gone
    try:
        import resource
    except ImportError:  # Windows has no such limits; the one who waits ends it in time
        return
    limits: Mapping[int, int] = {
        resource.RLIMIT_CPU: CPU_S,
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: 0,
    }
    for kind, most in limits.items():
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, most))


def main() -> None:
    """Print what standard input is."""
    import av.audio.codeccontext
    import av.subtitles.codeccontext
    import av.video.codeccontext

    av.logging.set_level(av.logging.PANIC)
    facts_of(io.BytesIO(_TWO_FRAMES))  # everything that is imported at use, while files can be opened
    confine()
    try:
        answer = facts_of(sys.stdin.buffer)
    except RefusedError as refusal:
        answer = {"code": refusal.code, "message": str(refusal)}
    except MemoryError:
        answer = {"code": "invalid_video", "message": "reading the video takes too much memory; send a smaller one"}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
