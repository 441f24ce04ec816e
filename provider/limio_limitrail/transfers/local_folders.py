# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Local folders for customers' data: private to their owner, and never reached through a symbolic link."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import PurePath

from limio_limitrail.api.errors import ParameterError

_ATTEMPTS = 10


class FolderError(ParameterError):
    """A folder on this machine is not safe for customers' data. The message names it, and says what to do."""


def make_private_folder(folder: str, *, root: str) -> None:
    """Make a folder and those between it and its root, each readable by its owner alone.

    :param folder: the run's folder, an absolute path below the root.
    :param root: the folder that somebody chose; it may be a link, because that is the choice of whoever made it.
    :raises FolderError: one of them is a link or can be changed by others, or the folder holds a link.
    """
    for attempt in range(_ATTEMPTS):
        try:
            _make(folder, root=root)
            break
        except FileNotFoundError:
            # Another task may be removing an empty folder above this one.
            if attempt == _ATTEMPTS - 1:
                raise
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                raise _link(entry.path)


def _make(folder: str, *, root: str) -> None:
    os.makedirs(root, mode=0o700, exist_ok=True)  # noqa: PTH103
    _refuse_shared(root, os.stat(root))  # noqa: PTH116 - follows the link that a root may be
    path = root
    for name in PurePath(folder).relative_to(root).parts:
        path = os.path.join(path, name)  # noqa: PTH118
        with suppress(FileExistsError):
            os.mkdir(path, mode=0o700)  # noqa: PTH102
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            raise _link(path)
        if not stat.S_ISDIR(found.st_mode):
            raise FolderError(f"{path} is not a folder: remove it, or give the task another folder")
        _refuse_shared(path, found)


def make_own_folder(path: str) -> None:
    """Make a folder, or use an existing one, that only this user can reach.

    :raises FolderError: it is a link, another user's, or open to others.
    """
    with suppress(FileExistsError):
        os.mkdir(path, mode=0o700)  # noqa: PTH102
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        raise _link(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise FolderError(f"{path} can be reached by others; remove it, or give the task a staging= folder of its own")


def _refuse_shared(path: str, found: os.stat_result) -> None:
    """Refuse a folder in which everybody could replace a part.

    A group may write: its members are trusted, and volumes of Kubernetes are shared in this way. Where everybody may write and
    the sticky bit is set, as in /tmp, nobody but the folder's owner can touch what is another's.
    """
    if not found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_ISVTX and found.st_uid in {0, os.getuid()}):
        return
    raise FolderError(f"every user of this machine may write into {path}: run chmod o-w {path}, or give the task another folder")


def _link(path: str) -> FolderError:
    return FolderError(
        f"{path} is a symbolic link, and parts are never written by way of one: remove it, or give the task another folder"
    )
