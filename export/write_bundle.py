"""From a tuned run to a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tav_sdk.bundle.graph_folder import file_entries
from tav_sdk.bundle.layout import FORMAT_VERSION
from tav_sdk.bundle.manifest import GraphEntry, Manifest, write_manifest
from tav_sdk.export.clip_bundle import provenance, told
from tav_sdk.export.graph_exporter import GraphExporter
from tav_sdk.export.options import ExportOptions
from tav_sdk.export.quality import QUALITY_TOLERANCES, check_edit_quality
from tav_sdk.files import new_folder
from tav_sdk.output_paths import check_new
from tav_sdk.progress import Callback
from tav_sdk.training.base.bundle_parts import base_entries, write_base_files
from tav_sdk.training.base.model import PretrainedBase
from tav_sdk.training.run_base import base_of_run
from tav_sdk.training.run_folder import Run, load_run


def export_bundle(
    run: Run | str | Path,
    out: str | Path,
    options: ExportOptions | None = None,
    *,
    base: str | Path | None = None,
    loras: Sequence[str | Path] | None = None,
    tokenizer: str | Path | None = None,
    allow_pickle: bool = False,
    overwrite: bool = False,
    callback: Callback | None = None,
) -> Path:
    """Export a tuned run: ONNX graphs, each compared with its model, tokenizer, schedule and manifest.

    One model is in memory at a time. A base that has its own CLIP, as Pocket has, is also asked whether edits in low
    precision are as good as those of the float32 model.

    Args:
        run: a finished run or its folder.
        out: the bundle's folder; appears when all is done.
        options: precision, control, windows and checks; see :class:`ExportOptions`, whose defaults are taken without.
        base: the base model, if it is no longer where the run was tuned.
        loras: its LoRAs, ``FILE:SCALE`` in the same order, if they are no longer where they were.
        tokenizer: its tokenizer's folder, if that is no longer where it was.
        allow_pickle: read a base's ``.bin`` weights where it has no ``.safetensors``, even if the run did not.
        overwrite: replace what is in ``out``.
        callback: called after each of the graphs, with the stage ``export``, after each step of int8's ``calibration``,
            and after each video whose ``quality`` is compared; ``False`` cancels.

    Returns:
        ``out``.

    Raises:
        CheckpointError: the run is unfinished or damaged.
        BaseModelError: the base is missing, or it or a LoRA is not the one that the run was tuned on.
        ParityError: a graph does not compute what its model does, or the precision is too coarse for it.
        QualityError: the bundle's edits are not as good as the float32 model's.
        OutputError: ``out`` is not empty, or cannot be written.
        CancelledError: the callback returned ``False``.
    """
    options = options or ExportOptions()
    check_new(out, overwrite=overwrite)
    run = run if isinstance(run, Run) else load_run(run)
    model = base_of_run(run, base, loras=loras, tokenizer=tokenizer, allow_pickle=allow_pickle)
    with new_folder(out, overwrite=overwrite) as folder:
        entries = GraphExporter(run, model, folder, options, callback).export()
        write_base_files(model, folder)
        manifest = _manifest(run, model, folder, options, entries)
        write_manifest(folder, manifest)
        if options.parity and options.quality and options.precision in QUALITY_TOLERANCES:
            found = check_edit_quality(folder, run, model, callback=callback)
            write_manifest(folder, manifest.model_copy(update={"quality": found}))
    return Path(out)


def _manifest(
    run: Run, base: PretrainedBase, folder: Path, options: ExportOptions, entries: dict[str, GraphEntry]
) -> Manifest:
    config = run.config
    return Manifest(
        format_version=FORMAT_VERSION,
        precision=options.precision,
        prompt=config.prompt,
        num_frames=config.num_frames,
        height=config.height,
        width=config.width,
        inflation=config.inflation.to_dict(),
        graphs=entries,
        files=file_entries(folder),
        provenance=provenance(run),
        **base_entries(base),
        **told(run),
    )
