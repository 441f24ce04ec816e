# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Where a run's parts go."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath

_UNSAFE = re.compile(r"[^A-Za-z0-9._=-]+")
_KEPT = re.compile(r"(?=.{1,80}\Z)[a-z0-9_=-]+(\.[a-z0-9_=-]+)*")
_DIGESTED = re.compile(r"(^|-)[0-9a-f]{20}\Z")
_LONGEST = 60


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
    """Make a name fit for a folder in any store, whether it minds the case of letters or not.

    A name of up to 80 small letters, digits and ``-_.=`` stays as it is. Any other is cut and gets a digest of the whole, so that
    two names never become one.
    """
    return name if _KEPT.fullmatch(name) and not _DIGESTED.search(name) else _digested(name[:_LONGEST], of=name)


def run_folder(root: ObjectStoragePath, *, resource: str, run: RunIdentity) -> ObjectStoragePath:
    """Give the folder of one run of one pull below a destination; no two runs have the same."""
    task = f"{run.dag_id}.{run.task_id}"
    # Of more than one dot nobody could say which of them ends the Dag's name.
    kept = task.count(".") == 1 and safe_name(task) == task
    half = _LONGEST // 2
    readable = f"{run.dag_id[:half]}.{run.task_id[:half]}"
    folder = root / safe_name(resource) / (task if kept else _digested(readable, of=[run.dag_id, run.task_id]))
    folder = folder / safe_name(run.run_id)
    return folder if run.map_index < 0 else folder / f"map_index={run.map_index}"


def _digested(readable: str, *, of: str | list[str]) -> str:
    start = _UNSAFE.sub("-", readable).strip(".-")
    return f"{start}-{hashlib.sha256(json.dumps(of).encode()).hexdigest()[:20]}".lstrip("-")


def prepare_folder(folder: ObjectStoragePath, *, root: ObjectStoragePath) -> None:
    """Make a run's folder where it is on this machine, and look whether it is safe for customers' data.

    :raises FolderError: it is not.
    """
    from limio_limitrail.landing.parts import is_local
    from limio_limitrail.transfers.local_folders import make_private_folder

    if is_local(folder):
        make_private_folder(folder.path, root=root.path)


def remove_empty(folder: ObjectStoragePath, *, root: ObjectStoragePath) -> None:
    """Remove a folder on this machine, and those between it and its root, as far as they are empty."""
    from limio_limitrail.landing.parts import is_local

    while is_local(folder) and folder != root and folder.is_relative_to(root):
        try:
            os.rmdir(folder.path)  # noqa: PTH106 - the path's own rmdir removes what is in the folder, too
        except OSError:  # something else is in it, or another task was faster
            return
        folder = folder.parent


def default_staging() -> str:
    """Give the folder on this machine where parts wait to be loaded, readable by this user alone.

    :raises FolderError: others can reach it.
    """
    from limio_limitrail.transfers.local_folders import make_own_folder

    root = os.path.join(tempfile.gettempdir(), f"limio_limitrail-{os.getuid()}")  # noqa: PTH118 - becomes a URL path
    make_own_folder(root)
    return root
