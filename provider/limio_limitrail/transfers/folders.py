# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Where a run's parts go."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath

_UNSAFE = re.compile(r"[^A-Za-z0-9._=-]+")
_LONGEST_NAME = 150


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """Which pull this is: one task in one run, and one of its mapped copies.

    :param dag_id: the Dag.
    :param task_id: the task in it.
    :param run_id: the Dag run.
    :param map_index: the mapped copy; -1 where the task is not mapped.
    """

    dag_id: str
    task_id: str
    run_id: str
    map_index: int

    @classmethod
    def of(cls, context: Context) -> RunIdentity:
        """Read it out of the context."""
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
    """Make a name fit for a folder in any store; a changed one gets a hash, so that two names never become one."""
    safe = _UNSAFE.sub("-", name)[:_LONGEST_NAME]
    if safe == name and safe not in {"", ".", ".."}:
        return safe
    return f"{safe.strip('.')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def run_folder(root: ObjectStoragePath, *, resource: str, run: RunIdentity) -> ObjectStoragePath:
    """Give the folder of one run of one pull below a destination."""
    folder = root / safe_name(resource) / f"{safe_name(run.dag_id)}.{safe_name(run.task_id)}" / safe_name(run.run_id)
    return folder if run.map_index < 0 else folder / f"map_index={run.map_index}"


def remove_empty(folder: ObjectStoragePath, *, root: ObjectStoragePath) -> None:
    """Remove a folder on this machine, and those between it and its root, as far as they are empty."""
    from limio_limitrail.landing.pull import is_local

    while is_local(folder) and folder != root and folder.is_relative_to(root):
        try:
            os.rmdir(folder.path)  # noqa: PTH106 - the path's own rmdir removes what is in the folder, too
        except OSError:  # something else is in it, or another task was faster
            return
        folder = folder.parent


def default_staging() -> str:
    """Give the folder on this machine where parts wait to be loaded, readable by this user alone.

    :raises PermissionError: somebody else made it.
    """
    root = os.path.join(tempfile.gettempdir(), f"limio_limitrail-{os.getuid()}")  # noqa: PTH118 - becomes a URL path
    os.makedirs(root, mode=0o700, exist_ok=True)  # noqa: PTH103
    found = os.lstat(root)
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or os.path.islink(root):  # noqa: PTH114
        raise PermissionError(f"{root} can be reached by others; remove it, or give the task a staging= folder of its own")
    return root
