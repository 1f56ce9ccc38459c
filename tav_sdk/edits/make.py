"""One request, one pipeline, one folder of results and its record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tav_sdk.edits.control import open_control
from tav_sdk.edits.output import EditOutput
from tav_sdk.edits.record import EditRecord
from tav_sdk.edits.source import CopiedClip
from tav_sdk.errors import InputError
from tav_sdk.files import new_folder
from tav_sdk.output_paths import check_apart
from tav_sdk.pipeline.controlnet import Control, ControlNet
from tav_sdk.pipeline.pipeline import Pipeline
from tav_sdk.progress import Callback, Item, check_callback, labelled
from tav_sdk.request.edit_request import EditRequest, GenerateRequest
from tav_sdk.request.settings import EditSettings, GenerateSettings
from tav_sdk.video.clip import Clip
from tav_sdk.words import logger

SHEET_FILE = "sheet.png"

_log = logger(__name__)


@dataclass(frozen=True, kw_only=True)
class EditResult:
    """What :func:`make` wrote.

    Attributes:
        folder: where it lies.
        record: as in ``edits.json``.
    """

    folder: Path
    record: EditRecord

    @property
    def sheet(self) -> Path:
        """All videos side by side."""
        return self.folder / SHEET_FILE

    @property
    def videos(self) -> list[Path]:
        """One for each prompt."""
        return [self.folder / file for file, _ in self.record.edits]


def make(
    request: EditRequest | GenerateRequest,
    pipeline: Pipeline,
    out: str | Path,
    *,
    video: str | Path | None = None,
    controlnet: ControlNet | None = None,
    overwrite: bool = False,
    callback: Callback | None = None,
) -> EditResult:
    """Do what a request asks for, and write the results as one folder.

    ``out`` gets a video for each prompt (``00.mp4``, ``01.mp4``, ...), ``sheet.png`` and ``edits.json``; an edit
    also ``source.mp4``, and ``control.mp4`` and ``reconstruction.mp4`` where they were asked for. It appears when all
    is complete. The request's ``adapter_scale`` is for this call: the pipeline stays as it is, and what another thread
    does with it meanwhile does not reach this call.

    Args:
        request: what to make.
        pipeline: what makes it.
        out: the folder to write.
        video: the clip to edit; not for a :class:`GenerateRequest`.
        controlnet: the request's ControlNet, if it is open already; otherwise it is opened and closed here.
        overwrite: replace ``out`` if it is there.
        callback: called after each step, with the prompt or window as its ``item``; ``False`` cancels.

    Raises:
        InputError: the request does not fit the bundle or the clip; ``field`` says which part of it.
        VideoError: the clip cannot be read.
        OutputError: ``out`` is there, or cannot be written.
        BundleError, EngineError: as for :class:`~tav_sdk.Pipeline`.
        CancelledError: the callback returned ``False``; nothing is written.
    """
    check_callback(callback)
    out = Path(out)
    pipeline = pipeline.fixed()
    if isinstance(request, GenerateRequest):
        if video is not None:
            raise InputError("must be left out, since a GenerateRequest starts from noise", field="video")
        check_apart(out, pipeline.bundle.folder)
        return _generate(request, pipeline, out, overwrite=overwrite, callback=callback)
    if video is None:
        raise InputError("must be the clip to edit, got none", field="video")
    check_apart(out, pipeline.bundle.folder, video)
    return _edit(request, pipeline, out, Path(video), controlnet, overwrite=overwrite, callback=callback)


def _edit(
    request: EditRequest,
    pipeline: Pipeline,
    out: Path,
    path: Path,
    controlnet: ControlNet | None,
    *,
    overwrite: bool,
    callback: Callback | None,
) -> EditResult:
    settings = EditSettings.of(request, pipeline.manifest, pipeline.schedule)
    _scale(pipeline, settings.adapter_scale)
    clip = settings.frames.open(path, size=settings.size)
    _log.info("editing %s on %s (%s)", path.name, pipeline.engine, pipeline.why)
    _tell_windows(pipeline, clip.num_frames)
    with (
        new_folder(out, overwrite=overwrite) as folder,
        open_control(settings.control, clip, settings.frames, pipeline, controlnet) as control,
    ):
        fps = clip.fps if settings.fps is None else settings.fps
        output = EditOutput(folder, settings.file_format, fps, clip.num_frames)
        if control is not None:
            output.add("control", [control.video.frames])
        if settings.stream:
            _log.info("watch the video as it grows: %s; when it is done, it is in %s", folder / "00.mp4", out)
            edits = [_stream(settings, pipeline, clip, output, callback)]
        else:
            edits = list(_invert_and_sample(settings, pipeline, clip, output, control, callback))
        record = EditRecord(
            edits=tuple(edits),
            settings={
                "bundle": pipeline.bundle.folder.name,
                "caption": pipeline.manifest.prompt,
                "video": path.name,
                **settings.to_dict(),
                "num_frames": clip.num_frames,
                "engine": pipeline.engine,
            },
        )
        output.finish(["source", "control"])
        record.write(folder)
    return EditResult(folder=out, record=record)


def _invert_and_sample(
    settings: EditSettings,
    pipeline: Pipeline,
    clip: Clip,
    output: EditOutput,
    control: Control | None,
    callback: Callback | None,
) -> Iterator[tuple[str, str]]:
    """File and prompt of each edit as it is written; the source before, the reconstruction after them."""
    with _copied(clip, output, pipeline) as source:
        steered = control if settings.control is not None and settings.control.inversion else None
        inversion = pipeline.invert_with(source, settings.invert, control=steered, callback=callback)
    count = len(settings.prompts)
    for index, prompt in enumerate(settings.prompts):
        told = labelled(callback, Item(kind="prompt", index=index + 1, count=count))
        parts = pipeline.edit_with(prompt, inversion, settings.sample, control=control, callback=told)
        yield output.add(f"{index:02d}", parts, label=prompt), prompt
    if settings.reconstruct:
        told = labelled(callback, Item(kind="reconstruction", index=1, count=1))
        steps = settings.sample.num_inference_steps
        output.add("reconstruction", pipeline.reconstruct_frames(inversion, num_inference_steps=steps, callback=told))


def _stream(
    settings: EditSettings, pipeline: Pipeline, clip: Clip, output: EditOutput, callback: Callback | None
) -> tuple[str, str]:
    """File and prompt of an edit whose first frames come first."""
    (prompt,) = settings.prompts
    with _copied(clip, output, pipeline) as source:
        parts = pipeline.stream_with(prompt, source, settings.invert, settings.sample, callback=callback)
        return output.add("00", parts, label=prompt, growing=True), prompt


@contextmanager
def _copied(clip: Clip, output: EditOutput, pipeline: Pipeline) -> Iterator[CopiedClip]:
    """The clip, written as ``source`` while it is read."""
    with output.open("source") as video:
        source = CopiedClip(clip, video.write)
        yield source
        source.finish(pipeline.manifest.num_frames)


def _generate(
    request: GenerateRequest, pipeline: Pipeline, out: Path, *, overwrite: bool, callback: Callback | None
) -> EditResult:
    settings = GenerateSettings.of(request, pipeline.manifest, pipeline.schedule)
    _scale(pipeline, settings.adapter_scale)
    _log.info("generating on %s (%s)", pipeline.engine, pipeline.why)
    _tell_windows(pipeline, settings.num_frames)
    with new_folder(out, overwrite=overwrite) as folder:
        output = EditOutput(folder, settings.file_format, settings.fps, settings.num_frames)
        edits = []
        for index, prompt in enumerate(settings.prompts):
            told = labelled(callback, Item(kind="prompt", index=index + 1, count=len(settings.prompts)))
            parts = pipeline.generate_with(
                prompt, settings.sample, num_frames=settings.num_frames, seed=settings.seed, callback=told
            )
            edits.append((output.add(f"{index:02d}", parts, label=prompt), prompt))
        record = EditRecord(
            edits=tuple(edits),
            settings={
                "bundle": pipeline.bundle.folder.name,
                "caption": pipeline.manifest.prompt,
                **settings.to_dict(),
                "engine": pipeline.engine,
            },
        )
        output.finish()
        record.write(folder)
    return EditResult(folder=out, record=record)


def _tell_windows(pipeline: Pipeline, num_frames: int) -> None:
    """Log how a video of another length than the bundle's is made."""
    length = pipeline.manifest.num_frames
    if num_frames == length:
        return
    if pipeline.exact_long_video:
        count = -(-num_frames // length)
        _log.info("%s, %s of %d: as in one pass", _counted(num_frames, "frame"), _counted(count, "window"), length)
    else:
        _log.warning(
            "%d frames by overlapping windows of %d, which is approximate: %s",
            num_frames,
            length,
            pipeline.long_video_note,
        )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _scale(pipeline: Pipeline, adapter_scale: float) -> None:
    """Set how much of the tuning is used; weights are not made again where that is so already."""
    if pipeline.adapter_scale != adapter_scale:
        pipeline.adapter_scale = adapter_scale
