"""Clips that were sent: looked at in a process of their own, and kept once, under the hash of their bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tav_sdk.server.forms import Upload, storage_problem
from tav_sdk.server.probe import WALL_S
from tav_sdk.server.problems import ProblemError
from tav_sdk.words import logger

_log = logger(__name__)

MAX_PROBES = 2
"""How many clips are looked at at once."""
GRACE_S = 5.0
"""Seconds that a probe has to start, beyond those that it may take."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_QUIET = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass(frozen=True, kw_only=True)
class ClipFacts:
    """What a clip is.

    Attributes:
        frames: how many there are.
        width: in pixels, as they are stored.
        height: likewise.
        fps: frames per second.
    """

    frames: int
    width: int
    height: int
    fps: float


class Uploads:
    """The clips of a server, in ``state/clips``.

    Args:
        state: the server's folder; ``clips`` in it is made if it is not there.
    """

    def __init__(self, state: Path) -> None:
        self.clips = state / "clips"
        self.incoming = self.clips / ".incoming"
        """Where files go while they come in; on the same disk as the clips."""
        self.incoming.mkdir(parents=True, exist_ok=True)
        self._places = asyncio.Semaphore(MAX_PROBES)

    async def probe(self, path: Path, *, param: str = "input_reference") -> ClipFacts:
        """What a clip is; see :func:`probe`. Only so many are looked at at once."""
        async with self._places:
            return await probe(path, param=param)

    async def keep(self, upload: Upload) -> Path:
        """Keep an upload as a clip, on disk when this returns; the upload's own file is gone then.

        Raises:
            ProblemError: 507 ``storage_full``.
        """
        try:
            return await asyncio.to_thread(self._keep, upload)
        except OSError as error:
            _log.error("a clip cannot be kept: %s", error)
            await asyncio.to_thread(upload.remove)
            raise storage_problem(error) from error

    def path(self, sha256: str) -> Path:
        """Where the clip with that hash lies, if it is there."""
        if not _SHA256.fullmatch(sha256):
            raise ValueError("a clip's hash has 64 digits of 0-9 and a-f")
        return self.clips / sha256

    def remove(self, sha256: str) -> None:
        """Remove a clip that no job and no model needs any more."""
        self.path(sha256).unlink(missing_ok=True)

    def sweep(self) -> int:
        """Remove what requests left that were cut off by the end of a server; how many files.

        Call it before requests are taken: all of them are somebody's afterwards.
        """
        removed = 0
        for path in self.incoming.iterdir():
            with contextlib.suppress(OSError):
                path.unlink()
                removed += 1
        return removed

    def _keep(self, upload: Upload) -> Path:
        path = self.path(upload.sha256)
        os.replace(upload.path, path)  # the same bytes if it was there
        os.utime(path, (time.time(), time.time()))
        if os.name == "posix":
            descriptor = os.open(self.clips, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return path


async def probe(path: Path, *, param: str = "input_reference") -> ClipFacts:
    """What a clip is, as a process says that may use 30 s of a CPU and 2 GiB, and can open nothing.

    Args:
        path: the file; neither its name nor its type counts.
        param: the field that it came in.

    Raises:
        ProblemError: 400 ``invalid_video`` or ``video_too_large``.
    """
    with path.open("rb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tav_sdk.server.probe",
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **_QUIET},
            start_new_session=True,
        )
    said = b""
    try:
        out, said = await asyncio.wait_for(process.communicate(), WALL_S + GRACE_S)
    except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
        out = b""
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    try:
        answer = json.loads(out)
        if process.returncode == 0 and "code" not in answer:
            return ClipFacts(**answer)
    except (ValueError, TypeError):
        last = said.decode(errors="replace").strip().rpartition("\n")[2][:200]
        _log.warning("a clip's probe ended with status %s: %s", process.returncode, last)
        answer = {
            "code": "invalid_video",
            "message": "the video cannot be read with the time and memory that it may take; send a smaller one",
        }
    raise ProblemError(400, answer["code"], f"{param}: {answer['message']}", param=param)


def check_length(facts: ClipFacts, *, num_frames: int, start: int, stride: int, param: str = "input_reference") -> None:
    """Check that a clip has the frames that are asked for.

    Raises:
        ProblemError: 400 ``video_too_short``.
    """
    needed = start + stride * (num_frames - 1) + 1
    if facts.frames < needed:
        raise ProblemError(
            400,
            "video_too_short",
            f"{param} has {facts.frames} frame{'s' * (facts.frames != 1)}; {num_frames} frames from start {start} at "
            f"stride {stride} need {needed}. Ask for fewer, or send a longer clip",
            param=param,
        )
