# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRail's list endpoints: one row each.

The public pages (LimitRail developer console) tell two things about lists: those of the runtime need ``from`` and ``to``, and
rows are in ``items``, which may be empty. All else is listed in a row's ``assumed`` and shown in the docs. Where a tenant's API
differs, the connection's ``paths`` names another path, and a `Resource` of one's own replaces a whole row.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from limio_limitrail.api.pagination import SinglePage
from limio_limitrail.api.resource import Resource, TimeFilter, find_in_table

_RUNTIME_ASSUMPTIONS = (
    "that it is one of the runtime lists, and its path",
    "from belongs to the window and to does not",
    "times are written in ISO 8601 and UTC",
    "the window comes whole in one answer, without pages",
)


def _runtime_row(*, name: str, path: str, time_column: str) -> Resource:
    return Resource(
        name=name,
        path=path,
        paging=SinglePage(),
        time_column=time_column,
        time_filter=TimeFilter(since="from", until="to", field=time_column, required=True),
        timestamps=(time_column,),
        assumed=(
            *_RUNTIME_ASSUMPTIONS,
            "id identifies a row",
            f"{time_column} is when it came to be, and is what from and to are compared with",
        ),
    )


_ROWS = (
    _runtime_row(name="usage", path="/v1/usage", time_column="committedAt"),
    _runtime_row(name="reservations", path="/v1/usage/reservations", time_column="createdAt"),
    Resource(
        name="accounts",
        path="/v1/accounts",
        paging=SinglePage(),
        assumed=("the endpoint and its path", "the list comes whole in one answer, without pages", "id identifies a row"),
    ),
)

RESOURCES: Mapping[str, Resource] = MappingProxyType({row.name: row for row in _ROWS})
"""Every list endpoint by name."""


def find_resource(resource: str | Resource) -> Resource:
    """Return a resource by name; a `Resource` is returned as it is.

    :raises ParameterError: no resource has that name.
    """
    return find_in_table(resource, table=RESOURCES, api="LimitRail")
