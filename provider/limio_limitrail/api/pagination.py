# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The paging styles, as small state machines without state: the first page's parameters, and from an answer the next page's.

A cursor is a plain mapping of query parameters, so that it can be kept in a state store as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

Cursor = Mapping[str, str]
"""The query parameters that ask for one particular page."""

Meta = Mapping[str, msgspec.Raw]
"""An answer's top-level members besides the records, undecoded."""


class BadCursorError(ValueError):
    """The member of the answer that leads to the next page has a shape that no documentation knows."""


class Paging(Protocol):
    """One way to walk through a list."""

    @property
    def page_size_param(self) -> str | None:
        """The query parameter that sets the records a page; none where the API has none."""

    @property
    def cursor_repeats(self) -> bool:
        """True where the same cursor may stand on every page because the API keeps the position."""

    @property
    def resumable(self) -> bool:
        """True where an older cursor still leads to the page that it once led to."""

    def first(self) -> Cursor:
        """Give the parameters that the first page needs besides its size."""

    def following(self, meta: Meta) -> Cursor | None:
        """Give the next page's parameters; none on the last page.

        :raises BadCursorError: the answer's cursor cannot be read.
        """


@dataclass(frozen=True, kw_only=True)
class CursorPair:
    """Limio's catalog: ``queryMore: {from, alias}``, switched on by ``opt.all=true`` (Limio catalog API documentation).

    The documented sample of ``from`` decodes to the beginning of an Elasticsearch scroll id. It is therefore assumed that the API
    keeps the position, that the value may stay the same from page to page, and that an old one does not lead back.
    """

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
        cursor = {"opt.all": "true", "opt.queryMoreFrom": start}
        if alias:
            cursor["opt.queryMoreAlias"] = alias
        return cursor


@dataclass(frozen=True, kw_only=True)
class CursorString:
    """Limio's objects and baskets: a string ``queryMore`` that goes back as the parameter of the same name (Limio objects API
    documentation; that it may be absent or empty at the end was seen in public client code)."""

    page_size_param: str | None = "limit"
    cursor_param: str = "queryMore"
    cursor_member: str = "queryMore"
    cursor_repeats: bool = False
    resumable: bool = True

    def first(self) -> Cursor:
        return {}

    def following(self, meta: Meta) -> Cursor | None:
        value = _decode(meta.get(self.cursor_member))
        if value in (None, "", {}):
            return None
        if not isinstance(value, str):
            raise BadCursorError(f"{self.cursor_member} is {_kind(value)}, expected a string")
        return {self.cursor_param: value}


_WORDS_FOR_MORE = frozenset(
    {
        "next", "nextcursor", "nextlink", "nextpage", "nextpagetoken", "nexttoken", "nextoffset", "odatanextlink", "querymore",
        "continuationtoken", "hasmore", "hasnext", "hasnextpage",
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SinglePage:
    """A list that comes whole in one answer.

    :param refuse_more: take an answer that names a next page for an error. Where no document says that a list has no pages, the
        rest of it would else be lost without a word.
    """

    refuse_more: bool = False

    page_size_param: str | None = None
    cursor_repeats: bool = False
    resumable: bool = True

    def first(self) -> Cursor:
        return {}

    def following(self, meta: Meta) -> Cursor | None:
        for name in meta if self.refuse_more else ():
            word = "".join(letter for letter in name.lower() if letter.isalnum())
            if word in _WORDS_FOR_MORE and _decode(meta[name]) not in (None, "", False, 0, {}, []):
                raise BadCursorError(
                    f"the answer has a member {word!r}, so that the list has more pages than this Resource knows of: "
                    "give one with paging=CursorString(...)"
                )
        return None


def _decode(raw: msgspec.Raw | None) -> object:
    return None if raw is None else msgspec.json.decode(raw)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
