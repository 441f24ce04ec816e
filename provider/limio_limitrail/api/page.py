# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A page of a list: its records, undecoded, as Python objects or as a pandas frame, and the cursor of the next page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from limio_limitrail.api.errors import ProtocolError
from limio_limitrail.api.json_body import (
    NO_CONTENT,
    OK,
    TOO_DEEP,
    MakeError,
    check_utf8,
    depth_checked,
    failure_member,
    kind_of,
    meaning_of,
    read_object,
    read_total,
    unique_members,
    warning_member,
)
from limio_limitrail.api.pagination import BadCursorError, Cursor, Meta
from limio_limitrail.api.redact import repeats_secret, safe_text
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.resource import Resource
from limio_limitrail.lazy import lazy_pattern

if TYPE_CHECKING:
    import pandas as pd

    from limio_limitrail.api.responses import Response

log = logging.getLogger(__name__)

_RECORDS = msgspec.json.Decoder(list[msgspec.Raw])
_MISSING = msgspec.Raw(b"")

_FIELD_NAME = lazy_pattern(r"[^\"\\\x00-\x1f]*")
"""The names that a Struct's member may have."""

MAX_MEMBERS = 50
"""Responses whose members have ever new names are read in two passes."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of a list.

    :param raw_records: the records one by one, undecoded.
    :param next_cursor: the next page's cursor; None on the last page.
    :param total: how many records match in all, where the API says so.
    :param number: the number of the page, from 1.
    :param wrapped: False where it is known that no record has a line break in it.
    :param ends_slice: True on the last page of a slice, where a list is read slice by slice.
    :param resumable: False where another reader cannot continue from `next_cursor`, because the API keeps, or may keep, the
        position itself.
    :param total_is_exact: False where `total` is a lower bound.
    :param meta: the response's other members, undecoded.
    :param headers: the response's headers.
    """

    raw_records: list[msgspec.Raw]
    next_cursor: Cursor | None
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


class EnvelopeReader:
    """Reads the responses of one list, in a single pass wherever that is possible.

    The members that a response had are expected of the next one, in a type that refuses all others: a response either fits it in
    full, or is decoded again in two passes, and nothing that came is ever skipped.

    :param records: the member with the records.
    :param ignored: members that may come twice with different values; those of any other are an error.
    """

    def __init__(self, records: str, *, ignored: Collection[str] = ()) -> None:
        self._records = records
        self._ignored = frozenset(ignored) - {records}
        self._names: tuple[str, ...] = ()
        self._decoder: msgspec.json.Decoder[Any] | None = None

    def read(
        self, body: bytes, *, broken: MakeError, check: Callable[[Meta], None] = lambda _: None
    ) -> tuple[list[msgspec.Raw] | None, Meta]:
        """Return the records, undecoded, and the other members.

        :param check: called with the other members before anything is expected of the records; may raise.
        :returns: None for the records where the response has no such member.
        :raises ProtocolError: the body is no JSON object, or its records are no list.
        """
        if self._decoder is not None:
            try:
                check_utf8(body, broken=broken)
                envelope = self._decoder.decode(body)
            except (msgspec.DecodeError, RecursionError):
                pass  # other members than before, or an error that two passes describe
            else:
                found = ((name, getattr(envelope, f"f{index}")) for index, name in enumerate(self._names))
                meta = {name: raw for name, raw in found if bytes(raw)}
                if _compact_length((self._records, *meta), values=meta.values(), records=envelope.records) != _length(body):
                    with depth_checked(broken):
                        unique_members(body, broken=broken, matters=self._matters)
                check(meta)
                return envelope.records, meta
        meta = read_object(body, broken=broken, matters=self._matters)[1]
        raw = meta.pop(self._records, None)
        check(meta)
        if raw is None:
            return None, meta
        array = bytes(raw)
        if not array.startswith(b"["):
            raise broken(f"expected a list in {self._records!r}, found {kind_of(array)}")
        self._expect(meta)
        with depth_checked(broken):
            return _RECORDS.decode(array), meta

    def _matters(self, name: str) -> bool:
        return name not in self._ignored

    def _expect(self, names: Iterable[str]) -> None:
        """Make the type of a response that has these members besides its records."""
        known = tuple(dict.fromkeys((*self._names, *names)))
        if known == self._names and self._decoder is not None:
            return  # something else did not fit: the type would be the same
        if len(known) > MAX_MEMBERS or not all(_FIELD_NAME.fullmatch(name) for name in (self._records, *known)):
            # Reset, so that ever new names do not accumulate.
            self._names, self._decoder = (), None
            return
        self._names = known
        attributes = {f"f{index}": name for index, name in enumerate(self._names)}
        members: list[tuple[str, Any, Any]] = [(attribute, msgspec.Raw, _MISSING) for attribute in attributes]
        envelope = msgspec.defstruct(
            "Envelope",
            [("records", list[msgspec.Raw]), *members],
            rename={"records": self._records, **attributes},
            forbid_unknown_fields=True,
        )
        self._decoder = msgspec.json.Decoder(envelope)


def _compact_length(names: Iterable[str], *, values: Collection[msgspec.Raw], records: list[msgspec.Raw]) -> int:
    """Return the length of a response without white space that has these members, each once: nothing else fits into it.

    To join the values takes a tenth of the time of another look for members that come twice.
    """
    names_and_colons = sum(len(name.encode()) + 3 for name in names)
    # With the braces, the comma behind the records, and their brackets.
    return 2 + names_and_colons + len(b",".join(values)) + bool(values) + 2 + len(b",".join(records))


