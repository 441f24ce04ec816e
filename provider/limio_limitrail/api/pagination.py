# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Paging styles: the parameters of the first page, and from a response those of the next page; and scroll ids in cursors.

A cursor is a mapping of query parameters, so that it can be kept in a state store as it is.

Elasticsearch and OpenSearch write the kind of search into their scroll ids, in Base64: ``queryThenFetch``, ``queryAndFetch`` or
``scan``, since version 7.7 behind ``include_context_uuid`` (``TransportSearchHelper`` in their sources). An API may wrap such an
id once more, in JSON, in Base64, or in both.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Protocol
from urllib.parse import unquote_to_bytes

import msgspec

from limio_limitrail.api.secret_encodings import in_base64
from limio_limitrail.lazy import lazy_pattern

Cursor = Mapping[str, str]
"""The query parameters of one particular page."""

Meta = Mapping[str, msgspec.Raw]
"""A response's top-level members besides the records, undecoded."""

MAX_CURSOR_LENGTH = 100_000
"""Characters of a cursor. Elasticsearch's scroll ids, which grow with the shards, stay far below it."""


class BadCursorError(ValueError):
    """The member of the response that leads to the next page has a shape that no documentation knows."""


class Paging(Protocol):
    """How to get from one page of a list to the next."""

    @property
    def page_size_param(self) -> str | None:
        """The query parameter for the page size; None where the API has none."""

    @property
    def cursor_repeats(self) -> bool:
        """True where every page may have the same cursor because the API keeps the position itself; False lets cursors tell."""

    @property
    def resumable(self) -> bool:
        """False where an older cursor does not lead back to its page, for the same reason; True lets cursors tell."""

    def first(self) -> Cursor:
        """Return the parameters of the first page besides its size."""

    def next_cursor(self, meta: Meta) -> Cursor | None:
        """Return the next page's parameters, None on the last page; raise `BadCursorError` for a cursor that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class CursorPair:
    """Limio's catalog: ``queryMore: {from, alias}``, switched on by ``opt.all=true`` (Limio catalog API documentation).

    The documented sample of ``from`` decodes to the beginning of an Elasticsearch scroll id, and ``alias`` is an index's. It is
    therefore assumed that the API keeps the position itself, that the value may stay the same from page to page, and that an old
    one does not lead back.
    """

    cursor_member: ClassVar[str] = "queryMore"
    cursor_params: ClassVar[tuple[str, ...]] = ("opt.queryMoreFrom", "opt.queryMoreAlias")

    page_size_param: str | None = "opt.pageSize"
    cursor_repeats: bool = True
    resumable: bool = False

    def first(self) -> Cursor:
        return {"opt.all": "true"}

    def next_cursor(self, meta: Meta) -> Cursor | None:
        value = _decode(meta.get("queryMore"))
        if value in (None, "", {}):
            return None
        if not isinstance(value, dict):
            raise BadCursorError(f"queryMore is {_kind(value)}, expected an object with from and alias")
        members = _members(meta["queryMore"])
        start, alias = _decode(members.get("from")), _decode(members.get("alias"))
        if start in (None, ""):
            return None
        if not isinstance(start, str) or not isinstance(alias, str | None):
            raise BadCursorError(f"queryMore.from is {_kind(start)} and queryMore.alias is {_kind(alias)}, expected two strings")
        _check_length("queryMore", start, alias or "")
        cursor = {"opt.all": "true", "opt.queryMoreFrom": start}
        if alias:
            cursor["opt.queryMoreAlias"] = alias
        return cursor


@dataclass(frozen=True, kw_only=True)
class CursorString:
    """Limio's objects and baskets: a string ``queryMore`` that goes back as the parameter of the same name (Limio objects API
    documentation; that it may be absent or empty at the end was seen in public client code).

    The documented sample for objects is a scroll id, that for baskets is none: each cursor is checked as it comes.

    :param page_size_param: the query parameter that sets the page size; None where the API has none.
    :param cursor_param: the query parameter that a cursor goes back as.
    :param cursor_member: the member of the response that holds it, or its dotted path, such as ``meta.nextCursor``.
    :param cursor_repeats: True says beforehand that the API keeps the position itself, and that the cursor may stay the same.
    :param resumable: False says beforehand that the API keeps the position itself.
    """

    page_size_param: str | None = "limit"
    cursor_param: str = "queryMore"
    cursor_member: str = "queryMore"
    cursor_repeats: bool = False
    resumable: bool = True

    @property
    def cursor_params(self) -> tuple[str, ...]:
        """The query parameters that a cursor is made of."""
        return (self.cursor_param,)

    def first(self) -> Cursor:
        return {}

    def next_cursor(self, meta: Meta) -> Cursor | None:
        value = _at(meta, self.cursor_member)
        if value in (None, "", {}):
            return None
        if not isinstance(value, str):
            raise BadCursorError(f"{self.cursor_member} is {_kind(value)}, expected a string")
        _check_length(self.cursor_member, value)
        return {self.cursor_param: value}


@dataclass(frozen=True, kw_only=True)
class SinglePage:
    """A list that comes whole in one response. One that reports more is an error (`limio_limitrail.api.continuation`)."""

    page_size_param: str | None = None
    cursor_repeats: bool = False
    resumable: bool = True

    def first(self) -> Cursor:
        return {}

    def next_cursor(self, meta: Meta) -> Cursor | None:  # noqa: ARG002 - there is no next page, whatever the response says
        return None


def _decode(raw: msgspec.Raw | None) -> object:
    with _readable():
        return None if raw is None else msgspec.json.decode(raw)


def _members(raw: msgspec.Raw) -> Meta:
    """Return the members of an object that has each once: of two cursors, one may say that the list goes on."""
    from limio_limitrail.api.json_body import unique_members

    with _readable():
        return unique_members(raw, broken=BadCursorError)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise BadCursorError("the member that leads to the next page is nested deeper than can be read") from None
    except msgspec.DecodeError:
        raise BadCursorError("the member that leads to the next page holds a number beyond all that can be read") from None


def _at(meta: Meta, path: str) -> object:
    """Decode a member; one whose name has a dot in it goes before a path."""
    if path in meta or "." not in path:
        return _decode(meta.get(path))
    first, *rest = path.split(".")
    raw = meta.get(first)
    for name in rest:
        raw = _members(raw).get(name) if raw is not None and bytes(raw).startswith(b"{") else None
    return _decode(raw)


def _check_length(member: str, *values: str) -> None:
    if (length := max(map(len, values))) > MAX_CURSOR_LENGTH:
        raise BadCursorError(f"{member} has {length:,} characters, and goes back in a URL: no more than {MAX_CURSOR_LENGTH:,} do")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


_LONGEST_PAGE_NUMBER = 9


def page_numbers(cursor: Cursor, *, paging: Paging) -> set[int]:
    """Return the numbers in a cursor that may count pages."""
    values = set(cursor.values()) - set(paging.first().values())
    return {int(value) for value in values if value.isascii() and value.isdigit() and len(value) <= _LONGEST_PAGE_NUMBER}


_SCROLL_WORDS = (b"queryThenFetch", b"queryAndFetch", b"include_context_uuid", b"scroll_id", b"scrollId", b"scrollID")
_SCAN = lazy_pattern(rb"\A(?:scan;[0-9]|\x04scan)")
_BASE64_RUN = lazy_pattern(rb"[A-Za-z0-9+/_-]{8,}={0,2}")
_WRAPPINGS = 3
_MAX_RUNS = 20
_SCROLL_NAMES = frozenset({"scrollid", "scroll"})


def _scroll_marks() -> bytes:
    return b"|".join(re.escape(form) for word in _SCROLL_WORDS for form in (word, *in_base64(word)))


_SCROLL_MARKS = lazy_pattern(_scroll_marks)


def is_scroll(cursor: Mapping[str, str]) -> bool:
    """Return whether a cursor is a scroll id, or is called one."""
    return any(
        "".join(filter(str.isalpha, name.lower())) in _SCROLL_NAMES or _holds_scroll_id(value.encode("utf-8", "replace"))
        for name, value in cursor.items()
    )


def is_scan(cursor: Mapping[str, str]) -> bool:
    """Return whether a scroll is a scan (Elasticsearch 1), whose first response holds no record."""
    return any(_SCAN.match(_from_base64(value.encode("utf-8", "replace"))) for value in cursor.values())


def _holds_scroll_id(text: bytes, *, wrappings: int = _WRAPPINGS) -> bool:
    if _SCROLL_MARKS.search(text) or _SCAN.match(text):
        return True
    if not wrappings:
        return False
    runs = _BASE64_RUN.findall(unquote_to_bytes(text) if b"%" in text else text)
    return any(_holds_scroll_id(_from_base64(run), wrappings=wrappings - 1) for run in runs[:_MAX_RUNS])


def _from_base64(text: bytes) -> bytes:
    bare = text.rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
    try:
        return base64.b64decode(bare + b"=" * (-len(bare) % 4))
    except (binascii.Error, ValueError):
        return b""
