"""A second clip's bundle on the base and the graphs of a first one: its weights alone are written. Without PyTorch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from tav_sdk.bundle.bundle import Bundle, only_differing
from tav_sdk.bundle.layout import FORMAT_VERSION, REFERENCES, TUNED_FILE, UNET, WINDOWED_UNET
from tav_sdk.bundle.manifest import BaseEntry, ClipEntry, FileEntry, StoredTensor, write_manifest
from tav_sdk.errors import BundleError, CheckpointError
from tav_sdk.files import new_folder, sha256_of
from tav_sdk.output_paths import check_new
from tav_sdk.training.run_folder import Run, load_run
from tav_sdk.training.tensor_file import read_header
from tav_sdk.words import logger as named_logger

logger = named_logger(__name__)

PATHS = ("base", "video", "out", "loras", "tokenizer")
"""Settings of a run that are paths of the machine where it was tuned."""


def export_clip(run: Run | str | Path, out: str | Path, *, bundle: str | Path, overwrite: bool = False) -> Path:
    """Export a tuned run onto the graphs of a bundle on the same base, with the same options and size.

    Nothing is traced. Every file but the tuned weights is a hard link to the first bundle's, or a copy where the file
    system has none; neither bundle needs the other afterwards.

    Args:
        run: a finished run or its folder.
        out: the bundle's folder; appears when all is done.
        bundle: the first bundle; its files' sizes are compared with its manifest, not their hashes.
        overwrite: replace what is in ``out``.

    Returns:
        ``out``.

    Raises:
        CheckpointError: the run is unfinished or damaged, or its tensors are not those of the bundle's U-Net.
        BundleError: the bundle is damaged, or has another base, size or inflation than the run.
        OutputError: ``out`` is not empty, or cannot be written.
    """
    check_new(out, overwrite=overwrite)
    run = run if isinstance(run, Run) else load_run(run)
    first = Bundle(bundle, verify=False)
    _check_fits(run, first)
    graph = first.manifest.graphs[UNET]
    tuned = (PurePosixPath(graph.file).parent / TUNED_FILE).as_posix()
    # The U-Nets' references are results of the first clip's weights.
    own = (tuned, *(f"{REFERENCES}/{name}.npz" for name in (UNET, WINDOWED_UNET)))
    shared = {path: entry for path, entry in first.manifest.files.items() if path not in own}
    with new_folder(out, overwrite=overwrite) as folder:
        for path in shared:
            _link(first.path(path), folder / path)
        _write_weights(run, graph.tuned, folder / tuned)
        entry = FileEntry(size=(folder / tuned).stat().st_size, sha256=sha256_of(folder / tuned))
        manifest = first.manifest.model_copy(
            update={
                "prompt": run.config.prompt,
                "files": {**shared, tuned: entry},
                "provenance": provenance(run) | {"graphs_of": first.manifest.tuned_sha256},
                "format_version": FORMAT_VERSION,
                **told(run),
            }
        )
        write_manifest(folder, manifest)
    return Path(out)


def provenance(run: Run) -> dict[str, Any]:
    """What a manifest says of the run that it was exported from."""
    record = run.record
    config = {key: value for key, value in record["config"].items() if key not in PATHS}
    return {
        "base": record["base"],
        "clip": record["clip"],
        "tuning": config,
        "versions": record["versions"],
    }


def told(run: Run) -> dict[str, Any]:
    """What a manifest says, typed, of the run that it was exported from; see :class:`~.manifest.Manifest`."""
    record, config = run.record, run.config
    return {
        "base": BaseEntry(name=record["base"]["name"], sha256=record["base"]["sha256"]),
        "clip": ClipEntry(fps=record["clip"]["fps"], start=config.start, stride=config.stride),
        "tuned_sha256": record["tuned_sha256"],
    }


def _check_fits(run: Run, first: Bundle) -> None:
    manifest, config = first.manifest, run.config
    if not manifest.graphs[UNET].tuned:
        raise BundleError(
            f"the bundle {first.folder} is of format 1, which no clip can be exported onto; export its run again"
        )
    differences = {
        "base model (sha256)": (run.record["base"]["sha256"], manifest.base.sha256),
        "number of frames": (config.num_frames, manifest.num_frames),
        "height": (config.height, manifest.height),
        "width": (config.width, manifest.width),
        "inflation": (config.inflation.to_dict(), manifest.inflation),
    }
    for what, (got, expected) in differences.items():
        if got != expected:
            if isinstance(got, dict):
                got, expected = only_differing(got, expected)
            raise BundleError(
                f"the run {run.folder} does not fit the bundle {first.folder}: its {what} is {got}, expected "
                f"{expected}; export it with graphs of its own"
            )


def _write_weights(run: Run, tensors: tuple[StoredTensor, ...], path: Path) -> None:
    """Write the run's tensors at the places that the graph reads them from."""
    header = read_header(run.tuned_path, error=CheckpointError, advice="tune again", dtypes=("F32",))
    _check_names(header.shapes, tensors, run)
    try:
        with safe_open(run.tuned_path, framework="np") as tuned, open(path, "wb") as file:
            for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
                file.seek(tensor.offset)
                array = _converted(tuned.get_tensor(tensor.name), tensor.dtype)
                if not np.isfinite(array).all():
                    raise CheckpointError(
                        f"{tensor.name} in {run.tuned_path} has NaN or infinity in it as {tensor.dtype}; tune again "
                        "with a lower learning rate, or export to a bundle of higher precision"
                    )
                file.write(array.tobytes())
    except SafetensorError as error:
        raise CheckpointError(f"{run.tuned_path} cannot be read: {error}; tune again") from error


def _check_names(tuned: Mapping[str, tuple[int, ...]], tensors: tuple[StoredTensor, ...], run: Run) -> None:
    expected = {tensor.name: tensor.shape for tensor in tensors}
    problems = [f"missing {name}" for name in expected if name not in tuned]
    problems += [f"unexpected {name}" for name in tuned if name not in expected]
    problems += [
        f"{name}: expected {expected[name]}, got {shape}"
        for name, shape in tuned.items()
        if name in expected and expected[name] != shape
    ]
    if problems:
        raise CheckpointError(
            f"{run.tuned_path} does not fit the bundle's U-Net ({len(problems)} differences): "
            f"{'; '.join(problems[:10])}; export it with graphs of its own"
        )


def _converted(array: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        import ml_dtypes

        return array.astype(ml_dtypes.bfloat16)
    with np.errstate(over="ignore"):  # infinity is looked for
        return array.astype(dtype)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        logger.info("copying %s: it cannot be linked", source.name)
        shutil.copyfile(source, target)
