# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimioHook: an Airflow connection as a Limio client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk.bases.hook import BaseHook

from limio_limitrail.api.resource import AuthMode, Resource

if TYPE_CHECKING:
    import pandas as pd
    import requests

    from limio_limitrail.api.client import Answer, ApiClient
    from limio_limitrail.api.page import Page
    from limio_limitrail.api.pagination import Cursor
    from limio_limitrail.api.walk import Walk
    from limio_limitrail.hooks.settings import Settings

DEFAULT_PAGE_SIZE = 100
"""Records a page where neither connection nor caller says otherwise (public client code uses it; no maximum is documented)."""

DETAIL_CONCURRENCY = 6
"""Requests under way at once when objects are fetched one by one; no rate limit is documented, so this is a polite guess."""


class LimioHook(BaseHook):
    """Talk to a Limio tenant.

    Within one task run all hooks of one connection share one HTTP session and one token: minted when first needed, renewed early,
    minted again once when Limio refuses it, and masked in all logs.

    :param limio_conn_id: the Airflow connection, of the type ``limio``.
    """

    conn_name_attr = "limio_conn_id"
    default_conn_name = "limio_default"
    conn_type = "limio"
    hook_name = "Limio"

    def __init__(self, limio_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limio_conn_id = limio_conn_id

    @cached_property
    def settings(self) -> Settings:
        """The connection, read and checked.

        :raises ConnectionFieldError: a field is missing or wrong.
        """
        from airflow.sdk.log import mask_secret

        from limio_limitrail.hooks.limio_settings import read_limio_connection

        settings = read_limio_connection(self.get_connection(self.limio_conn_id))
        mask_secret(settings.secret.reveal())
        return settings

    @cached_property
    def client(self) -> ApiClient:
        """The client of this connection, shared by all hooks of it in the task run."""
        from limio_limitrail.hooks.limio_client import shared_limio_client

        return shared_limio_client(self.settings)

    def get_conn(self) -> requests.Session:
        """Give a session that authorises requests to the connection's app, and to no other host. Its base is `base_url`."""
        return self.client.session()

    @property
    def base_url(self) -> str:
        """What the API's paths are appended to, such as ``https://acme.prod.limio.com/api``."""
        return self.client.base_url

    def request(
        self,
        *,
        path: str,
        method: str = "GET",
        params: Mapping[str, object] | None = None,
        json: object = None,
        idempotency_key: str | None = None,
    ) -> Answer:
        """Send one request to any path of the API.

        :param path: below ``/api``, beginning with a slash.
        :param method: the HTTP method. Only reads, and writes with an idempotency key, are tried again.
        :param params: the query.
        :param json: a body, sent as JSON.
        :param idempotency_key: sent as ``Idempotency-Key``. Limio documents no such key: give one only where you know that it is
            honoured.
        :raises ApiError: the request failed.
        """
        from limio_limitrail.api.query import as_text
        from limio_limitrail.limio.resources import credentials_for

        query = {name: as_text(name, value) for name, value in (params or {}).items() if value is not None}
        method = method.upper()
        return self.client.send(
            method=method,
            path=path,
            params=query,
            json=json,
            idempotency_key=idempotency_key,
            credentials=credentials_for(method=method, path=path),
        )

    def find_resource(self, resource: str | Resource) -> Resource:
        """Look a resource up by name; a `Resource` of your own is given back as it is.

        :raises ParameterError: no resource has that name.
        """
        from limio_limitrail.limio.resources import find_resource

        return find_resource(resource)

    def walk(
        self,
        resource: str | Resource,
        *,
        params: Mapping[str, object] | None = None,
        since: datetime | None = None,
        page_size: int | None = None,
        cursor: Cursor | None = None,
        seen: int = 0,
        total: int | None = None,
    ) -> Walk:
        """Prepare a walk through a list, from its beginning or from a cursor.

        :param resource: a name of the table of resources, or a `Resource` of your own.
        :param params: placeholders of the path, and query parameters.
        :param since: the lower bound in time, for resources that filter by it.
        :param page_size: records to ask for a page; else the connection's, else `DEFAULT_PAGE_SIZE`.
        :param cursor: where to go on.
        :param seen: records that came before the cursor.
        :param total: the total that the walk began with.
        :raises ParameterError: no such resource, or its parameters do not fit.
        """
        from limio_limitrail.api.errors import ParameterError
        from limio_limitrail.api.query import build_query
        from limio_limitrail.api.walk import Walk

        endpoint = self.find_resource(resource)
        query = build_query(endpoint, params=params, since=since)
        if page_size is not None and page_size < 1:
            raise ParameterError(f"page_size is {page_size}; a page holds at least one record")
        size = page_size or self.settings.page_size or DEFAULT_PAGE_SIZE
        return Walk(
            client=self.client,
            resource=endpoint,
            path=query.path,
            params=query.params,
            page_size=min(size, endpoint.max_page_size or size),
            cursor=cursor,
            seen=seen,
            total=total,
        )

    def detailed(self, walk: Walk) -> Iterator[Page]:
        """Give a walk's pages with whole objects in the place of the list's summaries.

        :raises ParameterError: the resource has no path for a single object.
        """
        from limio_limitrail.api.details import with_details

        return with_details(
            walk.pages(), client=walk.client, resource=walk.resource, list_path=walk.path, concurrency=DETAIL_CONCURRENCY
        )

    def iter_pages(
        self,
        resource: str | Resource,
        *,
        params: Mapping[str, object] | None = None,
        since: datetime | None = None,
        page_size: int | None = None,
        detail: bool = False,
    ) -> Iterator[Page]:
        """Give a list's pages in order, each as undecoded JSON.

        Parameters as for `walk`, and:

        :param detail: fetch each object by its id, because the lists of objects hold summaries.
        :raises ApiError: a request failed, or an answer breaks the contract.
        """
        walk = self.walk(resource, params=params, since=since, page_size=page_size)
        return self.detailed(walk) if detail else walk.pages()

    def iter_records(
        self,
        resource: str | Resource,
        *,
        params: Mapping[str, object] | None = None,
        since: datetime | None = None,
        page_size: int | None = None,
        detail: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Give a list's records as dictionaries, one after another. Parameters as for `iter_pages`.

        Integers come as they are, however long; a number with a fraction or an exponent that no double gives back comes as text.
        """
        from limio_limitrail.api.records import decode_page

        walk = self.walk(resource, params=params, since=since, page_size=page_size)
        for page in self.detailed(walk) if detail else walk.pages():
            yield from decode_page(page, api=self.client.api, resource=walk.resource.name)

    def get_df(
        self,
        resource: str | Resource,
        *,
        params: Mapping[str, object] | None = None,
        since: datetime | None = None,
        page_size: int | None = None,
        detail: bool = False,
        flatten: bool = False,
    ) -> pd.DataFrame:
        """Give a whole list as one frame, all of it in memory. Parameters as for `iter_pages`, and:

        :param flatten: spread nested objects over columns named by their path, such as ``data.offer.path``, instead of keeping
            dictionaries.
        """
        from limio_limitrail.api.records import to_frame

        records = self.iter_records(resource, params=params, since=since, page_size=page_size, detail=detail)
        return to_frame(records, flatten=flatten)

    def count(
        self, resource: str | Resource, *, params: Mapping[str, object] | None = None, since: datetime | None = None
    ) -> int:
        """Count a list's records: by the API's own total where it gives one, else by walking through the list."""
        walk = self.walk(resource, params=params, since=since, page_size=1)
        if walk.resource.total is not None:
            first = next(walk.pages())
            if first.total is not None:
                return first.total
        walk = self.walk(resource, params=params, since=since)
        return sum(len(page.raw_records) for page in walk.pages())

    def test_connection(self) -> tuple[bool, str]:
        """Mint a token and read one record; say which of the two failed and why. The message holds no body and no credential."""
        from limio_limitrail.api.errors import ApiError

        step = "The connection's fields could not be read"
        try:
            key = self.settings.auth_mode is AuthMode.API_KEY
            step = "No token could be had"
            self.client.auth.credential()
            step = "The key was not accepted" if key else "A token was minted, but reading one record failed"
            resource = "campaigns" if key else "subscriptions"
            next(self.walk(resource, page_size=1).pages())
        except ApiError as error:
            return False, f"{step}. {error.without_answer()}"
        except ValueError as error:
            return False, f"{step}. {error}"
        how = "The key was accepted" if key else "A token was minted"
        return True, f"{how} and one page of {resource} was read from {self.base_url}."
