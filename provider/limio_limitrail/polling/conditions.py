# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Wait for a list to have records that match."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from limio_limitrail.api.errors import ParameterError, ProtocolError, RequestContext
from limio_limitrail.api.list_reader import Walk
from limio_limitrail.api.query import Query, build_query
from limio_limitrail.api.records import decode_page
from limio_limitrail.api.redact import holds_secret, safe_text
from limio_limitrail.parameters.places import import_function
from limio_limitrail.polling.poll import ONE_TRY, PollResult, PollStatus

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient
    from limio_limitrail.api.resource import Resource

Predicate = Callable[[Mapping[str, Any]], bool]

MOST_IDS = 100
"""Ids of records that matched and go to XCom; the rest is counted."""


@dataclass(frozen=True, kw_only=True)
class RecordsWait:
    """Wait for records.

    :param resource: the list.
    :param path_params: values for the path's placeholders.
    :param query_params: query parameters.
    :param since: the lower bound in time, for lists that filter by it.
    :param until: the upper bound, for lists whose filter has one.
    :param min_records: how many records must match.
    :param page_size: records to ask for a page.
    :param predicate: says whether a record matches; each one does where it is left out.
    """

    resource: Resource
    path_params: Mapping[str, str] = field(default_factory=dict)
    query_params: Mapping[str, str] = field(default_factory=dict)
    since: datetime | None = None
    until: datetime | None = None
    min_records: int = 1
    page_size: int = 100
    predicate: Predicate | None = None

    def __post_init__(self) -> None:
        """Refuse what can never be decided.

        :raises ParameterError: nothing is waited for.
        """
        if self.min_records < 1:
            raise ParameterError(f"min_records={self.min_records} would be found at once; wait for at least 1")

    def __str__(self) -> str:
        """Name what is waited for."""
        some = "a record" if self.min_records == 1 else f"{self.min_records} records"
        which = " that match" if self.predicate else ""
        return f"{some} of {self.resource.name}{which}"

    def look(self, client: ApiClient) -> PollResult:
        """Walk through the list until enough records match.

        :raises ApiError: a request failed, or an answer breaks the contract.
        """
        query = build_query(
            self.resource,
            path_params=self.path_params,
            query_params=self.query_params,
            since=self.since,
            until=self.until,
        )
        walk = walk_for_look(client, resource=self.resource, query=query, page_size=self.page_size)
        seen = count = 0
        ids: list[str] = []
        newest: str | None = None
        for page in walk.pages():
            for record in decode_page(page, api=client.api, resource=self.resource.name):
                seen += 1
                if self.predicate is not None and not self.predicate(record):
                    continue
                count += 1
                if len(ids) < MOST_IDS:
                    ids.append(identity_of(record, api=client.api, resource=self.resource))
                when = time_of(record, resource=self.resource)
                newest = when if newest is None or (when is not None and when > newest) else newest
            if count >= self.min_records:
                break
        what = f"{count} of {seen} records match" if self.predicate else f"there are {count} records"
        if count < self.min_records:
            return PollResult(standing=PollStatus.NOT_YET, what=what)
        result = {"resource": self.resource.name, "count": count, "ids": ids, "watermark": safe_text(newest)}
        return PollResult(standing=PollStatus.FOUND, what=what, result=result)


def walk_for_look(client: ApiClient, *, resource: Resource, query: Query, page_size: int) -> Walk:
    """Prepare the walk of one look: within it, nothing is tried twice."""
    return Walk(
        client=client,
        resource=resource,
        path=query.path,
        params=query.params,
        page_size=min(page_size, resource.max_page_size or page_size),
        limits=ONE_TRY,
    )


def identity_of(record: Mapping[str, Any], *, api: str, resource: Resource) -> str:
    """Return what tells a record from others, as a short text.

    :raises ProtocolError: it repeats a credential.
    """
    identity = "/".join(_shown(record.get(name)) for name in resource.primary_key)
    if holds_secret(identity):
        reason = "the key of a record repeats a credential, and is neither kept nor told"
        raise ProtocolError(RequestContext(api=api, resource=resource.name, reason=reason))
    return identity[:200]


def _shown(value: object) -> str:
    try:
        return str(value)
    except RecursionError:  # an id that is an object, nested as deeply as a decoder goes
        return "…"


def time_of(record: Mapping[str, Any], *, resource: Resource) -> str | None:
    """Give the text that tells when a record last changed; none where nothing does."""
    if resource.time_column is None:
        return None
    value: Any = record
    for name in str(resource.columns.get(resource.time_column, resource.time_column)).split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value[:40] if isinstance(value, str) else None


def find_predicate(path: str) -> Predicate:
    """Import a predicate by its path, such as ``my_package.my_module.my_function``.

    :raises ParameterError: there is none.
    """
    return import_function("predicate", path)
