"""Writing that is whole or not at all, and hashes of what is on disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from tav_sdk.errors import OutputError, TavError


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def check_new(out: str | Path, *, overwrite: bool) -> Path:
    """The path of an output folder that may be written.

    Raises:
        OutputError: it is a file, or holds files and ``overwrite`` is not set.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; give the path of a folder to write")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise OutputError(f"{out} is not empty; choose another folder, or replace it with --overwrite (overwrite=True)")
    return out


@contextlib.contextmanager
def new_folder(out: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder that appears under its name only when the ``with`` block ends well.

    The block writes into a temporary folder beside ``out``, which is renamed at the end and removed after any
    failure, an interrupt included.

    Raises:
        OutputError: ``out`` is a file, holds files and ``overwrite`` is not set, or cannot be written.
    """
    out = check_new(out, overwrite=overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise OutputError(f"cannot write into {out.parent}: {error.strerror or error}") from error
    try:
        temporary.chmod(0o777 & ~_umask())
        try:
            yield temporary
        except OSError as error:
            if error.errno is None or _inside(error.filename, temporary) is False:
                raise
            raise OutputError(f"cannot write {out}: {error.strerror or error}") from error
        if out.exists():
            shutil.rmtree(out)
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def new_file(out: str | Path) -> Iterator[Path]:
    """A file that appears under its name only when the ``with`` block ends well; an existing one is replaced then.

    The block writes a temporary file beside ``out``, with its suffix, which is renamed at the end and removed after
    any failure, an interrupt included. The parent folder is made if need be.

    Raises:
        OutputError: ``out`` is a folder, or cannot be written (permission, disk full). An error of the block's own
            passes, and so does an OSError that names another file.
    """
    out = Path(out)
    temporary = out.parent / f".{uuid.uuid4().hex}{out.suffix}"
    try:
        if out.is_dir():
            raise OutputError(f"{out} is a folder; expected the name of a file to write. Add a file name.")
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(out, error) from error
    try:
        yield temporary
        os.replace(temporary, out)
    except OSError as error:
        if isinstance(error, TavError) or _inside(error.filename, temporary) is False:
            raise
        raise _unwritable(out, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(out: str | Path, text: str) -> None:
    """Write a text file whole or not at all, in UTF-8."""
    with new_file(out) as path:
        path.write_text(text, encoding="utf-8")


def _unwritable(out: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"{out} cannot be written: {reason}. Check the folder, its permissions and free space.")


def _inside(filename: object, folder: Path) -> bool | None:
    """Whether an error names a file in ``folder``; None if it names no file."""
    return None if filename is None else str(filename).startswith(str(folder))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
