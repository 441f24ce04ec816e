# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A page: an answer taken apart into its records and what leads on from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import msgspec

from limio_limitrail.api.envelope import EnvelopeReader
from limio_limitrail.api.errors import Failure, ProtocolError
from limio_limitrail.api.pagination import BadCursorError, Cursor, Meta
from limio_limitrail.api.redact import safe_text
from limio_limitrail.api.resource import Resource
from limio_limitrail.api.secret import Secret


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of a list.

    :param raw_records: the records one by one, undecoded.
    :param following: the next page's cursor; none on the last page.
    :param total: how many records match in all, where the API says so.
    :param number: the page's place in this walk, from 1.
    :param wrapped: False where it is known that no record has a line break in it.
    :param ends_slice: True on the last page of a slice, where a list is walked through slice by slice.
    """

    raw_records: list[msgspec.Raw]
    following: Cursor | None
    total: int | None
    number: int
    wrapped: bool = True
    ends_slice: bool = False

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
    body: bytes, *, resource: Resource, envelope: EnvelopeReader, call: Failure, number: int, secrets: Iterable[Secret] = ()
) -> Page:
    """Take an answer apart.

    :param body: the whole body.
    :param resource: where its records and its cursor are.
    :param envelope: reads the answers of this walk.
    :param call: what errors say about the call.
    :param number: the page's place in the walk.
    :param secrets: credentials that no error may repeat.
    :raises ProtocolError: the body is not JSON, the records are missing or no list, or the cursor cannot be read.
    """
    secrets = tuple(secrets)

    def broken(reason: str) -> ProtocolError:
        return ProtocolError(replace(call, status=200, reason=reason))

    records, meta = envelope.read(body, broken=broken)
    if records is None:
        found = ", ".join(sorted(repr((safe_text(key, secrets=secrets) or "")[:40]) for key in list(meta)[:8])) or "nothing"
        raise broken(f"expected a list in {resource.records!r}, found no such member (the answer has {found})")
    try:
        following = resource.paging.following(meta)
    except BadCursorError as error:
        raise broken(str(error)) from None
    # Looked for here, once in the whole answer, because to look at each record takes ten times as long.
    wrapped = b"\n" in body or b"\r" in body
    return Page(raw_records=records, following=following, total=_total(meta, resource), number=number, wrapped=wrapped)


def _total(meta: Meta, resource: Resource) -> int | None:
    if resource.total is None or resource.total not in meta:
        return None
    try:
        return msgspec.json.decode(meta[resource.total], type=int)
    except msgspec.ValidationError:
        return None
