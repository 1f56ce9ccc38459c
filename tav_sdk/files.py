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
        raise OutputError(f"{out} is not empty; choose another folder, or set overwrite to replace what is in it")
    return out


def check_new_file(out: str | Path, *, overwrite: bool) -> Path:
    """The path of an output file that may be written.

    Raises:
        OutputError: it is a folder, or there already and ``overwrite`` is not set.
    """
    out = Path(out)
    if out.is_dir():
        raise OutputError(f"{out} is a folder; expected the name of a file to write. Add a file name.")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} is there already; choose another file, or set overwrite to replace it")
    return out


def check_apart(out: str | Path, *inputs: str | Path) -> None:
    """Check that replacing the folder ``out`` would take none of a command's inputs with it.

    Raises:
        OutputError: one of them is ``out`` or lies in it.
    """
    folder = Path(out).resolve()
    for path in inputs:
        if Path(path).exists() and Path(path).resolve().is_relative_to(folder):
            raise OutputError(f"{path} is read, and writing {out} would replace it; choose another folder to write")


@contextlib.contextmanager
def new_folder(out: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder that appears under its name only when the ``with`` block ends well.

    The block writes into a temporary folder beside ``out``, which is renamed at the end and removed after any
    failure, an interrupt included; so are parents that were made for it. What was in ``out`` stays until then.

    Raises:
        OutputError: ``out`` may not be written (see :func:`check_new`), or cannot be.
    """
    out = check_new(out, overwrite=overwrite)
    with _beside(out) as temporary:
        new = temporary / "new"
        with _write_errors(out, temporary):
            new.mkdir()
        with _write_errors(out, temporary):
            yield new
        with _write_errors(out, temporary):
            put_in_place(new, out)


def put_in_place(new: Path, out: Path) -> None:
    """Rename a finished folder to ``out``; what was there is kept until that is done, and removed then."""
    if not out.exists():
        os.replace(new, out)
        return
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.absolute().parent) as aside:
        old = Path(aside) / out.name
        os.replace(out, old)
        try:
            os.replace(new, out)
        except BaseException:
            os.replace(old, out)
            raise


@contextlib.contextmanager
def new_file(out: str | Path) -> Iterator[Path]:
    """A file that appears under its name only when the ``with`` block ends well; an existing one is replaced then.

    The block writes a temporary file beside ``out``, with its suffix, which is renamed at the end and removed after
    any failure, an interrupt included; so are parents that were made for it.

    Raises:
        OutputError: ``out`` is a folder, or cannot be written (permission, disk full). An OSError of the block that
            names another file passes.
    """
    out = Path(out)
    temporary = out.parent / f".{uuid.uuid4().hex}{out.suffix}"
    with contextlib.ExitStack() as stack:
        try:
            if out.is_dir():
                raise OutputError(f"{out} is a folder; expected the name of a file to write. Add a file name.")
            stack.enter_context(_parents(out))
        except OSError as error:
            raise unwritable(out, error) from error
        try:
            yield temporary
            os.replace(temporary, out)
        except OSError as error:
            elsewhere = error.filename is not None and str(error.filename) != str(temporary)
            if elsewhere or isinstance(error, (TavError, BrokenPipeError)):
                raise
            raise unwritable(out, error) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_text(out: str | Path, text: str) -> None:
    """Write a text file whole or not at all, in UTF-8."""
    with new_file(out) as path:
        path.write_text(text, encoding="utf-8")


def unwritable(out: Path, error: OSError) -> OutputError:
    """The system's error while a file was written, in words."""
    reason = error.strerror or str(error)
    return OutputError(f"{out} cannot be written: {reason}. Check the folder, its permissions and free space.")


@contextlib.contextmanager
def _parents(out: Path) -> Iterator[None]:
    """The parents of ``out`` made; at the end, those that were made for it go again if empty."""
    made = [parent for parent in out.absolute().parents if not parent.exists()]  # the deepest first
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for parent in made:
            with contextlib.suppress(OSError):  # not empty, or never made
                parent.rmdir()


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A hidden temporary folder beside ``out``; removed at the end, with parents that were made for it if empty."""
    out = out.absolute()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_parents(out))
            temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        except OSError as error:
            raise OutputError(f"cannot write into {out.parent}: {error.strerror or error}") from error
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _write_errors(out: Path, temporary: Path) -> Iterator[None]:
    """The system's errors while writing ``out``, such as a full disk, as ``OutputError``; others pass."""
    try:
        yield
    except TavError:
        raise
    except OSError as error:
        elsewhere = error.filename is not None and not str(error.filename).startswith((str(out), str(temporary)))
        if error.errno is None or elsewhere or isinstance(error, BrokenPipeError):
            raise
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from error
