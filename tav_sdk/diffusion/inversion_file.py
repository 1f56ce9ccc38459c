"""An inversion as one file: its arrays as safetensors, and what it was made with as JSON in the file's metadata."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tav_sdk.diffusion.schedule import MAX_TIMESTEPS
from tav_sdk.errors import InputError, OutputError
from tav_sdk.words import is_utf8

FORMAT_VERSION = 1
SUFFIX = ".safetensors"
MAX_BYTES = 1 << 34
"""Largest file that is read."""
MAX_PROMPT = 100_000
"""Longest prompt, in characters."""
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

    if not isinstance(path, str | os.PathLike):
        raise InputError(f"must be a file that Inversion.save wrote, got {type(path).__name__}", field="path")
    path = Path(path)
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):
        raise InputError(f"must be a file that Inversion.save wrote; there is no file {path}", field="path")
    if status.st_size > MAX_BYTES:
        raise InputError(f"has {status.st_size} bytes, at most {MAX_BYTES} are read, in {path}", field="path")
    try:
        with safe_open(path, framework="np") as file:
            facts = _checked_facts(path, json.loads((file.metadata() or {})[_KEY]))
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
            found = {name: (_dtype(part), tuple(part.get_shape())) for name, part in slices.items()}
            _check_shapes(path, facts, found)
            arrays = {name: file.get_tensor(name) for name in slices}
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"must be a file that Inversion.save wrote, got {path}: {error!r}", field="path") from error
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise InputError(f"must hold finite float32 {name}, got NaN or infinity in {path}", field="path")
    return {**arrays, **facts}


def _checked_facts(path: Path, facts: Any) -> dict[str, Any]:
    version = facts.get("format_version") if isinstance(facts, dict) else None
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise InputError(
            f"must be of format {FORMAT_VERSION}, got {ascii(version)[:60]} in {path}; invert the clip again",
            field="path",
        )
    for name, kinds in _FACTS.items():
        if isinstance(facts.get(name), bool) or not isinstance(facts.get(name, ...), kinds):
            raise InputError(f"has no usable {name} in {path}; invert the clip again", field="path")
    start = facts["start_timestep"]
    if (
        facts["correction"] not in ("none", "negative-prompt", "direct")
        or not 0 < facts["fps"] <= 1e6  # not NaN either
        or not 1 <= facts["num_inversion_steps"] <= MAX_TIMESTEPS
        or not (start is None or 0 <= start < MAX_TIMESTEPS)
        or not _is_prompt(facts["prompt"])
    ):
        raise InputError(
            f"has a correction, a prompt, a frame rate or a number of steps out of range in {path}; invert the clip "
            "again",
            field="path",
        )
    return {name: facts[name] for name in _FACTS}


def _is_prompt(text: str) -> bool:
    """Whether a text is short enough, and can be written as UTF-8."""
    return len(text) <= MAX_PROMPT and is_utf8(text)


def _dtype(part: Any) -> str:
    """numpy's name of a type, or safetensors' own."""
    name = str(part.get_dtype())
    return "float32" if name == "F32" else name


def _check_shapes(path: Path, facts: Mapping[str, Any], found: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Check what the file says of its arrays, before they are read."""
    wanted = {"latents": 5, "source_latents": 5, **({"offsets": 6} if facts["correction"] == "direct" else {})}
    if found.keys() != wanted.keys():
        got = ", ".join(found)[:200] or "nothing"
        raise InputError(f"must hold {', '.join(wanted)}, got {got} in {path}", field="path")
    shape = found["latents"][1]
    for name, axes in wanted.items():
        dtype, got = found[name]
        if dtype != "float32" or len(got) != axes or got[-5:] != shape or 0 in got:
            raise InputError(
                f"must hold finite float32 {name} with {axes} axes, got {dtype}{list(got)} in {path}", field="path"
            )
