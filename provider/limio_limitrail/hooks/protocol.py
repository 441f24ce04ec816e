# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What transfers need of a hook, whichever API it talks to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient
    from limio_limitrail.api.list_reader import Walk
    from limio_limitrail.api.page import Page
    from limio_limitrail.api.pagination import Cursor
    from limio_limitrail.api.resource import Resource
    from limio_limitrail.api.sliced_reader import SlicedListReader


class ResourceHook(Protocol):
    """A hook that walks through resources."""

    conn_type: str

    @property
    def base_url(self) -> str:
        """What the API's paths are appended to."""

    def source(self) -> list[str]:
        """Return what decides whose records come. Nothing in it is secret."""

    def owner(self) -> Mapping[str, str]:
        """Return what decides whose lists these are, and stays the same for the same tenant."""

    @property
    def client(self) -> ApiClient:
        """The client of the hook's connection."""

    @property
    def page_size(self) -> int:
        """Records to ask for a page where a caller does not say."""

    def page_url(self, what: str, **values: str | None) -> str:
        """Give the URL of the page that people look something up on."""

    def find_resource(self, resource: str | Resource) -> Resource:
        """Look a resource up by name."""

    def walk(
        self,
        resource: str | Resource,
        *,
        path_params: Mapping[str, Any] | None = None,
        query_params: Mapping[str, Any] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        slice_size: timedelta | None = None,
        concurrency: int = 1,
        page_size: int | None = None,
        cursor: Cursor | None = None,
        seen: int = 0,
        total: int | None = None,
    ) -> Walk | SlicedListReader:
        """Prepare a walk through a list."""

    def detailed(self, walk: Walk | SlicedListReader) -> Iterator[Page]:
        """Give a walk's pages with whole records in the place of summaries."""
