# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Limio's list endpoints: one row each.

Sources are named by the title of the public documentation page. What no page confirms is listed in a row's ``assumed`` and shown
in the docs.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from limio_limitrail.api.pagination import CursorPair, CursorString, SinglePage
from limio_limitrail.api.resource import AuthMode, Resource, TimeFilter, find_in_table

RECORD_TYPES = ("add_on", "offers", "offers2", "discount", "product", "page", "campaign", "segment")
"""The values of ``record_type`` (Limio documentation, "Catalog API")."""

PATH_TYPES = (
    "orders",
    "customers",
    "subscriptions",
    "identities",
    "address",
    "schedules",
    "payment_methods",
    "subscription_offers",
    "user_entitlements",
    "gift_code",
    "promo_codes_v2",
    "events",
    "process",
)
"""The values of ``path_type``, irregular singulars included (Limio documentation, "Get Objects")."""

_BOTH = frozenset({AuthMode.OAUTH, AuthMode.API_KEY})

_CATALOG_ASSUMPTIONS = (
    "path identifies an item: the documented id joins two hashes and may change with each version",
    "opt.modifiedAfter compares with data.modified",
)


def _object_rows() -> list[Resource]:
    return [
        Resource(
            name=path_type,
            path=f"/objects/{{service}}/{path_type}",
            path_defaults={"service": "limio"},
            paging=CursorString(),
            time_column="updated",
            timestamps=("created", "updated"),
            detail_path=f"/objects/{{service}}/{path_type}/{{id}}",
            scope="MMA" if path_type == "subscriptions" else None,
            assumed=("the list has no time filter, so every pull is a full scan",),
        )
        for path_type in PATH_TYPES
    ]


def _catalog_row(
    *, name: str, path: str, params: Mapping[str, str], credentials: frozenset[AuthMode], assumed: tuple[str, ...]
) -> Resource:
    return Resource(
        name=name,
        path=path,
        paging=CursorPair(),
        primary_key=("path",),
        time_column="data_modified",
        time_filter=TimeFilter(since="opt.modifiedAfter", field="data.modified"),
        timestamps=("data_modified",),
        columns={"data_modified": "data.modified"},
        params=params,
        total="hits",
        credentials=credentials,
        assumed=_CATALOG_ASSUMPTIONS + assumed,
    )


def _catalog_rows() -> list[Resource]:
    oauth = frozenset({AuthMode.OAUTH})
    rows = []
    for record_type in RECORD_TYPES:
        params = {"record_type": record_type}
        rows.append(
            _catalog_row(
                name=f"catalog.{record_type}",
                path="/catalog_items",
                params=params,
                credentials=oauth,
                assumed=("the path: the documentation describes the endpoint and does not show it",),
            )
        )
        rows.append(
            _catalog_row(
                name=f"published_catalog.{record_type}",
                path="/published_catalog_items",
                params=params,
                credentials=oauth,
                assumed=("every record_type is accepted",),
            )
        )
    return rows


_LEGACY = (
    # name, path, credentials, what is assumed
    # (Limio documentation, older "Catalog API" pages; public client code for /pages and /offers/v2)
    ("campaigns", "/campaigns", _BOTH, ()),
    ("pages", "/pages", _BOTH, ()),
    ("offers", "/offers", _BOTH, ("the path",)),
    ("offers_v2", "/offers/v2", frozenset({AuthMode.OAUTH}), ()),
    ("products", "/products", _BOTH, ("the path",)),
    ("segments", "/segments", _BOTH, ("the path",)),
    ("assets", "/assets", _BOTH, ("the path",)),
    ("add_ons", "/add-ons", frozenset({AuthMode.OAUTH}), ("the path",)),
)


def _legacy_rows() -> list[Resource]:
    return [
        _catalog_row(name=name, path=path, params={}, credentials=credentials, assumed=assumed)
        for name, path, credentials, assumed in _LEGACY
    ]


def _other_rows() -> list[Resource]:
    return [
        Resource(
            name="abandoned_baskets",
            path="/checkout/abandoned",
            paging=CursorString(),
            time_column="created",
            time_filter=TimeFilter(since="createdAfter", field="created", required=True),
            timestamps=("created",),
            scope="checkout",
            assumed=("a basket keeps its created time when it is completed later, so that only an overlap reads it again",),
        ),
        Resource(
            name="partner_organisations",
            path="/partner-organisations",
            paging=CursorString(),
            time_column="updated",
            timestamps=("created", "updated"),
            scope="partner",
            assumed=("rows have id, created and updated like other objects",),
        ),
        Resource(
            name="identity_subscriptions",
            path="/objects/salesforce/identities/{id}/subscriptions",
            paging=CursorString(page_size_param=None),
            records="subscriptions",
            time_column="updated",
            timestamps=("created", "updated"),
            scope="MMA",
        ),
        Resource(
            name="identity_customers",
            path="/objects/salesforce/identities/{id}/subscriptions",
            paging=CursorString(page_size_param=None),
            records="customers",
            time_column="updated",
            timestamps=("created", "updated"),
            scope="MMA",
            assumed=("customers come on the first pages, so that a page without any ends the list",),
        ),
        Resource(
            name="related",
            path="/objects/{service}/{path_type}/{id}/related",
            path_defaults={"service": "limio"},
            paging=SinglePage(),
            time_column="updated",
            timestamps=("created", "updated"),
            assumed=("the path, seen in client code with the singular types subscription and customer",),
        ),
    ]


RESOURCES: Mapping[str, Resource] = MappingProxyType(
    {row.name: row for row in (*_object_rows(), *_catalog_rows(), *_legacy_rows(), *_other_rows())}
)
"""Every list endpoint by name."""


def find_resource(resource: str | Resource) -> Resource:
    """Return a resource by name; a `Resource` is returned as it is.

    :raises ParameterError: no resource has that name.
    """
    return find_in_table(resource, table=RESOURCES, api="Limio")


def credentials_for(*, method: str, path: str) -> frozenset[AuthMode]:
    """Return the credentials that a path accepts: those of its row, or a token if it has no row.

    The legacy key reads some catalog lists and nothing else (Limio documentation, "API Keys (legacy)").
    """
    rows = [row for row in RESOURCES.values() if row.path == path.rstrip("/")] if method == "GET" else []
    return rows[0].credentials if rows else frozenset({AuthMode.OAUTH})
