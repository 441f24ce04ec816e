# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The base of both hooks: single requests, and lists as pages, records, frames and counts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack
from urllib.parse import urlsplit

from airflow.sdk.bases.hook import BaseHook

from limio_limitrail.api.resource import AuthMode, Resource

if TYPE_CHECKING:
    import pandas as pd
    import requests

    from limio_limitrail.api.client import ApiClient
    from limio_limitrail.api.list_reader import ListReader
    from limio_limitrail.api.page import Page
    from limio_limitrail.api.pagination import Cursor
    from limio_limitrail.api.responses import Response
    from limio_limitrail.api.time_slices import SlicedListReader
    from limio_limitrail.hooks.connection import Settings
    from limio_limitrail.parameters.readers import Reader

T = TypeVar("T")

DEFAULT_PAGE_SIZE = 100
"""Records per page if neither connection nor caller sets it (public client code uses it; no maximum is documented)."""

MOST_PAGE_SIZE = 1_000_000
"""More records than any page holds; a larger number is a mistake."""

DETAIL_CONCURRENCY = 6
"""Concurrent requests when objects are fetched one by one; no rate limit is documented, so this is a polite guess."""


class ListRange(TypedDict, total=False):
    """What of a list is read, with the options of `ApiHook.open_list`."""

    path_params: Mapping[str, object] | None
    query_params: Mapping[str, object] | None
    since: datetime | None
    until: datetime | None
    slice_size: timedelta | None
    concurrency: int


class ListOptions(ListRange, total=False):
    """What of a list is read, and how."""

    page_size: int | None


def read_docs_site() -> None:
    """Apply ``docs_url``, the site that error messages link to, and ``show_driver_messages``, of Airflow's configuration section
    ``[limio_limitrail]``."""
    from airflow.sdk import conf

    from limio_limitrail.troubleshooting import set_site, show_driver_messages

    set_site(conf.get("limio_limitrail", "docs_url", fallback="") or "")
    show_driver_messages(conf.getboolean("limio_limitrail", "show_driver_messages", fallback=False))


