"""Whether nobody but this user can have written a file or folder; :mod:`.store` says why that matters."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def foreign_writer(status: os.stat_result) -> str:
    """Who else may have written a file with this status, as words after "it"; empty if nobody but this user."""
    if not hasattr(os, "geteuid"):  # Windows has no such modes
        return ""
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}, not to this one ({os.geteuid()})"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"may be written by its group or others (mode {stat.S_IMODE(status.st_mode):o})"
    return ""


def folder_distrust(folder: Path) -> str:
    """Why nothing in a cache's folder can be trusted; empty if it can."""
    try:
        status = os.lstat(folder)
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISDIR(status.st_mode):
        return "it is a link or a file, not a folder"
    return f"it {who}" if (who := foreign_writer(status)) else ""
