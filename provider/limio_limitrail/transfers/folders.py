# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The folder of a run's parts: its name, who writes there, and on this machine its permissions, as parts hold customers' data."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import msgspec

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.troubleshooting import ExplainedError

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath

log = logging.getLogger(__name__)

LOCK_WAIT = 60.0
"""Seconds that a try waits for another one of its run, which Airflow may be about to end."""

_LOCK_PAUSE = 0.2
_UNSAFE = re.compile(r"[^A-Za-z0-9._=-]+")
_SAFE = re.compile(r"(?=.{1,80}\Z)[a-z0-9_=-]+(\.[a-z0-9_=-]+)*")
_DIGESTED = re.compile(r"(^|-)[0-9a-f]{20}\Z")
_MAX_READABLE = 60
_MKDIR_ATTEMPTS = 10


class FolderError(ParameterError):
    """A folder on this machine is not safe for customers' data. The message names it, and says what to do."""


class FolderInUseError(ExplainedError, RuntimeError):
    """Another process, most likely another try of the same run, has the run's folder. A retry may find it free."""


class RunIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a pull: a task, or a mapped copy of it, in a Dag run.

    :param dag_id: the Dag.
    :param task_id: the task in it.
    :param run_id: the Dag run.
    :param map_index: the mapped copy; -1 if the task is not mapped.
    """

    dag_id: str
    task_id: str
    run_id: str
    map_index: int

    @classmethod
    def of(cls, context: Context) -> RunIdentity:
        """Read the identity from a task's context."""
        task_instance: Any = context["ti"]
        map_index = task_instance.map_index
        return cls(
            dag_id=task_instance.dag_id,
            task_id=task_instance.task_id,
            run_id=task_instance.run_id,
            map_index=-1 if map_index is None else map_index,
        )

    def __str__(self) -> str:
        mapped = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"{self.dag_id}/{self.task_id}{mapped}/{self.run_id}"


def safe_name(name: str) -> str:
    """Return a folder name that works in any store, case-sensitive or not.

    A name of up to 80 small letters, digits and ``-_.=`` stays as it is. Any other is shortened and gets a digest, so that two
    names never become one.
    """
    return name if _SAFE.fullmatch(name) and not _DIGESTED.search(name) else _digested(name[:_MAX_READABLE], of=name)


def run_folder(root: ObjectStoragePath, *, resource: str, run: RunIdentity) -> ObjectStoragePath:
    """Return the folder of one run of one pull below a destination. No two runs have the same."""
    task = f"{run.dag_id}.{run.task_id}"
    # With more than one dot, the end of the Dag's name would be ambiguous.
    is_safe = task.count(".") == 1 and safe_name(task) == task
    half = _MAX_READABLE // 2
    readable = f"{run.dag_id[:half]}.{run.task_id[:half]}"
    folder = root / safe_name(resource) / (task if is_safe else _digested(readable, of=[run.dag_id, run.task_id]))
    folder = folder / safe_name(run.run_id)
    return folder if run.map_index < 0 else folder / f"map_index={run.map_index}"


def folder_of_runs(folder: ObjectStoragePath, *, run: RunIdentity) -> ObjectStoragePath:
    """Return the folder that has the folders of all runs of a pull.

    :param folder: the run's own, from `run_folder`.
    """
    return folder.parent if run.map_index < 0 else folder.parent.parent


def _digested(readable: str, *, of: str | list[str]) -> str:
    start = _UNSAFE.sub("-", readable).strip(".-")
    return f"{start}-{hashlib.sha256(json.dumps(of).encode()).hexdigest()[:20]}".lstrip("-")


def prepare_folder(folder: ObjectStoragePath, *, root: ObjectStoragePath) -> None:
    """On this machine, make a run's folder and those between it and its root, each readable by its owner alone.

    :param root: the folder that the task was given. It may be a symbolic link, which is its maker's choice.
    :raises FolderError: one of the folders is a link or can be changed by others, or the run's folder has a link in it.
    """
    from limio_limitrail.landing.parts import is_local

    if not is_local(folder):
        return
    for attempt in range(1, _MKDIR_ATTEMPTS + 1):
        try:
            _make_private(folder.path, root=root.path)
            break
        except FileNotFoundError:
            # Another task may be removing an empty parent folder.
            if attempt == _MKDIR_ATTEMPTS:
                raise
    with os.scandir(folder.path) as entries:
        for entry in entries:
            if entry.is_symlink():
                raise _link_error(entry.path)


