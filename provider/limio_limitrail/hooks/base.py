# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What the hooks of both APIs share: requests, walks through lists, frames, counts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.sdk.bases.hook import BaseHook

from limio_limitrail.api.resource import AuthMode, Resource

if TYPE_CHECKING:
    import pandas as pd
    import requests

    from limio_limitrail.api.client import Answer, ApiClient
    from limio_limitrail.api.list_reader import Walk
    from limio_limitrail.api.page import Page
    from limio_limitrail.api.pagination import Cursor
    from limio_limitrail.api.retry import RetryLimits
    from limio_limitrail.api.sliced_reader import SlicedListReader
    from limio_limitrail.hooks.connection import Settings

DEFAULT_PAGE_SIZE = 100
"""Records a page where neither connection nor caller says otherwise (public client code uses it; no maximum is documented)."""

MOST_PAGE_SIZE = 1_000_000
"""Records that nobody gets on one page; a larger number is a mistake."""

DETAIL_CONCURRENCY = 6
"""Requests under way at once when objects are fetched one by one; no rate limit is documented, so this is a polite guess."""


class ApiHook(BaseHook):
    """Talk to an API whose endpoints are `Resource` rows. The base of the hooks that people use."""

    conn_type: str
    front_page = "/"
    """The page that links lead to where the connection names none."""

    def __init__(self, **kwargs: Any) -> None:
        from limio_limitrail.hooks.docs_site import read_docs_site

        super().__init__(**kwargs)
        read_docs_site()

    @property
    @abstractmethod
    def settings(self) -> Settings:
        """The connection, read and checked.

        :raises ConnectionFieldError: a field is missing or wrong.
        """

    @property
    @abstractmethod
    def client(self) -> ApiClient:
        """The client of this connection, shared by all hooks of it in the task run."""

    def get_conn(self) -> requests.Session:
        """Give a session that authorises requests to the connection's API, and to no other host. Its base is `base_url`."""
        return self.client.session()

    @property
    def base_url(self) -> str:
        """What the API's paths are appended to, such as ``https://acme.prod.limio.com/api``."""
        return self.client.base_url

    def source(self) -> list[str]:
        """Return what decides whose records the API answers with: its URLs and the client that asks.

        Nothing in it is secret. A key has no client: there the host, which Limio gives each tenant, says whose it is.
        """
        settings = self.settings
        client = [] if settings.auth_mode is AuthMode.API_KEY else [settings.auth_url, settings.client_id]
        return [self.conn_type, self.base_url, settings.auth_mode, *client]

    def owner(self) -> dict[str, str]:
        """Return what decides whose lists these are, by name: less than `source`, because it outlives a run."""
        return self.settings.owner()

    @property
    def page_size(self) -> int:
        """Records to ask for a page where a caller does not say: the connection's, else `DEFAULT_PAGE_SIZE`."""
        return self.settings.page_size or DEFAULT_PAGE_SIZE

    def page_url(self, what: str, **values: str | None) -> str:
        """Give the URL of a page that people look something up on: the connection's own for it, or for everything, or the front.

        :param what: the name of a resource, a kind of object, or an operation.
        :param values: what the page's braces stand for. A page that needs another value is passed over.
        """
        from limio_limitrail.hooks.pages import OTHERS

        own = self.own_page_url(what, **values) or self.own_page_url(OTHERS, **values)
        return own or self.settings.app_url + self.front_page

    def own_page_url(self, what: str, **values: str | None) -> str | None:
        """Give the URL of the page that the connection names for something; none where it names none.

        :param values: what the page's braces stand for; none where one of them is not known.
        """
        from limio_limitrail.hooks.pages import page_url

        page = dict(self.settings.pages).get(what)
        return None if page is None else page_url(page, base=self.settings.app_url, values=values)

    def request(
        self,
        *,
        path: str,
        method: str = "GET",
        query_params: Mapping[str, object] | None = None,
        json: object = None,
        idempotency_key: str | None = None,
    ) -> Answer:
        """Send one request to any path of the API.

        :param path: below `base_url`, beginning with a slash.
        :param method: the HTTP method. Only reads, and writes with an idempotency key, are tried again.
        :param query_params: the query.
        :param json: a body, sent as JSON.
        :param idempotency_key: sent as ``Idempotency-Key``. Neither API documents such a key: give one only where you know that
            it is honoured.
        :raises ApiError: the request failed.
        """
        from limio_limitrail.api.query import texts_of

        method = method.upper()
        return self.client.send(
            method=method,
            path=path,
            params=texts_of(query_params),
            json=json,
            idempotency_key=idempotency_key,
            credentials=self._credentials_for(method=method, path=path),
        )

    @abstractmethod
    def find_resource(self, resource: str | Resource) -> Resource:
        """Look a resource up by name; a `Resource` of your own is given back as it is.

        :raises ParameterError: no resource has that name.
        """

    def _credentials_for(self, *, method: str, path: str) -> frozenset[AuthMode]:  # noqa: ARG002 - for APIs with more than one way
        """Tell which credentials a path accepts."""
        return frozenset({AuthMode.OAUTH})

    def walk(
        self,
        resource: str | Resource,
        *,
        path_params: Mapping[str, object] | None = None,
        query_params: Mapping[str, object] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        slice_size: timedelta | None = None,
        concurrency: int = 1,
        page_size: int | None = None,
        cursor: Cursor | None = None,
        seen: int = 0,
        total: int | None = None,
    ) -> Walk | SlicedListReader:
        """Prepare a walk through a list, from its beginning or from a cursor.

        :param resource: a name of the table of resources, or a `Resource` of your own.
        :param path_params: values for the placeholders of the resource's path.
        :param query_params: query parameters.
        :param since: the lower bound in time, for resources that filter by it.
        :param until: the upper bound in time, for resources that filter by it.
        :param slice_size: the longest span of time that one request asks for; the walk is then cut into slices of it.
        :param concurrency: how many of these slices are fetched at once. Their pages then come in no order of time; each slice's
            own pages stay in order.
        :param page_size: records to ask for a page; else the connection's, else `DEFAULT_PAGE_SIZE`.
        :param cursor: where to go on.
        :param seen: records that came before the cursor.
        :param total: the total that the walk began with.
        :raises ParameterError: no such resource, or its parameters do not fit.
        """
        from limio_limitrail.api.errors import ParameterError
        from limio_limitrail.api.list_reader import Walk
        from limio_limitrail.api.query import build_query
        from limio_limitrail.api.sliced_reader import SlicedListReader
        from limio_limitrail.api.time_slices import check_concurrency, check_slices

        endpoint = self.find_resource(resource)
        check_concurrency(concurrency, slice_size=slice_size)
        if page_size is not None and not 1 <= page_size <= MOST_PAGE_SIZE:
            raise ParameterError(f"page_size must be between 1 and {MOST_PAGE_SIZE:,}")
        size = page_size or self.page_size

        def stretch(
            *,
            since: datetime | None,
            until: datetime | None,
            page_size: int,
            cursor: Cursor | None,
            seen: int,
            total: int | None,
            limits: RetryLimits | None = None,
            sleep: Callable[[float], None] | None = None,
        ) -> Walk:
            query = build_query(endpoint, path_params=path_params, query_params=query_params, since=since, until=until)
            return Walk(
                client=self.client,
                resource=endpoint,
                path=query.path,
                params=query.params,
                page_size=page_size,
                cursor=cursor,
                seen=seen,
                total=total,
                limits=limits,
                sleep=sleep,
            )

        size = min(size, endpoint.max_page_size or size)
        whole = stretch(since=since, until=until, page_size=size, cursor=cursor, seen=seen, total=total)
        if slice_size is None:
            return whole
        begin, end = check_slices(endpoint, query_params=query_params, since=since, until=until, slice_size=slice_size)
        return SlicedListReader(
            client=self.client,
            resource=endpoint,
            path=whole.path,
            since=begin,
            until=end,
            window=slice_size,
            page_size=size,
            make_walk=stretch,
            cursor=cursor,
            parallel=concurrency,
        )

    def detailed(self, walk: Walk | SlicedListReader) -> Iterator[Page]:
        """Give a walk's pages with whole objects in the place of the list's summaries.

        :raises ParameterError: the resource has no path for a single object.
        """
        from limio_limitrail.api.details import with_details

        return with_details(
            walk.pages(), client=walk.client, resource=walk.resource, list_path=walk.path, concurrency=DETAIL_CONCURRENCY
        )

    def _note_reading(self, resource: Resource) -> None:
        """Tell Airflow's collector of lineage which list is read; it forgets it where nobody asks."""
        from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

        try:
            about = {"host": urlsplit(self.base_url).netloc, "resource": resource.name}
            get_hook_lineage_collector().add_input_asset(context=self, scheme=self.conn_type, asset_kwargs=about)
        except Exception as error:  # noqa: BLE001 - whoever reads a list is not to fail for what is told of it
            self.log.warning("Airflow's lineage is told nothing of %s (%s).", resource.name, type(error).__name__)

    def iter_pages(
        self,
        resource: str | Resource,
        *,
        path_params: Mapping[str, object] | None = None,
        query_params: Mapping[str, object] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        slice_size: timedelta | None = None,
        concurrency: int = 1,
        page_size: int | None = None,
        detail: bool = False,
    ) -> Iterator[Page]:
        """Give a list's pages in order, each as undecoded JSON.

        Parameters as for `walk`, and:

        :param detail: fetch each object by its id, because the lists of objects hold summaries.
        :raises ApiError: a request failed, or an answer breaks the contract.
        """
        walk = self.walk(
            resource,
            path_params=path_params,
            query_params=query_params,
            since=since,
            until=until,
            slice_size=slice_size,
            concurrency=concurrency,
            page_size=page_size,
        )
        self._note_reading(walk.resource)
        return self.detailed(walk) if detail else walk.pages()

    def iter_records(
        self,
        resource: str | Resource,
        *,
        path_params: Mapping[str, object] | None = None,
        query_params: Mapping[str, object] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        slice_size: timedelta | None = None,
        concurrency: int = 1,
        page_size: int | None = None,
        detail: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Give a list's records as dictionaries, one after another. Parameters as for `iter_pages`.

        Integers come as they are, however long; a number with a fraction or an exponent that no double gives back comes as text.
        """
        from limio_limitrail.api.records import decode_page

        walk = self.walk(
            resource,
            path_params=path_params,
            query_params=query_params,
            since=since,
            until=until,
            slice_size=slice_size,
            concurrency=concurrency,
            page_size=page_size,
        )
        self._note_reading(walk.resource)
        for page in self.detailed(walk) if detail else walk.pages():
            yield from decode_page(page, api=self.client.api, resource=walk.resource.name)

    def get_df(
        self,
        resource: str | Resource,
        *,
        path_params: Mapping[str, object] | None = None,
        query_params: Mapping[str, object] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        slice_size: timedelta | None = None,
        concurrency: int = 1,
        page_size: int | None = None,
        detail: bool = False,
        flatten: bool = False,
    ) -> pd.DataFrame:
        """Give a whole list as one frame, all of it in memory. Parameters as for `iter_pages`, and:

        :param flatten: spread nested objects over columns named by their path, such as ``data.offer.path``, instead of keeping
            dictionaries.
        """
        from limio_limitrail.api.records import to_frame

        records = self.iter_records(
            resource,
            path_params=path_params,
            query_params=query_params,
            since=since,
            until=until,
            slice_size=slice_size,
            concurrency=concurrency,
            page_size=page_size,
            detail=detail,
        )
        return to_frame(records, flatten=flatten)

    def count(
        self,
        resource: str | Resource,
        *,
        path_params: Mapping[str, object] | None = None,
        query_params: Mapping[str, object] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        slice_size: timedelta | None = None,
        concurrency: int = 1,
    ) -> int:
        """Count a list's records: by the API's own total where it gives one, else by walking through the list."""
        if slice_size is None and self.find_resource(resource).total is not None:
            first = next(
                self.walk(
                    resource, path_params=path_params, query_params=query_params, since=since, until=until, page_size=1
                ).pages()
            )
            if first.total is not None and first.total_is_exact:
                return first.total
        walk = self.walk(
            resource,
            path_params=path_params,
            query_params=query_params,
            since=since,
            until=until,
            slice_size=slice_size,
            concurrency=concurrency,
        )
        return sum(len(page.raw_records) for page in walk.pages())
