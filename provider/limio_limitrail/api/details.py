# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Replace the summaries of a list by the whole objects, which are fetched one by one."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from string import Formatter
from typing import TYPE_CHECKING
from urllib.parse import unquote

import msgspec

from limio_limitrail.api.errors import NotFoundError, ParameterError, ProtocolError
from limio_limitrail.api.json_body import OK, MakeError, read_record
from limio_limitrail.api.page import Page
from limio_limitrail.api.redact import holds_secret
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.resource import Resource, fill_path
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.urls import unfit_part

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient

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
    hides_ids: bool = False,
) -> Iterator[Page]:
    """Yield the same pages with whole objects instead of summaries, in the same order.

    An object that was deleted before it is fetched keeps its summary, so that no record of the list is lost.

    :param list_path: the list's path, filled in; the detail path gets the same values.
    :param concurrency: the most requests in flight.
    :param hides_ids: whether messages leave out which object they are about.
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
        identity, reason = identity_in(summary), None
        if holds_secret(identity):
            reason = "the 'id' of a record repeats a credential, and is not sent"
        elif (unfit := unfit_part(identity)) is not None:
            reason = f"a record of the list has no usable text in 'id', so it cannot be fetched: {unfit}"
        if reason is not None:
            raise ProtocolError(RequestContext(api=client.api, resource=resource.name, reason=reason))
        path = fill_path(template, {**parts, "id": identity}, resource=resource.name)
        shown_path = template if hides_ids else None
        status = OK

        def broken(reason: str) -> ProtocolError:
            shown = path if shown_path is None else shown_path
            return ProtocolError(
                RequestContext(api=client.api, method="GET", path=shown, resource=resource.name, status=status, reason=reason)
            )

        try:
            response = client.send(
                path=path,
                shown_path=shown_path,
                resource=resource.name,
                scope=resource.scope,
                credentials=resource.credentials,
            )
        except NotFoundError:
            return bytes(summary), True
        status = response.status
        # Read before it joins the others: one broken body would make the whole page unreadable.
        record, _ = read_record(response, broken=broken)
        check_identity(record, requested=identity, broken=broken)
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


def check_identity(record: bytes, *, requested: str, broken: MakeError) -> None:
    """Raise what `broken` makes if a response to a request for one record is another one."""
    if identity_in(record) != requested:
        raise broken("it is another record than the one requested: its 'id' differs")


def identity_in(record: bytes | msgspec.Raw) -> str:
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
