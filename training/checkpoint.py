"""Writing a run's files, and tuned weights into a model and out of it; :mod:`run_folder` reads a run."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tav_sdk.bundle.tuned_weights import is_in_base
from tav_sdk.errors import CheckpointError, OutputError
from tav_sdk.files import new_file, write_text
from tav_sdk.training.base.mismatches import listed
from tav_sdk.training.run_folder import RECORD
from tav_sdk.training.tensor_file import read_header
from tav_sdk.training.unet.inflation import trainable_parameters

ADVICE = "tune again"


def save_tuned_weights(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the tuned weights of a model as float32, sorted by name, whole or not at all."""
    tensors = {name: p.detach().float() for name, p in sorted(trainable_parameters(model).items())}
    save_tensors(tensors, path, metadata)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with new_file(path) as temporary:
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            save_file(contiguous, temporary, metadata=dict(metadata or {}))
            temporary.chmod(mode)  # safetensors writes for the owner alone
        except SafetensorError as error:  # a full disk is no OSError there
            raise OutputError(f"cannot write {path}: {error}") from error


def load_tuned_weights(model: nn.Module, path: Path) -> None:
    """Put tuned weights into an inflated model, strictly.

    Raises:
        CheckpointError: the file is damaged, or its tensors are not finite, or not exactly the model's tuned weights.
    """
    parameters = trainable_parameters(model)
    header = read_header(path, error=CheckpointError, advice=ADVICE, dtypes=("F32",))
    check_shapes(header.shapes, {name: tuple(p.shape) for name, p in parameters.items()}, str(path))
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; {ADVICE}") from error
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise CheckpointError(
                f"{name} in {path} has NaN or infinity in it; tune again, with a lower learning rate or another "
                "mixed_precision"
            )
    copy_strictly(tensors, parameters, str(path))


def copy_strictly(tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], where: str) -> None:
    """Copy ``tensors`` into ``parameters`` if names and shapes are the same.

    Raises:
        CheckpointError: they are not; names the first ten differences. Nothing is copied then.
    """
    check_shapes(
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        {name: tuple(parameter.shape) for name, parameter in parameters.items()},
        where,
    )
    for name, parameter in parameters.items():
        parameter.data.copy_(tensors[name])


def check_shapes(got: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Compare names and shapes.

    Raises:
        CheckpointError: they are not the same; names the first ten differences.
    """
    problems = [f"missing {name}" for name in expected if name not in got]
    problems += [f"unexpected {name}" for name in got if name not in expected]
    problems += [
        f"{name}: expected {expected[name]}, got {shape}"
        for name, shape in got.items()
        if name in expected and expected[name] != shape
    ]
    if problems:
        raise CheckpointError(
            f"{where} does not fit the model ({len(problems)} differences):{listed(problems).rstrip()}"
        )


def tuned_names(path: Path) -> list[str]:
    """Names of the tensors in a file of tuned weights, without reading them."""
    return sorted(read_header(path, error=CheckpointError, advice=ADVICE).shapes)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``run.json``."""
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Versions of this package and of what tunes, for the record."""
    names = ("tav-sdk", "torch", "diffusers", "transformers")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def untuned_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of what an inflated model, not yet tuned, has from the base in the place of the tuned weights."""
    return {name: p.detach().clone() for name, p in trainable_parameters(model).items() if is_in_base(name)}
