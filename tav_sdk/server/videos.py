"""Edits and generations in a worker: resident pipelines, and the files of one video."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tav_sdk import edits
from tav_sdk.bundle.bundle import Bundle
from tav_sdk.errors import BundleError
from tav_sdk.pipeline.pipeline import Pipeline
from tav_sdk.progress import StepProgress
from tav_sdk.request import EditRequest
from tav_sdk.server.protocol import Previewed, Progressed, Run, Swapped, Word
from tav_sdk.server.video_request import request_of
from tav_sdk.video.clip import read_video
from tav_sdk.words import logger

_log = logger(__name__)

VIDEO = "video.mp4"
THUMBNAIL = "thumbnail.webp"
SPRITESHEET = "spritesheet.webp"
SHEET = "sheet.png"
RECORD = "edits.json"
PREVIEW = "preview.webp"
SPRITESHEET_WIDTH = 4096
PREVIEW_SECONDS = 1.0


class Videos:
    """Makes videos on pipelines that stay open.

    Args:
        say: takes words for the server.
        engine: what runs the bundles.
        max_bases: how many pipelines stay open; the one that was used least lately goes.
    """

    def __init__(self, say: Callable[[Word], None], *, engine: str, max_bases: int) -> None:
        self._say, self._engine, self._max_bases = say, engine, max_bases
        self._open: list[Pipeline] = []  # the last one was used last
        self._verified: set[tuple[Path, int, int]] = set()

    def make(self, run: Run, is_cancelled: Callable[[], bool]) -> dict[str, Any]:
        """Make one video: its files lie in ``run.out`` at the end, on disk.

        Returns:
            What is kept of it: frames, fps, seconds of each stage, MB of memory.

        Raises:
            CancelledError: ``is_cancelled`` said so after a step.
            TavError: as :func:`tav_sdk.edits.make`.
        """
        if run.bundle is None:
            raise BundleError("no bundle was named")
        pipeline = self._pipeline(Path(run.bundle))
        request = request_of(run.params)
        watch = Watch(run, self._say, is_cancelled, request)
        source = None if run.source is None else Path(run.source)
        video = source if isinstance(request, EditRequest) else None
        out = Path(run.out)
        made = edits.make(request, pipeline, out, video=video, callback=watch)
        watch.enter("write")
        os.replace(out / made.record.edits[0][0], out / VIDEO)
        clip = read_video(out / VIDEO)
        _pictures(clip.frames, out)
        record = {**made.record.to_dict(), "edits": [{"file": VIDEO, "prompt": run.params["prompt"]}]}
        (out / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for path in out.iterdir():
            _sync(path)
        _sync(out)
        return {
            "num_frames": clip.num_frames,
            "fps": clip.fps,
            "stage_durations": watch.seconds,
            "peak_memory_mb": peak_memory_mb(),
            "inversion_cached": watch.cached,
        }

    def close(self) -> None:
        """Close every pipeline; they open again for the next video."""
        while self._open:
            self._open.pop().close()

    def _pipeline(self, folder: Path) -> Pipeline:
        """A pipeline with that bundle's weights: one that is open if it fits, with its weights swapped."""
        began = time.monotonic()
        try:
            status = (folder / "manifest.json").stat()
        except OSError as error:
            raise BundleError(f"{folder} has no manifest") from error
        seen = (folder, status.st_mtime_ns, status.st_ino)
        for pipeline in reversed(self._open):
            if pipeline.bundle.folder == folder and seen in self._verified:
                self._open.remove(pipeline)
                self._open.append(pipeline)
                return pipeline
        bundle = Bundle(folder, verify=seen not in self._verified)
        self._verified.add(seen)
        pipeline = self._swapped(bundle) or self._opened(bundle)
        self._open.append(pipeline)
        self._say(Swapped(model=folder.name, seconds=time.monotonic() - began))
        return pipeline

    def _swapped(self, bundle: Bundle) -> Pipeline | None:
        for pipeline in reversed(self._open):
            try:
                pipeline.swap(bundle)
            except BundleError:  # another base, size or kind of graphs
                continue
            self._open.remove(pipeline)
            return pipeline
        return None

    def _opened(self, bundle: Bundle) -> Pipeline:
        while len(self._open) >= self._max_bases:
            self._open.pop(0).close()
        return Pipeline(bundle, engine=self._engine)


