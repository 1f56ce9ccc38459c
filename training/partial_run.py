"""The hidden folder of an unfinished run: who may continue it, and how it becomes a finished one.

Beside what a finished run has (see :mod:`.run_folder`) it holds ``started.json``, what the run was started with,
``resume.safetensors``, the state that continues it, and ``lock``, locked while a command tunes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tav_sdk.errors import CheckpointError, ConfigError, OutputError
from tav_sdk.files import new_folder, write_text
from tav_sdk.siblings import GONE, LOCK, is_own, sibling, sweep, try_lock
from tav_sdk.training.run_folder import (
    LOG,
    RECORD,
    SNAPSHOTS,
    STARTED,
    TUNED,
    load_run,
    partial_folder,
    read_started,
)

RESUME = "resume.safetensors"
MAY_CHANGE = {
    *("num_train_steps", "checkpointing_steps", "out", "base", "video"),
    *("loras", "tokenizer", "revision", "local_files_only"),
}
"""Settings that a resumed run may change; base, LoRAs and clip are compared by their hashes."""


def check_partial(out: Path, *, may_use: bool) -> None:
    """Check that an unfinished run of ``out``, if there is one, may be continued or thrown away.

    Args:
        out: the finished run's folder.
        may_use: whether resuming it, or starting anew, was asked for.

    Raises:
        OutputError: it is a link, holds one, or is not this user's alone to write; or it was not asked for.
    """
    folder = partial_folder(out)
    if not os.path.lexists(folder):
        return
    _check_own(folder)
    if _has_work(folder) and not may_use:
        raise OutputError(f"an unfinished run of {out} is there; continue it with resume, or start anew with overwrite")


@contextlib.contextmanager
def partial_run(out: Path, record: dict[str, Any], *, resume: bool) -> Iterator[Path]:
    """The hidden folder of an unfinished run, for this command alone.

    It is removed at the end, but for a failure that leaves something to resume from.

    Args:
        out: the finished run's folder.
        record: what the run is started with.
        resume: whether what is there is continued.

    Raises:
        OutputError: it cannot be written, or is not this user's, or another command tunes in it.
        ConfigError: what is there was started with other settings.
        CheckpointError: what it was started with cannot be read.
    """
    folder = partial_folder(out)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_own(folder)
        with _locked(folder, out):
            if not resume:
                _empty(folder)
            done = False
            try:
                _check_same_run(folder, record)
                yield folder
                done = True
            except OutputError as error:
                done = error.kept is not None
                raise
            finally:
                if done or not _has_work(folder):
                    _remove(folder, out)
    except OSError as error:
        raise OutputError(f"cannot write the run {out}: {error.strerror or error}") from error


def finish(folder: Path, out: Path, *, overwrite: bool) -> None:
    """Write the finished run ``out`` of links to a partial folder's files; that stays as it is.

    Raises:
        OutputError: as for :func:`~tav_sdk.files.new_folder`; what reached ``out`` while it was tuned stays.
    """
    with new_folder(out, overwrite=overwrite, checked=True) as new:
        for name in (RECORD, TUNED, LOG):
            _link(folder / name, new / name)
        for path in sorted((folder / SNAPSHOTS).glob("step-*.safetensors")):
            (new / SNAPSHOTS).mkdir(exist_ok=True)
            _link(path, new / SNAPSHOTS / path.name)


def complete_record(folder: Path, num_train_steps: int) -> dict[str, Any]:
    """The record of a partial folder in which all is done but for :func:`finish`; otherwise empty."""
    try:
        run = load_run(folder)
        return run.record if run.config.num_train_steps == num_train_steps else {}
    except CheckpointError:
        return {}


def remove_leftover(out: Path) -> None:
    """Remove what a command left that died after its run was in its place."""
    sweep(out.absolute())
    folder = partial_folder(out)
    with contextlib.suppress(OSError, OutputError, CheckpointError):
        if (folder / RECORD).is_file():
            _check_own(folder)
            with _locked(folder, out):
                if load_run(folder).record["tuned_sha256"] == load_run(out).record["tuned_sha256"]:
                    _remove(folder, out)


def _has_work(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (RESUME, RECORD))


def _check_own(folder: Path) -> None:
    """Refuse what someone may have planted, since what is written there would go elsewhere."""
    status = os.lstat(folder)
    if stat.S_ISLNK(status.st_mode):
        problem = "is a link"
    elif not stat.S_ISDIR(status.st_mode):
        problem = "is not a folder"
    elif not is_own(status):
        problem = "belongs to another user"
    elif os.name != "nt" and status.st_mode & stat.S_IWOTH:
        problem = "can be written by every user"
    elif links := [path for path in folder.rglob("*") if path.is_symlink()]:
        problem = f"has a link in it, {links[0].name}"
    else:
        return
    raise OutputError(
        f"{folder} is not used, since it {problem}. An unfinished run has to be a folder of this user's own: remove "
        "it, or choose another out."
    )


@contextlib.contextmanager
def _locked(folder: Path, out: Path) -> Iterator[None]:
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        try:
            free = try_lock(descriptor)
        except OSError:  # no locks on this file system
            free = True
        # Of a command that has just ended the lock is free, and its folder may be gone.
        if not free or not os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK)):
            raise OutputError(f"another command tunes {out}; wait until it is done, or choose another out")
        yield
    finally:
        os.close(descriptor)


def _remove(folder: Path, out: Path) -> None:
    """Remove a partial folder at once, so that a kill leaves all of it or what the next command sweeps."""
    with contextlib.suppress(OSError), sibling(out.absolute()) as aside:
        os.rename(folder, aside.path / GONE)
    shutil.rmtree(folder, ignore_errors=True)  # where a folder that is in use cannot be renamed


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _check_same_run(folder: Path, record: dict[str, Any]) -> None:
    started = folder / STARTED
    if started.is_file():
        old, new = _identity(read_started(started)), _identity(record)
        if changed := sorted(key for key in new if new[key] != old.get(key)):
            what = ", ".join(f"{key} (was {old.get(key)!r}, is {new[key]!r})" for key in changed)
            raise ConfigError(
                f"the unfinished run cannot be resumed with other settings: {what}; start anew with overwrite"
            )
    write_text(started, json.dumps(record))


def _identity(record: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in record["config"].items() if key not in MAY_CHANGE}
    return kept | {"base hash": record["base"]["sha256"], "clip hash": record["clip"]["sha256"]}


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # a file system without links
        shutil.copyfile(path, target)
