# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Detect in what seems to be the last response of a list that the list continues.

Names are compared by their letters and digits alone, in lower case. Words that other members also have (``next``, ``total``)
count at the top and in members that are about pages; words that have no other meaning (``nextCursor``, ``hasMore``) count in
every object. Lists are ignored: they hold records, or what belongs to records.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from limio_limitrail.api.json_body import members_of, normalized, read_total, value_of
from limio_limitrail.api.redact import safe_text
from limio_limitrail.lazy import lazy_pattern

_PAGING_OBJECTS = frozenset(
    {
        "links", "link", "meta", "metadata", "listmetadata", "page", "pages", "paging", "pager", "pagination", "paginator",
        "paginationinfo", "pageinfo", "pagemetadata", "cursor", "cursors", "responsemetadata", "resultinfo", "resultset",
        "searchmetadata", "searchinfo", "listinfo", "info", "navigation", "nav", "header", "headers", "hits", "d", "result",
        "response",
    }
)  # fmt: skip
_NEXT = lazy_pattern(
    r"(?:odata)?next(?:(?:page|batch|results?|records?|items?|rows?|chunk)"
    r"(?:cursor|link|url|uri|href|token|marker|offset|key|start|id|number|index|path)?"
    r"|cursor|link|url|uri|href|token|marker|offset|skip|(?:start)?key|bookmark|continuation(?:token)?|pointer)(?:str)?"
    r"|querymore|continuationtoken|lastevaluatedkey|scrollid"
)
_MORE = lazy_pattern(
    r"hasmore(?:results|items|pages|records|data|rows|entries)?|hasnext(?:page)?|hasadditional(?:results|pages)"
    r"|more(?:results|items|pages|records|data)?(?:available|exist|remaining|incollection)|istruncated|exceededtransferlimit"
    r"|max(?:imum)?(?:results|records|rows|items)(?:reached|exceeded|hit)"
    r"|(?:result|record|row|item|page|response)s?(?:size|count)?limit(?:reached|exceeded|hit)"
)
_LAST = lazy_pattern(r"islast(?:page)?|isend|islastbatch|endof(?:list|results|records|file)|eof")
_AMBIGUOUS_NEXT = frozenset({"next", "continue", "continuation"})
_AMBIGUOUS_MORE = frozenset({"more", "moreresults", "moreitems", "morepages", "morerecords", "truncated"})
_AMBIGUOUS_LAST = frozenset({"last", "lastpage", "complete", "iscomplete", "done", "isdone", "finished", "isfinal"})
_TOTAL = lazy_pattern(
    r"(?:odata)?(?:total|count)|found|hits|numfound|nbhits|matche[ds]|full(?:result)?count"
    r"|total(?:number)?(?:of)?(?:count|records?|items?|results?|rows|elements|hits|entries|size|objects|matches|resources|documents)(?:count)?"
    r"|(?:record|item|result|row|element|object|hit)s?(?:count|total|found|filtered)"
    r"|num(?:ber)?(?:of)?(?:records|items|results|rows|hits|entries)"
)
_REMAINING = lazy_pattern(r"remaining(?:item|record|result|page|row)s?(?:count)?")
_PAGES = lazy_pattern(
    r"totalpages?|totalpagecount|pages?count|pages|num(?:ber)?(?:of)?pages|pagetotal|pagestotal|(?:last|max)page(?:number)?"
)
_CURRENT = frozenset({"self", "current", "currentpage", "page", "pagenumber", "pageno", "cursor", "currentcursor", "first"})
_TARGETS = frozenset({"href", "url", "uri", "link", "target", "cursor", "token", "after", "page", "offset", "path"})
_UNRELATED = frozenset(
    {
        "facets", "facet", "aggregations", "aggs", "filters", "suggest", "suggestions", "included", "includes", "expanded",
        "related", "schema", "schemas", "definitions", "ratelimit", "ratelimits", "quota",
    }
)  # fmt: skip
"""Objects about something else than the list."""
_MONEY = frozenset({"currency", "currencycode"})
_EMPTY_VALUES = frozenset({"", "0", "-1", "null", "none", "nil", "undefined", "false", "no"})
_HEADERS = lazy_pattern(r"x-|pagination-|total-|next-|has-|page-", re.IGNORECASE)
_LINK = lazy_pattern(r"<([^<>]*)>((?:\s*;\s*[^\s;,=]+(?:\s*=\s*(?:\"[^\"]*\"|[^\s;,\"]*))?)*)")
_REL = lazy_pattern(r";\s*rel\s*=\s*(?:\"([^\"]*)\"|([^\s;,\"]*))", re.IGNORECASE)
_RANGE = lazy_pattern(r"\s*[A-Za-z]+\s+(?:[0-9]+-[0-9]+|\*)/([0-9]{1,15})\s*")
_MAX_DEPTH = 6


