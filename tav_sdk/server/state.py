"""The server's state folder: one server at a time, and where everything in it lies.

``jobs.sqlite3``, ``clips/SHA256``, ``videos/ID/``, ``models/NAME/``, ``work/`` for what is being made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from tav_sdk.errors import InputError, OutputError
from tav_sdk.server.jobs import Job


class State:
    """A state folder, locked until it is closed.

    Args:
        folder: made if it is not there, readable by this user alone.

    Raises:
        InputError: another server has it.
        OutputError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for path in (self.clips, self.videos, self.models, self.work):
                path.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"the state folder {folder} cannot be written: {reason}; choose another") from error
        self._lock = FileLock(self.folder / "lock", mode=0o600)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"the state folder {folder} is in use by another server; stop that one, or choose another folder"
            ) from error

    def close(self) -> None:
        """Let another server have it."""
        self._lock.release()

    @property
    def database(self) -> Path:
        """The file of the jobs."""
        return self.folder / "jobs.sqlite3"

    @property
    def clips(self) -> Path:
        """Uploaded clips by their SHA-256."""
        return self.folder / "clips"

    @property
    def videos(self) -> Path:
        """Finished videos, a folder each."""
        return self.folder / "videos"

    @property
    def models(self) -> Path:
        """Models that tunings made."""
        return self.folder / "models"

    @property
    def work(self) -> Path:
        """What workers write."""
        return self.folder / "work"

    def clip(self, sha256: str) -> Path:
        """Where a clip lies."""
        return self.clips / sha256

    def video(self, job_id: str) -> Path:
        """Where a finished job's files lie."""
        return self.videos / job_id

    def work_of(self, job: Job) -> Path:
        """The folder that this attempt of a job writes."""
        return self.work / f"{job.id}.{job.fence}"

    def preview_of(self, job: Job) -> Path:
        """The newest preview of a running job."""
        return self.work / f"{job.id}.preview.webp"

    def keep_video(self, job: Job) -> None:
        """Put a finished video in its place; an earlier attempt's is replaced."""
        target = self.video(job.id)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(self.work_of(job), target)
        _sync(self.videos)
        self.forget_work(job.id)

    def forget_work(self, job_id: str) -> None:
        """Remove what attempts of a job left; a running one's worker has to have ended."""
        # An attempt that was killed leaves its hidden folder, in which files are made until they are whole.
        for path in (*self.work.glob(f"{job_id}.*"), *self.work.glob(f".{job_id}.*")):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def forget_video(self, job_id: str) -> None:
        """Remove a finished video."""
        shutil.rmtree(self.video(job_id), ignore_errors=True)

    def forget_clip(self, sha256: str) -> None:
        """Remove an uploaded clip that no job needs."""
        self.clip(sha256).unlink(missing_ok=True)

    def sizes(self) -> dict[str, int]:
        """Bytes of clips, videos and models."""
        return {name: _bytes_of(self.folder / name) for name in ("clips", "videos", "models")}


def _bytes_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _sync(folder: Path) -> None:
    """Have a folder's names on disk."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
