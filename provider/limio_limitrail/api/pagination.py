# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The paging styles, as small state machines without state: the first page's parameters, and from an answer the next page's.

A cursor is a plain mapping of query parameters, so that it can be kept in a state store as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import msgspec

Cursor = Mapping[str, str]
"""The query parameters that ask for one particular page."""

Meta = Mapping[str, msgspec.Raw]
"""An answer's top-level members besides the records, undecoded."""


LONGEST_CURSOR = 100_000
"""Characters of a cursor. Elasticsearch's scroll ids, which grow with the shards, stay far below it."""


class BadCursorError(ValueError):
    """The member of the answer that leads to the next page has a shape that no documentation knows."""


class Paging(Protocol):
    """One way to walk through a list."""

    @property
    def page_size_param(self) -> str | None:
        """The query parameter that sets the records a page; none where the API has none."""

    @property
    def cursor_repeats(self) -> bool:
        """True where the same cursor may stand on every page because the API keeps the place.

        False leaves it to the cursors that come: one that is a scroll id, or that repeats with other records, tells the same.
        """

    @property
    def resumable(self) -> bool:
        """False where an older cursor does not lead to the page that it once led to, because the API keeps the place.

        True leaves it to the cursors that come, likewise.
        """

    def first(self) -> Cursor:
        """Give the parameters that the first page needs besides its size."""

    def following(self, meta: Meta) -> Cursor | None:
        """Give the next page's parameters; none on the last page.

        :raises BadCursorError: the answer's cursor cannot be read.
        """


@dataclass(frozen=True, kw_only=True)
class CursorPair:
    """Limio's catalog: ``queryMore: {from, alias}``, switched on by ``opt.all=true`` (Limio catalog API documentation).

    The documented sample of ``from`` decodes to the beginning of an Elasticsearch scroll id, and ``alias`` is an index's. It is
    therefore assumed that the API keeps the place, that the value may stay the same from page to page, and that an old one does
    not lead back.
    """

    cursor_member: ClassVar[str] = "queryMore"
    cursor_params: ClassVar[tuple[str, ...]] = ("opt.queryMoreFrom", "opt.queryMoreAlias")

    page_size_param: str | None = "opt.pageSize"
    cursor_repeats: bool = True
    resumable: bool = False

    def first(self) -> Cursor:
        return {"opt.all": "true"}

    def following(self, meta: Meta) -> Cursor | None:
        value = _decode(meta.get("queryMore"))
        if value in (None, "", {}):
            return None
        if not isinstance(value, dict):
            raise BadCursorError(f"queryMore is {_kind(value)}, expected an object with from and alias")
        start, alias = value.get("from"), value.get("alias")
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

    The documented sample for objects is a scroll id, that for baskets is none: each cursor is looked at as it comes.

    :param page_size_param: the query parameter that sets the records a page; None where the API has none.
    :param cursor_param: the query parameter that a cursor goes back as.
    :param cursor_member: the member of the answer that holds it, or its dotted path, such as ``meta.nextCursor``.
    :param cursor_repeats: True says beforehand that the API keeps the place, and that the cursor may stay the same.
    :param resumable: False says beforehand that the API keeps the place.
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

    def following(self, meta: Meta) -> Cursor | None:
        value = _at(meta, self.cursor_member)
        if value in (None, "", {}):
            return None
        if not isinstance(value, str):
            raise BadCursorError(f"{self.cursor_member} is {_kind(value)}, expected a string")
        _check_length(self.cursor_member, value)
        return {self.cursor_param: value}


@dataclass(frozen=True, kw_only=True)
class SinglePage:
    """A list that comes whole in one answer. One that announces more is an error (`limio_limitrail.api.continuation`)."""

    page_size_param: str | None = None
    cursor_repeats: bool = False
    resumable: bool = True

    def first(self) -> Cursor:
        return {}

    def following(self, meta: Meta) -> Cursor | None:  # noqa: ARG002 - nothing follows, whatever the answer says
        return None


def _decode(raw: msgspec.Raw | None) -> object:
    try:
        return None if raw is None else msgspec.json.decode(raw)
    except RecursionError:
        raise BadCursorError("the member that leads to the next page is nested deeper than can be read") from None
    except msgspec.DecodeError:
        raise BadCursorError("the member that leads to the next page holds a number beyond all that can be read") from None


def _at(meta: Meta, path: str) -> object:
    """Decode a member; one whose name has a dot in it goes before a path."""
    if path in meta or "." not in path:
        return _decode(meta.get(path))
    first, *rest = path.split(".")
    value = _decode(meta.get(first))
    for name in rest:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _check_length(member: str, *values: str) -> None:
    if (length := max(map(len, values))) > LONGEST_CURSOR:
        raise BadCursorError(f"{member} has {length:,} characters, and goes back in a URL: no more than {LONGEST_CURSOR:,} do")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