def _length(body: bytes) -> int:
    """Return the length of a response without a line break at its end."""
    return len(body) - (2 if body.endswith(b"\r\n") else 1 if body.endswith(b"\n") else 0)


def parse_page(
    response: Response,
    *,
    resource: Resource,
    envelope: EnvelopeReader,
    context: RequestContext,
    number: int,
    warned: set[str] | None = None,
) -> Page:
    """Read a page of a list; a 204 is an empty list.

    :param number: the number of the page, from 1.
    :param warned: the warnings that have been logged of this list, so that each is logged once.
    :raises ProtocolError: the response is no list: its status is neither 200 nor 204, a member says that it failed, the body is
        not JSON, the records are missing or no list, or the cursor cannot be read or repeats a credential.
    """
    warned = set() if warned is None else warned
    ignored = frozenset(resource.ignored_members)

    def broken(reason: str) -> ProtocolError:
        return ProtocolError(msgspec.structs.replace(context, status=response.status, reason=reason))

    def named(member: str) -> str:
        return repr((safe_text(member) or "")[:80])

    def check(meta: Meta) -> None:
        if (member := failure_member(meta, ignored=ignored)) is not None:
            raise broken(f"its member {named(member)} says that it failed, or is not whole")
        if (member := warning_member(meta, ignored=ignored)) is not None and member not in warned:
            warned.add(member)
            log.warning("%s: the response has a warning, in its member %s.", resource.name, named(member))

    if response.status not in (OK, NO_CONTENT):
        meaning = meaning_of(response.status)
        says = f" ({response.status} says that {meaning})" if meaning else ""
        raise broken(f"this status is no list: only 200 and 204 are whole responses{says}")
    if response.status == NO_CONTENT:
        return Page(raw_records=[], next_cursor=None, total=None, number=number, wrapped=False, headers=response.headers)
    body = response.body
    records, meta = envelope.read(body, broken=broken, check=check)
    if records is None:
        found = ", ".join(named(key) for key in sorted(meta)[:8]) or "nothing"
        raise broken(f"expected a list in {resource.records!r}, found no such member (the response has {found})")
    try:
        next_cursor = resource.paging.next_cursor(meta)
    except BadCursorError as error:
        raise broken(str(error)) from None
    if next_cursor is not None and repeats_secret(next_cursor):
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
        next_cursor=next_cursor,
        total=total.records if total else None,
        total_is_exact=total is None or total.exact,
        number=number,
        # Once in the whole body: to search each record takes ten times as long.
        wrapped=b"\n" in body or b"\r" in body,
        meta=meta,
        headers=response.headers,
    )


def exact_number(text: str) -> float | str:
    """Return a number with a fraction or an exponent; as text where a double would change it.

    ``1.10`` is the double 1.1, which has the same value. ``0.1234567890123456789`` and ``1e400`` are no doubles.
    """
    number = float(text)
    if number in (float("inf"), float("-inf")):
        return text
    # A double keeps up to fifteen digits, except below its smallest exponent.
    if len(text) <= 15 and "e" not in text and "E" not in text:
        return number
    try:
        return number if Decimal(text) == Decimal(repr(number)) else text
    except InvalidOperation:
        return text


_DECODER = msgspec.json.Decoder(list[dict[str, Any]], float_hook=exact_number)
_INT64 = range(-(2**63), 2**63)


def decode_records(records: bytes) -> list[dict[str, Any]]:
    """Decode a JSON array of records; raise a ValueError if an element is no object."""
    return _DECODER.decode(records)


def decode_page(page: Page, *, api: str, resource: str) -> list[dict[str, Any]]:
    """Decode a page's records; raise `ProtocolError` if an element is no object, or is nested too deep."""
    try:
        return decode_records(page.records)
    except msgspec.ValidationError as error:
        # The library's text names types and positions, never a value.
        reason = f"page {page.number}: expected a list of objects ({error})"
    except RecursionError:
        reason = f"page {page.number}: {TOO_DEEP}"
    raise ProtocolError(RequestContext(api=api, resource=resource, status=200, reason=reason))


def to_frame(records: Iterable[dict[str, Any]], *, flatten: bool) -> pd.DataFrame:
    """Return a frame whose columns hold the exact values, never rounded ones.

    Columns of one scalar kind get an Arrow type with nulls. Mixed and nested ones, and integers beyond 64 bits, stay Python
    objects.

    :param flatten: spread nested objects over columns named by their path.
    :raises ValueError: two values of a record would share a column.
    """
    import pandas as pd

    rows = [_flat(record) for record in records] if flatten else list(records)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pd.DataFrame({name: _column([row.get(name) for row in rows]) for name in names}, columns=names, index=range(len(rows)))


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    pending = list(reversed(record.items()))
    while pending:
        name, value = pending.pop()
        if isinstance(value, dict) and value:
            pending.extend((f"{name}.{inner}", item) for inner, item in reversed(value.items()))
        elif name in flat:
            raise ValueError(f"flattened, two values of one record would share the column {name!r}: leave flatten out")
        else:
            flat[name] = value
    return flat


def _column(values: list[Any]) -> pd.Series[Any]:
    import pandas as pd
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float} and all(abs(value) <= 2**53 for value in values if isinstance(value, int)):
        kinds = {float}
        values = [None if value is None else float(value) for value in values]
    simple = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    if len(kinds) == 1 and (kind := kinds.pop()) in simple and (kind is not int or all(v is None or v in _INT64 for v in values)):
        return pd.Series(values, dtype=pd.ArrowDtype(simple[kind]))
    return pd.Series(values, dtype=object)
