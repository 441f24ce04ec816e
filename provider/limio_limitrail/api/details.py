# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Replace a list's summaries by the whole objects, fetched concurrently."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from string import Formatter
from urllib.parse import unquote

import msgspec

from limio_limitrail.api.client import ApiClient
from limio_limitrail.api.errors import NotFoundError, ParameterError, ProtocolError, RequestContext
from limio_limitrail.api.json_body import OK, read_record
from limio_limitrail.api.page import Page
from limio_limitrail.api.redact import holds_secret
from limio_limitrail.api.resource import Resource, fill_path
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.urls import unfit_part

log = logging.getLogger(__name__)


class _Identified(msgspec.Struct):
    id: str | int


_ID = msgspec.json.Decoder(_Identified)


def with_details(
    pages: Iterator[Page],
    *,
    client: ApiClient,
    resource: Resource,
    list_path: str,
    concurrency: int,
) -> Iterator[Page]:
    """Yield the same pages with whole objects instead of summaries, in the same order.

    An object that was deleted before it is fetched keeps its summary, so that no record of the list is lost.

    :param list_path: the list's path, filled in; the detail path gets the same values.
    :param concurrency: the most requests in flight.
    :raises ParameterError: the resource has no detail path.
    :raises ApiError: an object could not be fetched.
    """
    if resource.detail_path is None:
        raise ParameterError(f"resource {resource.name!r} has no path for a single record, so detail=True cannot fetch any")
    template = resource.detail_path
    parts = _parts_of(list_path, resource=resource)
    gone = 0

    @raises_bare
    def fetch(summary: msgspec.Raw) -> tuple[bytes, bool]:
        identity = _identity_of(summary)
        if holds_secret(identity):
            reason = "the 'id' of a record repeats a credential, and is not sent"
            raise ProtocolError(RequestContext(api=client.api, resource=resource.name, reason=reason))
        if (unfit := unfit_part(identity)) is not None:
            reason = f"a record of the list has no usable text in 'id', so it cannot be fetched: {unfit}"
            raise ProtocolError(RequestContext(api=client.api, resource=resource.name, reason=reason))
        path = fill_path(template, {**parts, "id": identity}, resource=resource.name)
        status = OK

        def broken(reason: str) -> ProtocolError:
            return ProtocolError(
                RequestContext(api=client.api, method="GET", path=path, resource=resource.name, status=status, reason=reason)
            )

        try:
            response = client.send(path=path, resource=resource.name, scope=resource.scope, credentials=resource.credentials)
        except NotFoundError:
            return bytes(summary), True
        status = response.status
        # Read before it joins the others: one broken body would make the whole page unreadable.
        record, _ = read_record(response, broken=broken)
        if _identity_of(record) != identity:
            raise broken("it is another record than the one requested: its 'id' differs")
        return record.strip(), False

    with ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="limio-detail") as pool:
        for page in pages:
            fetched = list(pool.map(fetch, page.raw_records))
            gone += sum(missing for _, missing in fetched)
            yield replace(page, raw_records=[msgspec.Raw(body) for body, _ in fetched], wrapped=True)
    if gone:
        log.warning(
            "%s: %d objects were gone when they were fetched; they keep the summary that the list held.", resource.name, gone
        )


def _identity_of(record: bytes | msgspec.Raw) -> str:
    """Return a record's id as a text; an empty one where it has none that can be requested."""
    try:
        return str(_ID.decode(record).id)
    except (msgspec.DecodeError, RecursionError):
        return ""


def _parts_of(list_path: str, *, resource: Resource) -> dict[str, str]:
    pattern, named = "", set[str]()
    for text, name, _, _ in Formatter().parse(resource.path):
        pattern += re.escape(text)
        if name:
            pattern += f"(?P={name})" if name in named else f"(?P<{name}>[^/]*)"
            named.add(name)
    found = re.fullmatch(pattern, list_path)
    return {name: unquote(value) for name, value in found.groupdict().items()} if found else {}
