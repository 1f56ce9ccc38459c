"""One whole edit, timed in a process of its own: its stages, its peak memory, and how soon the first step is done.

No framework is imported here, so that the time of a cold start is the engine's.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tav_sdk.errors import CancelledError
from tav_sdk.progress import StepProgress

if TYPE_CHECKING:
    from tav_sdk.diffusion.inversion import Inversion
    from tav_sdk.pipeline.pipeline import Pipeline
    from tav_sdk.video.clip import Video

STAGES = ("read", "vae encode", "text", "inversion", "sampling", "vae decode", "write")
"""The stages of an edit, in their order; ``read`` and ``write`` are the video file's."""


class Stopwatch:
    """Seconds since it was started last, and by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._last = time.perf_counter()

    def lap(self, stage: str | None = None) -> None:
        """Count the time since the last lap to a stage; without one it is left out."""
        now = time.perf_counter()
        if stage is not None:
            self.seconds[stage] += now - self._last
        self._last = now


def first_step(pipeline: Pipeline, prompt: str) -> float:
    """The time of day at which the first sampling step of a new pipeline is done, in seconds."""
    done: list[float] = []

    def stop(step: StepProgress) -> bool:
        done.append(time.time())
        return False

    try:
        pipeline.generate(prompt, callback=stop)
    except CancelledError:
        return done[0]
    raise RuntimeError("sampling reported no step")


def time_edit(pipeline: Pipeline, read: Callable[[], Video], prompt: str, *, steps: int) -> dict[str, float]:
    """Seconds of every stage of one edit: as many steps of inversion as of sampling, guidance as the base has it.

    Args:
        pipeline: one that has run before, or opening its engines is counted as well.
        read: reads the clip.
        prompt: what the edit shows.
        steps: DDIM steps.

    Returns:
        By the names in :data:`STAGES`.
    """
    watch = Stopwatch()
    clip = read()
    watch.lap("read")
    pipeline.encode_prompt(prompt)
    watch.lap("text")

    def seen(step: StepProgress) -> None:
        watch.lap(stage_of(step.stage))

    inversion: Inversion = pipeline.invert(clip, num_inversion_steps=steps, callback=seen)
    watch.lap()
    video = pipeline.edit(prompt, inversion, num_inference_steps=steps, callback=seen)
    watch.lap()
    with tempfile.TemporaryDirectory() as folder:
        video.save(Path(folder, "edit.mp4"))
    watch.lap("write")
    return watch.seconds


def peak_bytes() -> int:
    """The most memory that this process has held, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # what getrusage has on Linux is the parent's, if that held more when it started this process
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def stage_of(reported: str) -> str | None:
    """One of :data:`STAGES` for what a pipeline reports, or none."""
    return {"encode": "vae encode", "decode": "vae decode"}.get(reported, reported if reported in STAGES else None)
