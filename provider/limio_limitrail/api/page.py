# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A page: an answer taken apart into its records and what leads on from it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from limio_limitrail.api.body_errors import NO_CONTENT, failure_member, unfit_status, warning_member
from limio_limitrail.api.envelope import EnvelopeReader
from limio_limitrail.api.errors import ProtocolError, RequestContext
from limio_limitrail.api.pagination import BadCursorError, Cursor, Meta
from limio_limitrail.api.redact import repeats_secret, safe_text
from limio_limitrail.api.resource import Resource
from limio_limitrail.api.totals import read_total

if TYPE_CHECKING:
    from limio_limitrail.api.client import Answer

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of a list.

    :param raw_records: the records one by one, undecoded.
    :param following: the next page's cursor; none on the last page.
    :param total: how many records match in all, where the API says so.
    :param number: the page's place in this walk, from 1.
    :param wrapped: False where it is known that no record has a line break in it.
    :param ends_slice: True on the last page of a slice, where a list is walked through slice by slice.
    :param resumable: False where another walk cannot go on from `following`, because the API keeps the place, or may do so.
    :param total_is_exact: False where `total` is a lower bound.
    :param meta: the answer's other members, undecoded.
    :param headers: the answer's headers.
    """

    raw_records: list[msgspec.Raw]
    following: Cursor | None
    total: int | None
    number: int
    wrapped: bool = True
    ends_slice: bool = False
    resumable: bool = True
    total_is_exact: bool = True
    meta: Meta = field(default_factory=dict, repr=False, compare=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def records(self) -> bytes:
        """The records as one JSON array."""
        if not self.raw_records:
            return b"[]"
        # The brackets go to the first and the last record, because to put them around the whole would copy it.
        texts: list[msgspec.Raw | bytes] = list(self.raw_records)
        texts[0] = b"[" + bytes(texts[0])
        texts[-1] = bytes(texts[-1]) + b"]"
        return b",".join(texts)


def split(
    answer: Answer,
    *,
    resource: Resource,
    envelope: EnvelopeReader,
    call: RequestContext,
    number: int,
    warned: set[str] | None = None,
) -> Page:
    """Take an answer apart.

    :param answer: the answer; one of 204 is an empty list.
    :param resource: where its records and its cursor are.
    :param envelope: reads the answers of this walk.
    :param call: what errors say about the call.
    :param number: the page's place in the walk.
    :param warned: what has been said about this list already, so that it is said once.
    :raises ProtocolError: the answer is no list: its status is none of 200 and 204, a member says that it failed, the body is not
        JSON, the records are missing or no list, or the cursor cannot be read or repeats a credential.
    """
    warned = set() if warned is None else warned
    ignored = frozenset(resource.ignored_members)

    def broken(reason: str) -> ProtocolError:
        return ProtocolError(replace(call, status=answer.status, reason=reason))

    def named(member: str) -> str:
        return repr((safe_text(member) or "")[:80])

    def check(meta: Meta) -> None:
        if (member := failure_member(meta, ignored=ignored)) is not None:
            raise broken(f"its member {named(member)} says that it failed, or is not whole")
        if (member := warning_member(meta, ignored=ignored)) is not None and member not in warned:
            warned.add(member)
            log.warning("%s: the answer holds a warning, in its member %s.", resource.name, named(member))

    if (reason := unfit_status(answer.status)) is not None:
        raise broken(f"this status is no list: {reason}")
    if answer.status == NO_CONTENT:
        return Page(raw_records=[], following=None, total=None, number=number, wrapped=False, headers=answer.headers)
    body = answer.body
    records, meta = envelope.read(body, broken=broken, check=check)
    if records is None:
        found = ", ".join(named(key) for key in sorted(meta)[:8]) or "nothing"
        raise broken(f"expected a list in {resource.records!r}, found no such member (the answer has {found})")
    try:
        following = resource.paging.following(meta)
    except BadCursorError as error:
        raise broken(str(error)) from None
    if following is not None and repeats_secret(following):
        raise broken("its cursor repeats a credential, so that it is neither kept nor sent back")
    raw_total = meta.get(resource.total) if resource.total is not None else None
    total = None if raw_total is None else read_total(raw_total)
    if raw_total is not None and total is None and "total" not in warned:
        warned.add("total")
        log.warning(
            "%s: the number in %r cannot be read, so that nothing watches over how many records come.",
            resource.name,
            resource.total,
        )
    return Page(
        raw_records=records,
        following=following,
        total=total.records if total else None,
        total_is_exact=total is None or total.exact,
        number=number,
        # Looked for here, once in the whole answer, because to look at each record takes ten times as long.
        wrapped=b"\n" in body or b"\r" in body,
        meta=meta,
        headers=answer.headers,
    )
