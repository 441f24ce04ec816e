# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Write docs/resources.md from the table of resources: ``python docs/make_resources.py``. A test compares the two."""

from __future__ import annotations

from pathlib import Path

from limio_limitrail.api.pagination import CursorPair, CursorString, SinglePage
from limio_limitrail.api.resource import AuthMode, Resource
from limio_limitrail.limio.resources import RESOURCES

PAGE = Path(__file__).with_name("resources.md")

HEAD = """\
# Resources

A resource is a list endpoint: its path, its paging, the columns that identify a record, the filter by time where there is one.
Pass its name to an operator or to the hook. Pass a `Resource(...)` of your own for an endpoint that is not here: see
[the hook](hook.md#an-endpoint-of-your-own).

What no public document confirms is in the last column. If your tenant behaves otherwise, pass a `Resource` of your own, for
example a copy with another path: `dataclasses.replace(RESOURCES["catalog.offers2"], path="/items")`.

`service` is `limio` where it is left out; `zuora` and `salesforce` are the others: `request_params={"service": "zuora"}`.

| name | path below `/api` | key | filter by time | paging | credentials | scope | assumed |
|---|---|---|---|---|---|---|---|
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


def row_of(resource: Resource) -> str:
    """Write one row of the table."""
    query = "&".join(f"{name}={value}" for name, value in resource.params.items())
    time_filter = resource.time_filter
    cells = [
        f"`{resource.name}`",
        f"`{resource.path}{'?' + query if query else ''}`",
        ", ".join(f"`{name}`" for name in resource.primary_key),
        f"`{time_filter.since}`{' (required)' if time_filter.required else ''}" if time_filter else "none",
        paging_of(resource),
        "OAuth or key" if AuthMode.API_KEY in resource.credentials else "OAuth",
        f"`{resource.scope}`" if resource.scope else "",
        "; ".join(resource.assumed),
    ]
    return "| " + " | ".join(cells) + " |"


def page() -> str:
    """Write the page."""
    return HEAD + "\n".join(row_of(resource) for resource in RESOURCES.values()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