class ApiHook(BaseHook):
    """A client of an API whose endpoints are `Resource` rows. The base of the public hooks."""

    conn_type: str
    front_page = "/"
    """The page that links lead to if the connection has none."""

    def __init__(self, **kwargs: Any) -> None:
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
        """Return a session that authorises requests to the connection's API, and to no other host. Its base is `base_url`."""
        return self.client.session()

    @property
    def base_url(self) -> str:
        """The URL that paths are appended to, such as ``https://acme.prod.limio.com/api``."""
        return self.client.base_url

    def source(self) -> list[str]:
        """Return what decides whose records the API returns: its URLs and the client.

        Nothing in it is secret. A key has no client: there the host, which belongs to one tenant, decides.
        """
        settings = self.settings
        client = [] if settings.auth_mode is AuthMode.API_KEY else [settings.auth_url, settings.client_id]
        return [self.conn_type, self.base_url, settings.auth_mode, *client]

    def owner(self) -> dict[str, str]:
        """Return what identifies the tenant, by name: less than `source`, because it outlives a run."""
        return self.settings.owner()

    @property
    def page_size(self) -> int:
        """The default number of records to request per page: the connection's, else `DEFAULT_PAGE_SIZE`."""
        return self.settings.page_size or DEFAULT_PAGE_SIZE

    def page_url(self, what: str, **values: str | None) -> str:
        """Return the URL of a page for people: the connection's page of that name, else its page "*", else the front page.

        :param what: the name of a resource, a kind of object, or an operation.
        :param values: values for the page's placeholders. A page that needs another value is skipped.
        """
        from limio_limitrail.hooks.connection import ANY_PAGE

        own = self.own_page_url(what, **values) or self.own_page_url(ANY_PAGE, **values)
        return own or self.settings.app_url + self.front_page

    def own_page_url(self, what: str, **values: str | None) -> str | None:
        """Return the URL of the connection's page of that name; None if it has none.

        :param values: values for the page's placeholders; None for one that is unknown.
        """
        from limio_limitrail.hooks.connection import page_url

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
    ) -> Response:
        """Send one request to any path of the API.

        :param path: below `base_url`, beginning with a slash.
        :param method: the HTTP method. Only reads, and writes with an idempotency key, are tried again.
        :param json: a body, sent as JSON.
        :param idempotency_key: sent as ``Idempotency-Key``. Neither API documents such a key: give one only if you know that
            it is honoured.
        :raises ParameterError: a parameter is of another type.
        :raises ApiError: the request failed.
        """
        from limio_limitrail.api.query import texts_of
        from limio_limitrail.parameters.given import unfit

        for name, text in (("path", path), ("method", method), ("idempotency_key", idempotency_key or "")):
            if not isinstance(text, str):
                raise unfit(name, text, expected="a text")
        method = method.upper()
        return self.client.send(
            method=method,
            path=path,
            params=texts_of(_read_values("query_params", query_params)),
            json=json,
            idempotency_key=idempotency_key,
            credentials=self._credentials_for(method=method, path=path),
        )

    @abstractmethod
    def find_resource(self, resource: str | Resource) -> Resource:
        """Return a resource by name; a `Resource` of your own is returned as it is.

        :raises ParameterError: no resource has that name.
        """

    def _credentials_for(self, *, method: str, path: str) -> frozenset[AuthMode]:  # noqa: ARG002 - for APIs with more than one way
        """Return the credentials that a path accepts."""
        return frozenset({AuthMode.OAUTH})

    def open_list(
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
        records_read: int = 0,
        total: int | None = None,
    ) -> ListReader | SlicedListReader:
        """Return a reader of a list, from its beginning or from a cursor.

        Times, spans, numbers and mappings are read as those of operators are: a text may stand for each, and a time that names
        no zone is in UTC.

        :param resource: a name of the table of resources, or a `Resource` of your own.
        :param path_params: values for the placeholders of the resource's path.
        :param query_params: query parameters.
        :param since: the lower bound in time, for resources that filter by it.
        :param until: the upper bound in time, for resources that filter by it.
        :param slice_size: the longest time range of one request; the whole range is then read in slices of it.
        :param concurrency: how many of these slices are fetched at once. Their pages then come in no order of time; each slice's
            own pages stay in order.
        :param page_size: records to ask for a page; else the connection's, else `DEFAULT_PAGE_SIZE`.
        :param cursor: where to continue.
        :param records_read: records that came before the cursor.
        :param total: the total of the reader that is continued.
        :raises ParameterError: no such resource, or its parameters do not fit.
        """
        from limio_limitrail.api.list_reader import ListReader
        from limio_limitrail.api.query import build_query
        from limio_limitrail.api.time_slices import SlicedListReader, check_concurrency, check_slices
        from limio_limitrail.parameters import readers, times

        endpoint = self.find_resource(resource)
        path_params = _read_values("path_params", path_params)
        query_params = _read_values("query_params", query_params)
        since, until = _read("since", since, times.instant), _read("until", until, times.instant)
        slice_size = _read("slice_size", slice_size, times.span())
        check_concurrency(concurrency, slice_size=slice_size)
        size = _read("page_size", page_size, readers.whole_number(least=1, most=MOST_PAGE_SIZE)) or self.page_size
        size = min(size, endpoint.max_page_size or size)

        def reader(since: datetime | None, until: datetime | None) -> ListReader:
            path, query = build_query(endpoint, path_params=path_params, query_params=query_params, since=since, until=until)
            return ListReader(
                client=self.client,
                resource=endpoint,
                path=path,
                params=query,
                page_size=size,
                cursor=cursor,
                records_read=records_read,
                total=total,
            )

        whole = reader(since, until)
        if slice_size is None:
            return whole
        begin, end = check_slices(endpoint, query_params=query_params, since=since, until=until, slice_size=slice_size)
        return SlicedListReader(
            client=self.client,
            resource=endpoint,
            path=whole.path,
            since=begin,
            until=end,
            slice_size=slice_size,
            page_size=size,
            make_reader=reader,
            cursor=cursor,
            concurrency=concurrency,
        )

    def detailed_pages(self, reader: ListReader | SlicedListReader, *, hides_ids: bool = False) -> Iterator[Page]:
        """Return a reader's pages with whole objects instead of the list's summaries.

        :param hides_ids: whether messages leave out which object they are about.
        :raises ParameterError: the resource has no path for a single object.
        """
        from limio_limitrail.api.details import with_details

        return with_details(
            reader.pages(),
            client=reader.client,
            resource=reader.resource,
            list_path=reader.path,
            concurrency=DETAIL_CONCURRENCY,
            hides_ids=hides_ids,
        )

    def _collect_lineage(self, resource: Resource) -> None:
        """Add the list to Airflow's collector of lineage, which drops it unless lineage is on."""
        from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

        try:
            about = {"host": urlsplit(self.base_url).netloc, "resource": resource.name}
            get_hook_lineage_collector().add_input_asset(context=self, scheme=self.conn_type, asset_kwargs=about)
        except Exception as error:  # noqa: BLE001 - reading a list must not fail because of its lineage
            self.log.warning("Airflow's lineage does not have %s (%s).", resource.name, type(error).__name__)

    def iter_pages(self, resource: str | Resource, *, detail: bool = False, **options: Unpack[ListOptions]) -> Iterator[Page]:
        """Return a list's pages in order, each as undecoded JSON. Options as for `open_list`, and:

        :param detail: fetch each object by its id, because the lists of objects hold summaries.
        :raises ApiError: a request failed, or a response breaks the contract.
        """
        reader = self.open_list(resource, cursor=None, records_read=0, total=None, **options)
        self._collect_lineage(reader.resource)
        return self.detailed_pages(reader) if detail else reader.pages()

    def iter_records(
        self, resource: str | Resource, *, detail: bool = False, **options: Unpack[ListOptions]
    ) -> Iterator[dict[str, Any]]:
        """Return a list's records as dictionaries, one by one. Parameters as for `iter_pages`.

        Integers are exact; one of more than 4,300 characters is a `ProtocolError`. A number with a fraction or an exponent that a
        double cannot hold exactly is a text.
        """
        from limio_limitrail.api.page import decode_page

        endpoint = self.find_resource(resource)
        for page in self.iter_pages(endpoint, detail=detail, **options):
            yield from decode_page(page, api=self.client.api, resource=endpoint.name)

    def get_df(
        self, resource: str | Resource, *, detail: bool = False, flatten: bool = False, **options: Unpack[ListOptions]
    ) -> pd.DataFrame:
        """Return a whole list as one frame, all of it in memory. Parameters as for `iter_pages`, and:

        :param flatten: spread nested objects over columns named by their path, such as ``data.offer.path``, instead of keeping
            dictionaries.
        """
        from limio_limitrail.api.page import to_frame

        return to_frame(self.iter_records(resource, detail=detail, **options), flatten=flatten)

    def count(self, resource: str | Resource, **options: Unpack[ListRange]) -> int:
        """Return the number of records of a list: the API's own total if it has one, else by reading the list."""
        if options.get("slice_size") is None and self.find_resource(resource).total is not None:
            unsliced: ListRange = {**options, "concurrency": 1}
            first = next(self.open_list(resource, page_size=1, **unsliced).pages())
            if first.total is not None and first.total_is_exact:
                return first.total
        reader = self.open_list(resource, page_size=None, cursor=None, records_read=0, total=None, **options)
        return sum(len(page.raw_records) for page in reader.pages())


def _read(name: str, value: object, read: Reader[T]) -> T | None:
    """Read a parameter as those of operators are read; None alone is none, because a missing time must not mean everything."""
    return None if value is None else read(name, value)


def _read_values(name: str, value: object) -> dict[str, object] | None:
    from limio_limitrail.parameters.readers import mapping

    return _read(name, value, mapping)