class ListEnd(msgspec.Struct, frozen=True, kw_only=True):
    """Where a list seems to end.

    :param records: how many have come.
    :param pages: how many pages have come; None where it is not known.
    :param target: the path and the query of the last request, by which a link to itself is known.
    :param sent_cursor: the cursor of the last request, which a response may repeat.
    :param ignored: dotted paths of members, and names of headers, that say nothing about pages.
    """

    records: int
    pages: int | None
    target: str
    sent_cursor: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()


class ContinuationHint(msgspec.Struct, frozen=True, kw_only=True):
    """A member or a header that reports more than has come.

    :param path: the member's dotted path, or the header's name.
    :param is_header: True for a header.
    :param is_cursor: True where it is a text or a number that leads to the next page.
    """

    path: str
    is_header: bool = False
    is_cursor: bool = False

    def __post_init__(self) -> None:
        # A name in a response may be any text.
        msgspec.structs.force_setattr(self, "path", safe_text(self.path) or "")

    def __str__(self) -> str:
        return f"the header {self.path!r}" if self.is_header else f"its member {self.path!r}"

    @property
    def advice(self) -> str:
        """How to set the paging of the Resource."""
        member = self.path if self.is_cursor else "nextCursor"
        style = f"CursorString(page_size_param='limit', cursor_param='cursor', cursor_member={member!r})"
        return (
            "Give the Resource its paging (limio_limitrail.api.pagination), with the names that this API has: "
            f"dataclasses.replace(resource, paging={style}), or a class of your own where it has links or numbers of pages"
        )


def find_continuation(meta: Mapping[str, msgspec.Raw], headers: Mapping[str, str], *, end: ListEnd) -> ContinuationHint | None:
    """Return the member besides the records, or the header, that reports more than has come; None if none does."""
    return next(chain(_in_object(meta, (), end=end, about_pages=True), _in_headers(headers, end=end)), None)


def _in_object(
    members: Mapping[str, msgspec.Raw], parents: tuple[str, ...], *, end: ListEnd, about_pages: bool
) -> Iterator[ContinuationHint]:
    current = [value_of(raw) for name, raw in members.items() if normalized(name) in _CURRENT]
    here: list[Any] = [*(one for one in current if one is not None), *end.sent_cursor]
    is_money = bool(parents) and any(normalized(name) in _MONEY for name in members)
    for name, raw in members.items():
        path, text = (*parents, name), bytes(raw)
        dotted = ".".join(path)
        if dotted in end.ignored or normalized(name) in _UNRELATED:
            continue
        word = normalized(name)
        if is_money and _TOTAL.fullmatch(word):
            continue
        if _is_hint(word, text, here=here, end=end, ambiguous=about_pages):
            is_text = not text.startswith((b"{", b"[", b"t")) and b"/" not in text
            is_cursor = is_text and bool(_NEXT.fullmatch(word) or word in _AMBIGUOUS_NEXT)
            yield ContinuationHint(path=dotted, is_cursor=is_cursor)
        elif text.startswith(b"{") and len(path) < _MAX_DEPTH:
            yield from _in_object(members_of(text), path, end=end, about_pages=about_pages and word in _PAGING_OBJECTS)
        elif text.startswith(b"[") and word in {"links", "link"} and about_pages:
            yield from (ContinuationHint(path=dotted) for one in _links(text) if _is_other_page(one, here=here, end=end))
        elif word in {"links", "link"} and about_pages and _has_next(str(value_of(raw)), end=end):
            yield ContinuationHint(path=dotted)


