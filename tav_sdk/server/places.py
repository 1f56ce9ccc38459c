"""Where the files of jobs lie: bundles of the catalog, clips and videos of the state folder."""

from __future__ import annotations

from pathlib import Path

from tav_sdk.server.catalog import Catalog
from tav_sdk.server.jobs import Job
from tav_sdk.server.state import State

BESIDE = "beside:"
"""Begins a job's source that is the clip beside a model's bundle: its size and time follow, since nothing is hashed."""


def source_beside(clip: Path) -> str:
    """The source of jobs that read a clip beside a bundle; another file there gives another one.

    Raises:
        OSError: the file is gone.
    """
    status = clip.stat()
    return f"{BESIDE}{status.st_size}-{status.st_mtime_ns}"


class FilePlaces:
    """Finds and keeps the files of jobs.

    Args:
        state: the server's folder.
        catalog: the models.
    """

    def __init__(self, state: State, catalog: Catalog) -> None:
        self._state, self._catalog = state, catalog

    def bundle_of(self, job: Job) -> Path | None:
        """The bundle that a job runs on; for a tuning one of the same base to export onto."""
        if job.kind == "video":
            model = self._catalog.known.get(job.model)
            return None if model is None else model.folder
        wanted = job.params
        for model in self._catalog.known.values():
            m = model.manifest
            fits = m.base.name == wanted["base"] and m.precision == (wanted.get("precision") or "fp32")
            if fits and m.num_frames == (wanted.get("num_frames") or 8):
                return model.folder
        return None

    def clip_of(self, job: Job) -> Path | None:
        """The clip that a job reads, if it is there."""
        if job.source is None:
            return None
        if job.source.startswith(BESIDE):
            model = self._catalog.known.get(job.model)
            clip = None if model is None else model.clip
        else:
            clip = self._state.clip(job.source)
        return clip if clip is not None and clip.is_file() else None

    def work_of(self, job: Job) -> Path:
        """The folder that this attempt of a job writes."""
        return self._state.work_of(job)

    def keep(self, job: Job, work: Path) -> None:
        """Put a finished folder where it is kept."""
        if job.kind == "video":
            self._state.keep_video(job)
        else:
            self._catalog.put(job.model, work, owner=job.owner, clip=job.source or "")
            self._state.forget_work(job.id)

    def forget_work(self, job_id: str) -> None:
        """Remove what attempts of a job left."""
        self._state.forget_work(job_id)
