"""An inversion as one file: its arrays as safetensors, and what it was made with as JSON in the file's metadata."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tav_sdk.errors import InputError, OutputError

FORMAT_VERSION = 1
SUFFIX = ".safetensors"
_KEY = "inversion"
_FACTS: dict[str, tuple[type, ...]] = {
    "fps": (int, float),
    "prompt": (str,),
    "num_inversion_steps": (int,),
    "correction": (str,),
    "start_timestep": (int, type(None)),
}


def save_inversion(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Path:
    """Write an inversion; the file appears under its name only when it is complete.

    Args:
        path: a name that ends in ``.safetensors``; an existing file is replaced.
        arrays: ``latents``, ``source_latents`` and, with the correction ``direct``, ``offsets``.
        facts: the inversion's other attributes.

    Raises:
        InputError: another suffix.
        OutputError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path = Path(path)
    if path.suffix.lower() != SUFFIX:
        raise InputError(f"must end in {SUFFIX}, got {path}", field="path")
    told = {"format_version": FORMAT_VERSION, **{name: facts[name] for name in _FACTS}}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        contiguous = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
        save_file(contiguous, temporary, metadata={_KEY: json.dumps(told)})
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} cannot be written: {error}; check the folder and the room on its disk") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load_inversion(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The attributes of an inversion that :func:`save_inversion` wrote. Nothing in the file is executed or unpickled.

    Raises:
        InputError: there is no such file, or it holds no inversion of this format.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InputError(f"must be a file that Inversion.save wrote; there is no file {path}", field="path")
    try:
        with safe_open(path, framework="np") as file:
            facts = json.loads((file.metadata() or {})[_KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise InputError(f"must be a file that Inversion.save wrote, got {path}: {error!r}", field="path") from error
    return _checked(path, facts, arrays)


def _checked(path: Path, facts: Any, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    version = facts.get("format_version") if isinstance(facts, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(
            f"must be of format {FORMAT_VERSION}, got {version!r} in {path}; invert the clip again", field="path"
        )
    for name, kinds in _FACTS.items():
        if isinstance(facts.get(name), bool) or not isinstance(facts.get(name, ...), kinds):
            raise InputError(f"has no usable {name} in {path}; invert the clip again", field="path")
    if facts["correction"] not in ("none", "negative-prompt", "direct") or not math.isfinite(facts["fps"]):
        raise InputError(
            f"has a correction or a frame rate out of range in {path}; invert the clip again", field="path"
        )
    wanted = {"latents": 5, "source_latents": 5, **({"offsets": 6} if facts["correction"] == "direct" else {})}
    if arrays.keys() != wanted.keys():
        raise InputError(f"must hold {', '.join(wanted)}, got {', '.join(arrays) or 'nothing'} in {path}", field="path")
    shape = arrays["latents"].shape
    for name, axes in wanted.items():
        array = arrays[name]
        if array.dtype != np.float32 or array.ndim != axes or array.shape[-5:] != shape or not np.isfinite(array).all():
            raise InputError(
                f"must hold finite float32 {name} with {axes} axes, got {array.dtype}{list(array.shape)} in {path}",
                field="path",
            )
    return {**arrays, **{name: facts[name] for name in _FACTS}}
