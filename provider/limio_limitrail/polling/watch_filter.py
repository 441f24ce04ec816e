# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One look at a list, for all who watch it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from limio_limitrail.api.body_errors import OK
from limio_limitrail.api.envelope import TOO_DEEP
from limio_limitrail.api.errors import ProtocolError, RequestContext
from limio_limitrail.api.query import build_query
from limio_limitrail.api.records import decode_page
from limio_limitrail.polling.conditions import Predicate, walk_for_look
from limio_limitrail.polling.fingerprints import RecordFingerprint, fingerprint_of

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient
    from limio_limitrail.api.resource import Resource

Who = TypeVar("Who", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class WatchFilter:
    """What somebody looks for.

    :param changed_after: what changed before it is not of interest; none in lists that tell no time.
    :param predicate: says whether a record is of interest; each one is where it is left out.
    """

    changed_after: datetime | None
    predicate: Predicate | None = None


class PredicateError(Exception):
    """A predicate failed on a record."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """A list that is looked at again and again.

    :param resource: the list.
    :param path_params: values for the path's placeholders.
    :param query_params: query parameters.
    :param page_size: records to ask for a page.
    """

    resource: Resource
    path_params: Mapping[str, str] = field(default_factory=dict)
    query_params: Mapping[str, str] = field(default_factory=dict)
    page_size: int = 100

    def look(
        self, client: ApiClient, *, eyes: Mapping[Who, WatchFilter], now: datetime
    ) -> dict[Who, tuple[RecordFingerprint, ...] | PredicateError]:
        """Walk through the list once, from the earliest floor on.

        :param eyes: who looks, and for what.
        :param now: the end of the window, for lists that have one.
        :returns: what each of them has seen, or that its predicate failed.
        :raises ApiError: a request failed, or an answer breaks the contract.
        """
        floors = [eye.changed_after for eye in eyes.values()]
        changed_after = None if None in floors else min((one for one in floors if one is not None), default=None)
        time_filter = self.resource.time_filter
        since = changed_after if time_filter is not None else None
        until = None
        if time_filter is not None and time_filter.until is not None:
            until = now if since is None else max(now, since + timedelta(seconds=1))
        query = build_query(
            self.resource,
            path_params=self.path_params,
            query_params=self.query_params,
            since=since,
            until=until,
        )
        walk = walk_for_look(client, resource=self.resource, query=query, page_size=self.page_size)
        seen: dict[Who, list[RecordFingerprint]] = {who: [] for who in eyes}
        failed: dict[Who, PredicateError] = {}
        for page in walk.pages():
            for record in decode_page(page, api=client.api, resource=self.resource.name):
                try:
                    fingerprint = fingerprint_of(record, api=client.api, resource=self.resource)
                except RecursionError:
                    reason = f"page {page.number}: {TOO_DEEP}"
                    raise ProtocolError(
                        RequestContext(api=client.api, resource=self.resource.name, status=OK, reason=reason)
                    ) from None
                for who, eye in eyes.items():
                    if who in failed or (
                        eye.changed_after is not None and fingerprint.when is not None and fingerprint.when < eye.changed_after
                    ):
                        continue
                    try:
                        if eye.predicate is None or eye.predicate(record):
                            seen[who].append(fingerprint)
                    except Exception as error:  # noqa: BLE001 - a predicate is the user's own code
                        # Its text may quote the record, which is nobody's business in a log.
                        failed[who] = PredicateError(f"{type(error).__name__} on record {fingerprint.identity!r}")
        return {who: failed.get(who) or tuple(fingerprints) for who, fingerprints in seen.items()}
