"""Hidden folders beside an output, in which it is made, and what becomes of those whose command died.

    .NAME-xxxxxxxx/       a folder of this user's alone, beside NAME
        lock              locked while the command that made it runs; the system frees it when the process dies
        new, new.mp4      what is being made
        old-1, old-2      what lay under NAME and is to be replaced; named ``gone-1`` as soon as that is done

A folder whose lock is free is of a dead command: the next one that writes NAME removes it, and puts back what was
being replaced. A folder without a lock's file was not made here, or is kept on purpose.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tav_sdk.errors import OutputError

LOCK, OLD, GONE = "lock", "old", "gone"
TAKEN = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR})
"""Errors of a rename whose target is there."""

open_folders: set[Path] = set()
"""Temporary folders that this process has not removed yet."""

_RANDOM = re.compile(r"[a-z0-9_]{8}")  # as tempfile names its folders
_LONG_NAME = 200  # bytes; a name may have 255


class Sibling:
    """A temporary folder beside an output, locked.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor, self._spared = path, descriptor, False

    def spare(self) -> None:
        """Leave the folder where it is, now and when other commands sweep."""
        self._spared = True
        with contextlib.suppress(OSError):
            (self.path / LOCK).unlink()

    def close(self, out: Path) -> None:
        """Put back what was being replaced, and remove the folder."""
        try:
            if not self._spared:
                with contextlib.suppress(OSError):  # it stays then, with what is in it
                    put_back(self.path, out)
                    shutil.rmtree(self.path, ignore_errors=True)
        finally:
            os.close(self._descriptor)
        if os.name == "nt" and not self._spared:  # an open file, the lock's, cannot be removed there
            shutil.rmtree(self.path, ignore_errors=True)


@contextlib.contextmanager
def sibling(out: Path) -> Iterator[Sibling]:
    """A temporary folder beside ``out``, whose parent is there; removed at the end.

    Args:
        out: an absolute path.

    Raises:
        OSError: it cannot be made.
    """
    made = _locked_folder(out)
    open_folders.add(made.path)
    try:
        yield made
    finally:
        made.close(out)
        open_folders.discard(made.path)  # not if closing was interrupted


def sweep(out: Path) -> None:
    """Remove what dead commands of this user left beside ``out``; errors are passed over.

    Args:
        out: an absolute path.
    """
    prefix = _prefix(out)
    with contextlib.suppress(OSError):
        with os.scandir(out.parent) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(prefix)]
        for name in names:
            if _RANDOM.fullmatch(name[len(prefix) :]):
                with contextlib.suppress(OSError):
                    _sweep_one(out.parent / name, out)


def put_back(folder: Path, out: Path) -> None:
    """Put what was being replaced back under its name, or under a visible one if that is taken.

    Raises:
        OSError: it cannot be moved.
    """
    waiting = sorted(folder.glob(f"{OLD}-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if waiting:  # those before the newest were replaced by other commands, which were told to
        try:
            move(waiting[-1], out)
        except OSError as error:
            if error.errno not in TAKEN:
                raise
            keep(waiting[-1], out, "former")


def keep(path: Path, out: Path, what: str) -> Path:
    """Move something to the first free name beside ``out``, such as ``out-finished-1``; returns its new path.

    Raises:
        OSError: it cannot be moved.
    """
    for number in range(1, 10_000):
        kept = out.with_name(f"{out.name}-{what}-{number}")
        if not os.path.lexists(kept):
            try:
                move(path, kept)
                return kept
            except OSError as error:
                if error.errno not in TAKEN:
                    raise
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(out))


def move(path: Path, target: Path) -> None:
    """Rename a folder or a link to a name where nothing is, or an empty folder; nothing is lost at any moment.

    Raises:
        OSError: something is there (its ``errno`` is in :data:`TAKEN`), or it cannot be renamed.
    """
    if path.is_symlink():  # renaming one would replace a file
        os.symlink(os.readlink(path), target)
        path.unlink()
        return
    if os.name == "nt" and target.is_dir():  # there a rename refuses empty folders as well
        os.rmdir(target)
    os.rename(path, target)  # the system itself refuses a folder with files, and a file


def is_own(status: os.stat_result) -> bool:
    """Whether something belongs to the user of this process; Windows does not say."""
    return not hasattr(os, "getuid") or status.st_uid == os.getuid()


def try_lock(descriptor: int) -> bool:
    """Lock an open file for this process, unless another has it; closing the file frees it.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


def _prefix(out: Path) -> str:
    name = out.name
    if len(os.fsencode(name)) > _LONG_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return f".{name}-"


def _locked_folder(out: Path) -> Sibling:
    for _ in range(100):
        path = Path(tempfile.mkdtemp(prefix=_prefix(out), dir=out.parent))
        try:
            descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileNotFoundError:  # another command took it for a dead one's
            continue
        try:
            if try_lock(descriptor) and os.path.samestat(os.fstat(descriptor), os.stat(path / LOCK)):
                return Sibling(path, descriptor)
        except FileNotFoundError:
            pass
        except OSError:  # no locks here: nobody can tell whether this command lives, so nobody sweeps the folder
            with contextlib.suppress(OSError):
                (path / LOCK).unlink()
            return Sibling(path, descriptor)
        os.close(descriptor)
    raise OutputError(f"no temporary folder can be made beside {out}: other commands remove it; try again")


def _sweep_one(path: Path, out: Path) -> None:
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or not is_own(status):
        return
    try:
        descriptor = os.open(path / LOCK, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        os.rmdir(path)  # of a command that died before it made the lock; refused if anything is in it
        return
    dead = False
    try:
        dead = try_lock(descriptor)
    finally:
        if not dead:
            os.close(descriptor)
    if dead:
        Sibling(path, descriptor).close(out)
