# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What is known of the copies of a mapped task before they run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import Context


def copies_share(names: Collection[str], *, context: Context) -> bool:
    """Return whether it is certain that all copies of the running task have the same values of some parameters.

    It is not where a value is a template or comes from another task, in a mapped task group, or for a task that has one copy.
    """
    task: Any = getattr(context.get("dag"), "task_dict", {}).get(context["ti"].task_id)
    constants = getattr(task, "partial_kwargs", None)
    if constants is None:
        return False
    values = task.expand_input.value
    if _count(values) == 1:
        return False
    mapped = _names(values)
    if mapped is None and not names <= constants.keys():
        return False
    return all(_is_constant(constants[name]) if name in constants else name not in (mapped or ()) for name in names)


def _count(values: Any) -> int | None:
    """Return the number of copies; None if another task decides it."""
    if isinstance(values, Mapping):
        lists = list(values.values())
        return prod(map(len, lists)) if all(isinstance(one, Sequence | Mapping) for one in lists) else None
    return len(values) if isinstance(values, Sequence) else None


def _names(values: Any) -> set[str] | None:
    """Return the parameters that differ from copy to copy; None if another task decides it."""
    if isinstance(values, Mapping):
        return set(values)
    if isinstance(values, Sequence) and all(isinstance(one, Mapping) for one in values):
        return set().union(*values)
    return None


def _is_constant(value: object) -> bool:
    # What comes from another task has a method `resolve`.
    return not hasattr(value, "resolve") and not (isinstance(value, str) and ("{{" in value or "{%" in value))