@contextmanager
def hold_folder(folder: ObjectStoragePath, *, root: ObjectStoragePath) -> Iterator[None]:
    """Prepare a run's folder; on this machine, keep other tries of the run out of it within the block.

    If Airflow loses the heartbeat of a task that goes on, it starts the next try beside it, with the same folder.

    :param root: as for `prepare_folder`.
    :raises FolderError: as `prepare_folder`.
    :raises FolderInUseError: another process has had it for `LOCK_WAIT` seconds.
    """
    from limio_limitrail.landing.parts import is_local

    if not is_local(folder):
        yield
        return
    handle = _lock_folder(folder, root=root)
    try:
        yield
    finally:
        os.close(handle)


def _lock_folder(folder: ObjectStoragePath, *, root: ObjectStoragePath) -> int:
    """Return a handle of the folder, locked as far as its file system can. A process that ends has closed it."""
    start = time.monotonic()
    is_logged = False
    while True:
        prepare_folder(folder, root=root)
        try:
            handle = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:  # another task has just removed it as an empty parent or its own
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
        except OSError as error:
            log.debug("The folder %s cannot be locked (%s).", folder, type(error).__name__)
            return handle
        else:
            if _is_open(folder.path, handle=handle):
                return handle
            os.close(handle)  # the other try has removed it at its end
            continue
        if time.monotonic() - start > LOCK_WAIT:
            raise FolderInUseError(
                f"another process has used the run's folder {folder} for {LOCK_WAIT:.0f} s. It is most likely an earlier try of "
                f"this task that Airflow has lost sight of, and that still pulls or loads. This try has requested and written "
                f"nothing. If the other one succeeds, its rows are in place: then clear this task, or mark it as a success. If "
                f"it hangs, find its process with 'fuser -v {folder.path}' on this machine, end it, and clear this task"
            )
        if not is_logged:
            log.warning("Another process, most likely an earlier try of this task, uses %s; waiting for its end.", folder)
            is_logged = True
        time.sleep(_LOCK_PAUSE)


def _is_open(path: str, *, handle: int) -> bool:
    """Return whether a path still leads to an open folder."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _make_private(folder: str, *, root: str) -> None:
    os.makedirs(root, mode=0o700, exist_ok=True)  # noqa: PTH103
    _check_writers(root, os.stat(root))  # noqa: PTH116 - follows the link that a root may be
    path = root
    for name in PurePath(folder).relative_to(root).parts:
        path = os.path.join(path, name)  # noqa: PTH118
        with suppress(FileExistsError):
            os.mkdir(path, mode=0o700)  # noqa: PTH102
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            raise _link_error(path)
        if not stat.S_ISDIR(status.st_mode):
            raise FolderError(f"{path} is not a folder: remove it, or give the task another folder")
        _check_writers(path, status)


def _check_writers(path: str, status: os.stat_result) -> None:
    """Refuse a folder in which every user could replace a part.

    A group may write: its members are trusted, and volumes of Kubernetes are shared in this way. So may everybody if the sticky
    bit is set, as in /tmp: then only the owner of a file or of the folder can replace it.
    """
    if not status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_ISVTX and status.st_uid in {0, os.getuid()}):
        return
    raise FolderError(f"every user of this machine may write into {path}: run chmod o-w {path}, or give the task another folder")


def _link_error(path: str) -> FolderError:
    return FolderError(
        f"{path} is a symbolic link, and parts are never written through one: remove it, or give the task another folder"
    )


def remove_empty(folder: ObjectStoragePath, *, root: ObjectStoragePath) -> None:
    """On this machine, remove a folder and those between it and its root, if they are empty."""
    from limio_limitrail.landing.parts import is_local

    while is_local(folder) and folder != root and folder.is_relative_to(root):
        try:
            os.rmdir(folder.path)  # noqa: PTH106 - the path's own rmdir removes what is in the folder, too
        except OSError:  # something else is in it, or another task was faster
            return
        folder = folder.parent


def default_staging() -> str:
    """Make and return this user's own folder on this machine, in which parts wait to be loaded.

    :raises FolderError: it is a link, another user's, or can be reached by others.
    """
    path = os.path.join(tempfile.gettempdir(), f"limio_limitrail-{os.getuid()}")  # noqa: PTH118 - becomes a URL path
    with suppress(FileExistsError):
        os.mkdir(path, mode=0o700)  # noqa: PTH102
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        raise _link_error(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise FolderError(f"{path} can be reached by others; remove it, or give the task a staging= folder of its own")
    return path
