# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Write docs/reference/resources.md from the tables of resources: ``python docs/make_resources.py``. A test compares the two."""

from __future__ import annotations

from pathlib import Path

from limio_limitrail.api.pagination import CursorPair, CursorString, SinglePage
from limio_limitrail.api.resource import AuthMode, Resource
from limio_limitrail.limio import resources as limio_resources
from limio_limitrail.limitrail import resources as limitrail_resources

PAGE = Path(__file__).parent / "reference" / "resources.md"

HEAD = """\
# Resources

Find the name of a list, and pass it to an operator, a sensor, a trigger or a hook: `resource="subscriptions"`.
For an endpoint that is not here, pass a [`Resource` of your own](../how-to/hook.md#an-endpoint-of-your-own).

A resource is a list endpoint:
its path, its paging, the columns that identify a record, and its time filter, if it has one.
The last column lists what no public document confirms.

## Limio

If your tenant differs, pass a `Resource` of your own, for example a copy with another path:
`dataclasses.replace(RESOURCES["catalog.offers2"], path="/items")`,
with `RESOURCES` from `limio_limitrail.limio.resources`.

`service` defaults to `limio`; the others are `zuora` and `salesforce`: `path_params={"service": "zuora"}`.

| name | path below `/api` | key | filter by time | paging | credentials | scope | assumed |
|---|---|---|---|---|---|---|---|
"""

HEAD_OF_LIMITRAIL = """
## LimitRail

LimitRail's public pages say that runtime lists need `from` and `to`,
and that rows are in `items`, which may be empty.
They name neither paths nor members.
If your tenant differs, change:

- a path: the connection's field [`paths`](../how-to/connections.md#limitrail), `{"usage": "/v2/usage"}`;
- anything else: a `Resource` of your own,
  for example a copy, `dataclasses.replace(RESOURCES["usage"], time_column="at")`,
  with `RESOURCES` from `limio_limitrail.limitrail.resources`;
- the scope that a list needs: name it in the connection or in the task.
  None is documented for lists.

`from` and `to` are sent as ISO 8601 in UTC, to the second: `from` is rounded down, `to` up.

A response that names a next page (`nextCursor`, `hasMore`, ...) is an error here,
because the rest of the list would be lost:
pass a `Resource` with the [paging](../how-to/hook.md#an-endpoint-of-your-own) that it has.

| name | path | key | filter by time | time column | paging | assumed |
|---|---|---|---|---|---|---|
"""


def paging_of(resource: Resource) -> str:
    """Name a resource's paging style."""
    style = resource.paging
    if isinstance(style, CursorPair):
        return "cursor pair"
    if isinstance(style, CursorString):
        return "cursor" if style.page_size_param else "cursor, fixed size"
    assert isinstance(style, SinglePage)
    return "one page"


def filter_of(resource: Resource) -> str:
    """Name the parameters that cut a resource by time."""
    time_filter = resource.time_filter
    if time_filter is None:
        return "none"
    names = [time_filter.since, *([time_filter.until] if time_filter.until else [])]
    return f"{', '.join(f'`{name}`' for name in names)}{' (required)' if time_filter.required else ''}"


def key_of(resource: Resource) -> str:
    """Name the columns that identify a record."""
    return ", ".join(f"`{name}`" for name in resource.primary_key)


def row_of_limio(resource: Resource) -> str:
    """Write one row of Limio's table."""
    query = "&".join(f"{name}={value}" for name, value in resource.params.items())
    cells = [
        f"`{resource.name}`",
        f"`{resource.path}{'?' + query if query else ''}`",
        key_of(resource),
        filter_of(resource),
        paging_of(resource),
        "OAuth or key" if AuthMode.API_KEY in resource.credentials else "OAuth",
        f"`{resource.scope}`" if resource.scope else "",
        "; ".join(resource.assumed),
    ]
    return "| " + " | ".join(cells) + " |"


def row_of_limitrail(resource: Resource) -> str:
    """Write one row of LimitRail's table."""
    cells = [
        f"`{resource.name}`",
        f"`{resource.path}`",
        key_of(resource),
        filter_of(resource),
        f"`{resource.time_column}`" if resource.time_column else "none",
        paging_of(resource),
        "; ".join(resource.assumed),
    ]
    return "| " + " | ".join(cells) + " |"


def page() -> str:
    """Write the page."""
    limio = "\n".join(row_of_limio(resource) for resource in limio_resources.RESOURCES.values())
    limitrail = "\n".join(row_of_limitrail(resource) for resource in limitrail_resources.RESOURCES.values())
    return f"{HEAD}{limio}\n{HEAD_OF_LIMITRAIL}{limitrail}\n"


if __name__ == "__main__":
    PAGE.write_text(page())
