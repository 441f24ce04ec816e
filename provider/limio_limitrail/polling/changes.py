# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Read a watched list once, for all who watch it, and return the fingerprints of its records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from limio_limitrail.api.errors import ProtocolError
from limio_limitrail.api.json_body import OK, TOO_DEEP
from limio_limitrail.api.page import decode_page
from limio_limitrail.api.query import build_query
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.polling.conditions import Predicate, PredicateError, identity_of, list_reader, parse_time, read_list, time_of

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient
    from limio_limitrail.api.list_reader import ListReader
    from limio_limitrail.api.resource import Resource

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFingerprint:
    """What is remembered of a record: enough to recognize it, and no personal data.

    :param digest: of its key and time, or of the whole record if it has no time: it changes when the record does.
    :param when: when the record last changed, if it says so.
    """

    identity: str
    digest: int
    when: datetime | None

    def is_since(self, bound: datetime | None) -> bool:
        """Return whether the record may have changed since then."""
        return bound is None or self.when is None or self.when >= bound


def fingerprint_of(record: Mapping[str, Any], *, api: str, resource: Resource) -> RecordFingerprint:
    """Return a record's fingerprint.

    :raises ProtocolError: its key repeats a credential.
    """
    text = time_of(record, resource=resource)
    when = parse_time(text)
    key = [record.get(name) for name in resource.primary_key]
    # Two records that lack their key would look the same if they are of the same second.
    has_key = when is not None and key and not any(value in (None, "") for value in key)
    known = json.dumps([*key, text] if has_key else record, sort_keys=True, ensure_ascii=True, default=str)
    digest = hashlib.blake2b(known.encode("ascii"), digest_size=8).digest()
    return RecordFingerprint(
        identity=identity_of(record, api=api, resource=resource), digest=int.from_bytes(digest, "big"), when=when
    )


@dataclass(frozen=True, kw_only=True)
class WatchFilter:
    """Which records a watch is interested in.

    :param changed_after: the lower bound of their time; None for lists whose records have none.
    :param predicate: whether a record is of interest; without it, each one is.
    """

    changed_after: datetime | None
    predicate: Predicate | None = None


Matches = tuple[RecordFingerprint, ...] | PredicateError
"""What one watch found in a list, or that its predicate failed."""


@dataclass(frozen=True, kw_only=True)
class WatchedList:
    """A list that is polled for changes."""

    resource: Resource
    path_params: Mapping[str, str] = field(default_factory=dict)
    query_params: Mapping[str, str] = field(default_factory=dict)
    page_size: int = 100

    def poll(self, client: ApiClient, *, filters: Mapping[K, WatchFilter], now: datetime) -> dict[K, Matches]:
        """Read the list once, from the earliest bound of all filters on.

        :param now: the upper bound, for lists that need one.
        :raises ApiError: a request failed, or a response breaks the contract.
        """
        path, params = self._query(filters, now=now)
        reader = list_reader(client, resource=self.resource, path=path, params=params, page_size=self.page_size)
        return read_list(reader, lambda reader: self._fingerprints(reader, filters=filters))

    def _fingerprints(self, reader: ListReader, *, filters: Mapping[K, WatchFilter]) -> dict[K, Matches]:
        api = reader.client.api
        found: dict[K, list[RecordFingerprint]] = {watch: [] for watch in filters}
        failed: dict[K, PredicateError] = {}
        for page in reader.pages():
            for record in decode_page(page, api=api, resource=self.resource.name):
                try:
                    fingerprint = fingerprint_of(record, api=api, resource=self.resource)
                except RecursionError:
                    context = RequestContext(
                        api=api, resource=self.resource.name, status=OK, reason=f"page {page.number}: {TOO_DEEP}"
                    )
                    raise ProtocolError(context) from None
                for watch, one in filters.items():
                    if watch in failed or not fingerprint.is_since(one.changed_after):
                        continue
                    try:
                        if one.predicate is None or one.predicate(record):
                            found[watch].append(fingerprint)
                    except Exception as error:  # noqa: BLE001 - a predicate is the user's own code
                        failed[watch] = PredicateError.of(type(error), identity=fingerprint.identity)
        return {watch: failed.get(watch) or tuple(fingerprints) for watch, fingerprints in found.items()}

    def _query(self, filters: Mapping[K, WatchFilter], *, now: datetime) -> tuple[str, dict[str, str]]:
        bounds = [one.changed_after for one in filters.values()]
        time_filter = self.resource.time_filter
        since = until = None
        if time_filter is not None:
            since = min((bound for bound in bounds if bound is not None), default=None) if None not in bounds else None
            if time_filter.until is not None:
                until = now if since is None else max(now, since + timedelta(seconds=1))
        return build_query(self.resource, path_params=self.path_params, query_params=self.query_params, since=since, until=until)
