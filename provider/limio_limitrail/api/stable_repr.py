# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A repr that is the same in every process, because Airflow makes a new version of a Dag whose texts differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from enum import Enum

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_DEEPEST = 12


def stable_repr(value: object, *, depth: int = 0) -> str:
    """Return a repr without memory addresses, in which sets and mappings are sorted.

    :param value: anything; what is nested deeper than twelve levels shows as three dots.
    """
    if depth > _DEEPEST:
        return "..."
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return f"<{value.__qualname__}>"
    below = depth + 1
    if isinstance(value, Mapping):
        items = sorted((stable_repr(key, depth=below), stable_repr(one, depth=below)) for key, one in value.items())
        return "{" + ", ".join(f"{key}: {one}" for key, one in items) + "}"
    if isinstance(value, Set):
        return "{" + ", ".join(sorted(stable_repr(one, depth=below) for one in value)) + "}"
    if type(value) is list:
        return "[" + ", ".join(stable_repr(one, depth=below) for one in value) + "]"
    if type(value) is tuple:
        inside = ", ".join(stable_repr(one, depth=below) for one in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if is_dataclass(value):
        return _call(value, {one.name: getattr(value, one.name, None) for one in fields(value) if one.repr}, depth=below)
    if type(value).__repr__ is object.__repr__:
        return _call(value, dict(sorted(getattr(value, "__dict__", {}).items())), depth=below)
    return _ADDRESS.sub("", repr(value))


def _call(value: object, members: Mapping[str, object], *, depth: int) -> str:
    told = ", ".join(f"{name}={stable_repr(one, depth=depth)}" for name, one in members.items())
    return f"{type(value).__qualname__}({told})"
