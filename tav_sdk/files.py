"""Writing that is whole or not at all, and hashes of what is on disk.

Outputs are made in hidden folders beside them, see :mod:`tav_sdk.siblings`, and renamed when they are complete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from tav_sdk.errors import OutputError, TavError
from tav_sdk.output_paths import check_new, check_new_file, reason_of, unwritable
from tav_sdk.siblings import GONE, OLD, TAKEN, Sibling, keep, move, open_folders, sibling, sweep

_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG, errno.EROFS})
"""Errors that only writing has, whatever file they name."""

_renames: deque[tuple[Path, tuple[int, int]]] = deque(maxlen=64)
"""Outputs and what is to lie there, noted before the rename, so that none is missed by an interrupt after it."""


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def written() -> list[Path]:
    """The outputs that this process wrote since :func:`forget_written`, as far as they are there; 64 at most."""
    return list(dict.fromkeys(path for path, identity in tuple(_renames) if _lies_at(path, identity)))


def forget_written() -> None:
    """Let :func:`written` begin anew, as for another command."""
    _renames.clear()


# --- folders ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def new_folder(out: str | Path, *, overwrite: bool = False, told: bool = True, checked: bool = False) -> Iterator[Path]:
    """A folder that appears under its name only when the ``with`` block ends well.

    The block writes into a temporary folder beside ``out``, which is renamed at the end and removed after any
    failure, an interrupt included; so are parents that were made for it. What was in ``out`` stays until then.

    Without ``overwrite`` nothing that reached ``out`` in the meantime is touched: the finished folder is then kept
    beside it, as ``out-finished-1``, and the error says so. With ``overwrite`` whatever folder is there at the end is
    replaced, others' writing in the meantime included: of two commands at a time the later one's stays.

    Args:
        out: the folder.
        overwrite: whether a folder that is there may be replaced.
        told: whether :func:`written` names it.
        checked: whether :func:`check_new` was called before work that is done already; what reached ``out`` since
            then is met at the end.

    Raises:
        OutputError: ``out`` may not be written (see :func:`check_new`), or cannot be. Its ``kept`` says where the
            finished folder lies if all but the last rename was done.
    """
    out = Path(out) if checked else check_new(out, overwrite=overwrite)
    with _beside(out) as aside:
        new = aside.path / "new"
        with _write_errors(out, aside.path):
            new.mkdir()
        with _write_errors(out, aside.path), _same_folder(new, out):
            yield new
        _put_in_place(new, out, aside, overwrite=overwrite, told=told)


def _put_in_place(new: Path, out: Path, aside: Sibling, *, overwrite: bool, told: bool) -> None:
    """Rename a finished folder to ``out``, or keep it beside that."""
    place, identity = out.absolute(), _identity(os.lstat(new))
    if told:
        _note(place, identity)
    placed = False
    try:
        _replace(new, place, aside.path) if overwrite else _fill(new, place, aside.path)
        placed = True  # another command may have replaced it already
    except OSError as error:
        kept = _kept(new, place, aside)
        why = "is not empty any more" if error.errno in TAKEN else f"cannot be written: {reason_of(error)}"
        problem = OutputError(f"{out} {why}. The finished work is kept in {kept}; move it to where you want it.")
        problem.kept = kept
        raise problem from error
    finally:  # after an interrupt as well
        if placed or _lies_at(place, identity):
            for number, old in enumerate(aside.path.glob(f"{OLD}-*")):
                with contextlib.suppress(OSError):
                    os.rename(old, aside.path / f"{GONE}-{number}")


def _fill(new: Path, out: Path, aside: Path) -> None:
    """Rename to a name where nothing is, an empty folder, or a link to one; the system refuses a folder with files."""
    if out.is_symlink():
        if out.is_file() or (out.is_dir() and any(out.iterdir())):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(out))
        former = aside / f"{OLD}-1"
        os.rename(out, former)
        if not former.is_symlink():  # a folder came there in between
            move(former, out)
    move(new, out)


def _replace(new: Path, out: Path, aside: Path) -> None:
    for number in range(1, 1000):  # others may write there at the same time
        with contextlib.suppress(FileNotFoundError):
            if not (out.is_symlink() or stat.S_ISDIR(out.lstat().st_mode)):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(out))
            os.rename(out, aside / f"{OLD}-{number}")
        try:
            move(new, out)
            return
        except OSError as error:
            if error.errno not in TAKEN:
                raise
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(out))


def _kept(new: Path, out: Path, aside: Sibling) -> Path:
    """Where a finished folder is kept: under a visible name, or where it is if no name can be made."""
    try:
        return keep(new, out, "finished")
    except OSError:
        aside.spare()
        return new


@contextlib.contextmanager
def _same_folder(new: Path, out: Path) -> Iterator[None]:
    """Check at the end that a folder is still the one that was made; one that was removed may have been made again."""
    if os.name == "nt":  # a folder in use is not removed there
        yield
        return
    descriptor = os.open(new, os.O_RDONLY)
    try:
        yield
        try:
            same = os.path.samestat(os.fstat(descriptor), os.stat(new))
        except FileNotFoundError:
            same = False
        if not same:
            raise OutputError(
                f"{out} cannot be written: {new}, in which it was made, was removed in the meantime. Choose a folder "
                "that stays."
            )
    finally:
        os.close(descriptor)


# --- files --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def new_file(out: str | Path, *, parents: bool = True, told: bool = True) -> Iterator[Path]:
    """A file that appears under its name only when the ``with`` block ends well; an existing one is replaced then.

    The block writes a temporary file, with its suffix, in a hidden folder beside ``out``; it is renamed at the end and
    removed after any failure, an interrupt included; so are parents that were made for it.

    Args:
        out: the file.
        parents: whether folders that are missing are made.
        told: whether :func:`written` names it.

    Raises:
        OutputError: ``out`` is a folder, or cannot be written (permission, disk full, no such folder, a name that
            cannot be one). An OSError of the block that names another file passes.
    """
    out = check_new_file(out, overwrite=True)
    with contextlib.ExitStack() as stack:
        try:
            if parents:
                stack.enter_context(_parents(out))
            sweep(out.absolute())
            aside = stack.enter_context(sibling(out.absolute()))
        except OSError as error:
            raise unwritable(out, error) from error
        temporary = aside.path / f"new{out.suffix}"
        try:
            yield temporary
            if told:
                _note(out.absolute(), _identity(os.lstat(temporary)))
            os.replace(temporary, out)
        except OSError as error:
            elsewhere = error.filename is not None and str(error.filename) != str(temporary)
            if isinstance(error, (TavError, BrokenPipeError)) or (elsewhere and error.errno not in _FULL):
                raise
            raise unwritable(out, error) from error


def write_text(out: str | Path, text: str, *, parents: bool = True) -> None:
    """Write a text file whole or not at all, in UTF-8; see :func:`new_file`."""
    with new_file(out, parents=parents) as path:
        path.write_text(text, encoding="utf-8")


# --- parts --------------------------------------------------------------------------------------------------------


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
def _beside(out: Path) -> Iterator[Sibling]:
    """A hidden temporary folder beside ``out``; removed at the end, with parents that were made for it if empty."""
    out = out.absolute()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_parents(out))
            aside = stack.enter_context(sibling(out))
        except OSError as error:
            raise OutputError(f"cannot write into {out.parent}: {reason_of(error)}") from error
        yield aside


@contextlib.contextmanager
def _write_errors(out: Path, temporary: Path) -> Iterator[None]:
    """The system's errors while writing ``out``, such as a full disk, as ``OutputError``; others pass."""
    try:
        yield
    except TavError:
        raise
    except OSError as error:
        # Copying a file onto a full disk names the file that was read first.
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        here = not names or error.errno in _FULL or any(name.startswith((str(out), str(temporary))) for name in names)
        if error.errno is None or not here or isinstance(error, BrokenPipeError):
            raise
        raise OutputError(f"cannot write {out}: {reason_of(error)}") from error


def _note(out: Path, identity: tuple[int, int]) -> None:
    """Note an output that is about to appear, unless it is a part of another one."""
    if open_folders.isdisjoint(out.parents):
        _renames.append((out, identity))


def _lies_at(path: Path, identity: tuple[int, int]) -> bool:
    try:
        return _identity(path.lstat()) == identity
    except OSError:
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