def _is_hint(word: str, text: bytes, *, here: list[Any], end: ListEnd, ambiguous: bool) -> bool:
    if _NEXT.fullmatch(word) or (ambiguous and word in _AMBIGUOUS_NEXT):
        return _is_other_page(value_of(text), here=here, end=end)
    if _MORE.fullmatch(word) or (ambiguous and word in _AMBIGUOUS_MORE):
        return _boolean(text) is True
    if (_LAST.fullmatch(word) or (ambiguous and word in _AMBIGUOUS_LAST)) and _boolean(text, numbers=False) is False:
        return True
    number = _number(text)
    if not ambiguous or number is None:
        return False
    if _TOTAL.fullmatch(word):
        return number > end.records
    if _REMAINING.fullmatch(word):
        return number > 0
    return bool(_PAGES.fullmatch(word)) and end.pages is not None and number > max(end.pages, 1)


def _is_other_page(value: Any, *, here: list[Any], end: ListEnd) -> bool:
    # Not recursive: the decoder goes deeper than Python functions.
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            pending += [inner for name, inner in one.items() if normalized(name) in _TARGETS] or one.values()
        elif isinstance(one, list):
            pending += one
        elif _is_elsewhere(one, here=here, end=end):
            return True
    return False


def _is_elsewhere(value: Any, *, here: list[Any], end: ListEnd) -> bool:
    if value is None or value is False or str(value).strip().lower() in _EMPTY_VALUES or _is_at(value, here):
        return False
    return not (isinstance(value, str) and _is_same(value, end.target, here=here))


def _is_at(value: Any, here: list[Any]) -> bool:
    flat = [inner for one in here for inner in (one.values() if isinstance(one, dict) else [one])]
    return value is not True and any(str(value) == str(one) for one in flat if not isinstance(one, dict | list))


def _is_same(link: str, target: str, *, here: list[Any]) -> bool:
    if not ("/" in link or link.startswith("?")):
        return False
    try:
        one, other = urlsplit(link), urlsplit(target)
    except ValueError:
        return False
    if one.path and not (one.path.endswith(other.path) or other.path.endswith(one.path)):
        return False
    query = dict(parse_qsl(one.query))
    if query.items() <= dict(parse_qsl(other.query)).items():
        return True  # it requests nothing that was not requested
    pages = {value for name, value in query.items() if normalized(name) in {"page", "pagenumber", "currentpage"}}
    return bool(pages) and pages <= {str(number) for number in here}


def _links(text: bytes) -> Iterator[Any]:
    for link in value_of(text) or []:
        if isinstance(link, dict) and any(
            normalized(name) in {"rel", "relation"} and isinstance(value, str) and "next" in value.lower().split()
            for name, value in link.items()
        ):
            yield {name: value for name, value in link.items() if normalized(name) in _TARGETS}


def _in_headers(headers: Mapping[str, str], *, end: ListEnd) -> Iterator[ContinuationHint]:
    for name, value in headers.items():
        # Proxies write their names in other cases.
        if name.lower() in {one.lower() for one in end.ignored}:
            continue
        if name.lower() == "link":
            if _has_next(value, end=end):
                yield ContinuationHint(path=name, is_header=True)
        elif name.lower() == "content-range":
            if (found := _RANGE.fullmatch(value)) and int(found[1]) > end.records:
                yield ContinuationHint(path=name, is_header=True)
        elif _HEADERS.match(name) and _is_hint(
            normalized(name).removeprefix("x").removeprefix("pagination"),
            msgspec.json.encode(value),
            here=[headers.get("X-Page")],
            end=end,
            ambiguous=not name.lower().startswith("x-rate"),
        ):
            yield ContinuationHint(path=name, is_header=True)


def _has_next(links: str, *, end: ListEnd) -> bool:
    for link in _LINK.finditer(links):
        rels = " ".join(quoted or bare for quoted, bare in _REL.findall(link[2])).lower().split()
        if "next" in rels and not _is_same(link[1], end.target, here=[]):
            return True
    return False


def _boolean(text: bytes, *, numbers: bool = True) -> bool | None:
    """Read a boolean; None where it is none."""
    word = text.strip(b'"').lower()
    if word in {b"true", b"yes", b"y"}:
        return True
    if word in {b"false", b"no", b"n"}:
        return False
    return _number(text) != 0 if numbers and _number(text) is not None else None


def _number(text: bytes) -> int | None:
    """Read a number of records or pages. One with a fraction, be it of zero, is an amount."""
    if b"." in text and not text.startswith(b"{"):
        return None
    total = read_total(text)
    return None if total is None else total.records
