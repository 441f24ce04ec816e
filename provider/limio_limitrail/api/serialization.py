# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Resources as plain JSON: how they reach a triggerer.

Its form is a contract between versions: a trigger that one version has made may be run by the next.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.pagination import CursorPair, CursorString, Paging, SinglePage
from limio_limitrail.api.resource import AuthMode, Resource, TimeFilter

_STYLES: dict[str, type[Any]] = {style.__name__: style for style in (CursorPair, CursorString, SinglePage)}


def resource_to_json(resource: Resource) -> dict[str, Any]:
    """Write a resource.

    :raises ParameterError: its paging is of a class of one's own, which no triggerer could make again.
    """
    style = type(resource.paging).__name__
    if _STYLES.get(style) is not type(resource.paging):
        raise ParameterError(
            f"resource {resource.name!r} has a paging of its own ({style}), which a triggerer cannot make: "
            "only a worker can look at it (deferrable=False)"
        )
    plain: dict[str, Any] = {}
    for one in fields(resource):
        value = getattr(resource, one.name)
        match one.name:
            case "paging":
                plain[one.name] = {"style": style, **asdict(value)}
            case "time_filter":
                plain[one.name] = asdict(value) if value is not None else None
            case "credentials":
                plain[one.name] = sorted(mode.value for mode in value)
            case _:
                plain[one.name] = list(value) if isinstance(value, tuple) else dict(value) if hasattr(value, "items") else value
    return plain


def resource_from_json(data: dict[str, Any]) -> Resource:
    """Read a resource; what an older version did not write has its default."""
    known = {one.name for one in fields(Resource)}
    plain: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in data.items() if name in known
    }
    plain["paging"] = _paging(data["paging"])
    plain["time_filter"] = TimeFilter(**data["time_filter"]) if data.get("time_filter") else None
    plain["credentials"] = frozenset(AuthMode(mode) for mode in data["credentials"])
    return Resource(**plain)


def _paging(data: dict[str, Any]) -> Paging:
    made: Paging = _STYLES[data["style"]](**{name: value for name, value in data.items() if name != "style"})
    return made
