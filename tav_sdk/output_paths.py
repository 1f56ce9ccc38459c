"""Where an output may be written: what is checked of a path before the work, and how the system's refusal is told."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tav_sdk.errors import InputError, OutputError, TavError
from tav_sdk.siblings import sweep


def check_new(out: str | Path, *, overwrite: bool) -> Path:
    """The path of an output folder that may be written; what dead commands left beside it is removed first.

    Raises:
        OutputError: it is a file or a mount point, holds files and ``overwrite`` is not set, or its name cannot be
            one: a zero byte, not UTF-8, too long, links in a circle.
    """
    out = _named(out, OutputError)
    sweep(out.absolute())
    status = _status(out)
    if status is None:
        return out
    if not stat.S_ISDIR(status.st_mode):
        raise OutputError(f"{out} is a file; give the path of a folder to write")
    if os.path.ismount(out):
        raise OutputError(f"{out} is a mount point, which cannot be replaced; give the path of a folder in it")
    try:
        filled = not overwrite and any(out.iterdir())
    except OSError as error:
        raise unwritable(out, error) from error
    if filled:
        raise OutputError(f"{out} is not empty; choose another folder, or set overwrite to replace what is in it")
    return out


def check_new_file(out: str | Path, *, overwrite: bool) -> Path:
    """The path of an output file that may be written.

    Raises:
        OutputError: it is a folder, is there already and ``overwrite`` is not set, or its name cannot be one, as for
            :func:`check_new`.
    """
    out = _named(out, OutputError)
    status = _status(out)
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise OutputError(f"{out} is a folder; expected the name of a file to write. Add a file name.")
    if status is not None and not overwrite:
        raise OutputError(f"{out} is there already; choose another file, or set overwrite to replace it")
    return out


def check_apart(out: str | Path, *inputs: str | Path) -> None:
    """Check that replacing the folder ``out`` would take none of a command's inputs with it.

    Raises:
        OutputError: one of them is ``out`` or lies in it, or the name ``out`` cannot be one.
        InputError: the name of an input cannot be one: a zero byte, not UTF-8, too long, links in a circle.
    """
    out = _named(out, OutputError)
    _status(out)  # a name that cannot be one
    try:
        folder = out.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        raise OutputError(f"{out} cannot be written: {reason_of(error)}; choose another folder") from error
    for path in (_named(path, InputError) for path in inputs):
        try:
            path.stat()
            inside = path.resolve().is_relative_to(folder)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # whoever reads it says so
        except (OSError, RuntimeError) as error:
            raise InputError(f"{path} cannot be read: {reason_of(error)}; check the path") from error
        if inside:
            raise OutputError(f"{path} is read, and writing {out} would replace it; choose another folder to write")


def _named(path: str | Path, error: type[TavError]) -> Path:
    """A path whose name any system can take and any terminal can show."""
    shown = os.fspath(path).encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    if shown != os.fspath(path):
        raise error(f"expected a path in UTF-8 without zero bytes, got '{shown}'; choose another name")
    return Path(path)


def _status(out: Path) -> os.stat_result | None:
    try:
        return out.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unwritable(out, error) from error


def unwritable(out: Path, error: OSError) -> OutputError:
    """The system's error while a file was written, in words."""
    return OutputError(
        f"{out} cannot be written: {reason_of(error)}. Check the folder, its permissions and free space."
    )


def reason_of(error: Exception) -> str:
    """What the system says of an error, or the error itself."""
    return getattr(error, "strerror", None) or str(error)
