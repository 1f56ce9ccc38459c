"""The header of a ``.safetensors`` file, read within bounds before any of its tensors. Without PyTorch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tav_sdk.errors import MissingExtraError, TavError
from tav_sdk.words import brief

MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS, MAX_DIMENSIONS, MAX_SIDE = 100_000, 8, 2**31 - 1
"""Most tensors of a file, most dimensions of a tensor, and most numbers along one of them."""


@dataclass(frozen=True, kw_only=True)
class TensorFile:
    """What a header says; the library has compared it with the file's size.

    Attributes:
        shapes: by the tensor's name; a side may be 0, a scalar has none.
        dtypes: likewise, in the format's words, as ``F32``.
        metadata: texts by name.
    """

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    metadata: dict[str, str]


def read_header(
    path: Path,
    *,
    error: type[TavError],
    advice: str,
    what: str | None = None,
    dtypes: Collection[str] | None = None,
    feature: str = "reading weights",
) -> TensorFile:
    """Read a header; no tensor is allocated.

    Args:
        path: the file.
        error: what is raised.
        advice: what to do about it; ends the message, without a full stop.
        what: names the file in messages; by default its path.
        dtypes: those that the tensors may have; by default any.
        feature: what needs the library, if it is not installed.

    Raises:
        TavError: of the class ``error``: it is no regular file, no ``.safetensors``, or beyond the bounds above.
        MissingExtraError: safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as problem:
        raise MissingExtraError(feature, "training", "safetensors") from problem
    what = what or str(path)
    if not path.is_file():
        raise error(f"{what} is not a regular file; {advice}")
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER_BYTES, path.stat().st_size):
            raise error(
                f"{what} cannot be read as .safetensors: its header has {length} bytes, expected at most "
                f"{MAX_HEADER_BYTES} and no more than the file; {advice}"
            )
        with safe_open(path, framework="np") as opened:
            names = list(opened.keys())
            if len(names) > MAX_TENSORS:
                raise error(f"{what} has {len(names)} tensors, expected at most {MAX_TENSORS}; {advice}")
            slices = {name: opened.get_slice(name) for name in names}
            found = TensorFile(
                shapes={name: tuple(one.get_shape()) for name, one in slices.items()},
                dtypes={name: str(one.get_dtype()) for name, one in slices.items()},
                metadata=dict(opened.metadata() or {}),
            )
    except (OSError, SafetensorError, ValueError, OverflowError) as problem:
        if isinstance(problem, TavError):
            raise
        raise error(f"{what} cannot be read as .safetensors: {problem}; {advice}") from problem
    for name, shape in found.shapes.items():
        if len(shape) > MAX_DIMENSIONS or any(side > MAX_SIDE for side in shape):
            raise error(f"{brief(name)} in {what} has the shape {brief(shape)}, which no model has; {advice}")
        if dtypes is not None and found.dtypes[name] not in dtypes:
            expected = " or ".join(dtypes)
            raise error(f"{brief(name)} in {what} is of {found.dtypes[name]}, expected {expected}; {advice}")
    return found