@dataclass
class Watch:
    """Turns a job's steps into words for the server, and stops the job when it is cancelled.

    Attributes:
        seconds: of each stage that ended or runs.
        cached: whether the inversion came from the cache; ``None`` if there was none.
    """

    run: Run
    say: Callable[[Word], None]
    is_cancelled: Callable[[], bool]
    request: Any
    seconds: dict[str, float] = field(default_factory=dict)
    cached: bool | None = None

    def __post_init__(self) -> None:
        self._stage, self._last, self._said, self._pictured = "", time.monotonic(), -1.0, 0.0
        steps = self.run.params
        more = steps.get("extra_params") or {}
        inversion = more.get("num_inversion_steps") or 0
        offsets = inversion if more.get("correction") == "direct" else 0
        self._before = {"encode": 0, "inversion": 0, "correction": inversion, "sampling": inversion + offsets}
        self._whole = max(1, inversion + offsets + (steps.get("num_inference_steps") or 0))

    def enter(self, stage: str) -> None:
        """Another stage begins that has no steps of its own."""
        self._lap(stage)
        self.say(Progressed(job=self.run.job, fence=self.run.fence, progress=99, stage=stage, step=0, total=1))

    def __call__(self, step: StepProgress) -> bool:
        took = self._lap(step.stage)
        if step.resumed == "cache" and step.stage == "inversion":
            self.cached = True
        elif step.stage == "inversion" and self.cached is None:
            self.cached = False
        done = float(step.step)
        if step.part is not None:
            done += step.part.index / step.part.count - 1
        evaluations = self._whole if step.stage == "decode" else self._before.get(step.stage, 0)
        if step.stage in ("inversion", "correction", "sampling"):
            evaluations += done
        if (self.run.params.get("extra_params") or {}).get("preview") and step.latents is not None:
            self._preview(step.latents)
        self.say(
            Progressed(
                job=self.run.job,
                fence=self.run.fence,
                progress=min(99, int(100 * evaluations / self._whole)),
                stage=step.stage,
                step=step.step,
                total=step.total,
                step_s=None if step.resumed or step.part else took,
                cached=step.resumed == "cache",
            )
        )
        return not self.is_cancelled()

    def _lap(self, stage: str) -> float:
        now = time.monotonic()
        took, self._last, self._stage = now - self._last, now, stage
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + took, 4)
        return took

    def _preview(self, latents: np.ndarray) -> None:
        """A rough picture of the middle frame, next to the job's folder, at most once in :data:`PREVIEW_SECONDS`."""
        now = time.monotonic()
        if now - self._pictured < PREVIEW_SECONDS:
            return
        self._pictured = now
        path = Path(self.run.out).with_suffix(".preview.webp")
        temporary = path.with_suffix(".tmp")
        Image.fromarray(rough_picture(latents)).save(temporary, "WEBP", quality=80)
        os.replace(temporary, path)
        self.say(Previewed(job=self.run.job, fence=self.run.fence))


def rough_picture(latents: np.ndarray, *, side: int = 256) -> np.ndarray:
    """A picture ``(h, w, 3)`` uint8 of the middle frame of latents ``(b, c, f, h, w)``, by a matrix instead of the VAE.

    The first four channels of Stable Diffusion's latents are near a linear map of colours; those of other VAEs give
    three of their channels. The picture is stretched to the range of its values.
    """
    frame = latents[0, :, latents.shape[2] // 2].astype(np.float32)  # (c, h, w)
    if len(frame) == 4:
        matrix = np.array(
            [[0.298, 0.207, 0.208], [0.187, 0.286, 0.173], [-0.158, 0.189, 0.264], [-0.184, -0.271, -0.473]]
        )
        picture = np.tensordot(frame, matrix, axes=([0], [0]))
    else:
        picture = np.moveaxis(np.resize(frame, (3, *frame.shape[1:])), 0, -1)
    low, high = np.percentile(picture, (1, 99))
    picture = np.clip((picture - low) / max(high - low, 1e-6), 0, 1)
    factor = max(1, side // max(picture.shape[:2]))
    return (picture * 255).astype(np.uint8).repeat(factor, 0).repeat(factor, 1)


def _pictures(frames: np.ndarray, out: Path) -> None:
    """The middle frame, and all frames in one picture at most :data:`SPRITESHEET_WIDTH` wide."""
    Image.fromarray(frames[len(frames) // 2]).save(out / THUMBNAIL, "WEBP", quality=85)
    count, height, width = frames.shape[:3]
    columns = max(1, min(count, int(np.ceil(np.sqrt(count))), SPRITESHEET_WIDTH // width))
    rows = -(-count // columns)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for index, frame in enumerate(frames):
        row, column = divmod(index, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = frame
    picture = Image.fromarray(sheet)
    if max(picture.size) > SPRITESHEET_WIDTH:
        picture.thumbnail((SPRITESHEET_WIDTH, SPRITESHEET_WIDTH))
    picture.save(out / SPRITESHEET, "WEBP", quality=80)


def peak_memory_mb() -> int:
    """Largest resident memory of this process so far, in MB."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(kilobytes // 1024)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
