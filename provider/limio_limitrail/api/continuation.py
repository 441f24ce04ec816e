# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Find what announces that a list goes on, in the last answer of a list that is taken to end there.

Names are compared by their letters and digits alone, in lower case. Words that other members also have (``next``, ``total``)
count at the top and in members that are about pages; words that have no other meaning (``nextCursor``, ``hasMore``) count in
every object. Lists are passed over: they hold records, or what belongs to records.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from limio_limitrail.api.redact import safe_text
from limio_limitrail.api.totals import read_total

_ABOUT_PAGES = frozenset(
    {
        "links", "link", "meta", "metadata", "listmetadata", "page", "pages", "paging", "pager", "pagination", "paginator",
        "paginationinfo", "pageinfo", "pagemetadata", "cursor", "cursors", "responsemetadata", "resultinfo", "resultset",
        "searchmetadata", "searchinfo", "listinfo", "info", "navigation", "nav", "header", "headers", "hits", "d", "result",
        "response",
    }
)  # fmt: skip
_NEXT = re.compile(
    r"(?:odata)?next(?:(?:page|batch|results?|records?|items?|rows?|chunk)"
    r"(?:cursor|link|url|uri|href|token|marker|offset|key|start|id|number|index|path)?"
    r"|cursor|link|url|uri|href|token|marker|offset|skip|(?:start)?key|bookmark|continuation(?:token)?|pointer)(?:str)?"
    r"|querymore|continuationtoken|lastevaluatedkey|scrollid"
)
_MORE = re.compile(
    r"hasmore(?:results|items|pages|records|data|rows|entries)?|hasnext(?:page)?|hasadditional(?:results|pages)"
    r"|more(?:results|items|pages|records|data)?(?:available|exist|remaining|incollection)|istruncated|exceededtransferlimit"
    r"|max(?:imum)?(?:results|records|rows|items)(?:reached|exceeded|hit)"
    r"|(?:result|record|row|item|page|response)s?(?:size|count)?limit(?:reached|exceeded|hit)"
)
_LAST = re.compile(r"islast(?:page)?|isend|islastbatch|endof(?:list|results|records|file)|eof")
_VAGUE_NEXT = frozenset({"next", "continue", "continuation"})
_VAGUE_MORE = frozenset({"more", "moreresults", "moreitems", "morepages", "morerecords", "truncated"})
_VAGUE_LAST = frozenset({"last", "lastpage", "complete", "iscomplete", "done", "isdone", "finished", "isfinal"})
_TOTAL = re.compile(
    r"(?:odata)?(?:total|count)|found|hits|numfound|nbhits|matche[ds]|full(?:result)?count"
    r"|total(?:number)?(?:of)?(?:count|records?|items?|results?|rows|elements|hits|entries|size|objects|matches|resources|documents)(?:count)?"
    r"|(?:record|item|result|row|element|object|hit)s?(?:count|total|found|filtered)"
    r"|num(?:ber)?(?:of)?(?:records|items|results|rows|hits|entries)"
)
_LEFT = re.compile(r"remaining(?:item|record|result|page|row)s?(?:count)?")
_PAGES = re.compile(
    r"totalpages?|totalpagecount|pages?count|pages|num(?:ber)?(?:of)?pages|pagetotal|pagestotal|(?:last|max)page(?:number)?"
)
_HERE = frozenset({"self", "current", "currentpage", "page", "pagenumber", "pageno", "cursor", "currentcursor", "first"})
_TARGETS = frozenset({"href", "url", "uri", "link", "target", "cursor", "token", "after", "page", "offset", "path"})
_ELSEWHERE = frozenset(
    {
        "facets", "facet", "aggregations", "aggs", "filters", "suggest", "suggestions", "included", "includes", "expanded",
        "related", "schema", "schemas", "definitions", "ratelimit", "ratelimits", "quota",
    }
)  # fmt: skip
"""Objects about something else than the list: what announces more in them is about that."""
_MONEY = frozenset({"currency", "currencycode"})
_NOTHING = frozenset({"", "0", "-1", "null", "none", "nil", "undefined", "false", "no"})
_HEADERS = re.compile(r"x-|pagination-|total-|next-|has-|page-", re.IGNORECASE)
_LINK = re.compile(r"<([^<>]*)>((?:\s*;\s*[^\s;,=]+(?:\s*=\s*(?:\"[^\"]*\"|[^\s;,\"]*))?)*)")
_REL = re.compile(r";\s*rel\s*=\s*(?:\"([^\"]*)\"|([^\s;,\"]*))", re.IGNORECASE)
_RANGE = re.compile(r"\s*[A-Za-z]+\s+(?:[0-9]+-[0-9]+|\*)/([0-9]{1,15})\s*")
_DEEPEST = 6
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a list has ended.

    :param records: how many have come.
    :param pages: how many pages have come; none where it is not known.
    :param target: the path and the query of the last request, by which a link to itself is known.
    :param asked: the cursor of the last request, which an answer may repeat.
    :param ignored: dotted paths of members, and names of headers, that say nothing about pages.
    """

    records: int
    pages: int | None
    target: str
    asked: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """What announces more than has come.

    :param path: the member's dotted path, or the header's name.
    :param is_header: True for a header.
    :param is_cursor: True where a text or a number leads on.
    """

    path: str
    is_header: bool = False
    is_cursor: bool = False

    @classmethod
    def of(cls, path: str, *, is_header: bool = False, is_cursor: bool = False) -> Announcement:
        """Make one of a name in the answer, which may be any text."""
        return cls(path=safe_text(path) or "", is_header=is_header, is_cursor=is_cursor)

    def __str__(self) -> str:
        """Name it."""
        return f"the header {self.path!r}" if self.is_header else f"its member {self.path!r}"

    @property
    def advice(self) -> str:
        """How to give a Resource its paging."""
        member = self.path if self.is_cursor else "nextCursor"
        style = f"CursorString(page_size_param='limit', cursor_param='cursor', cursor_member={member!r})"
        return (
            "Give the Resource its paging (limio_limitrail.api.pagination), with the names that this API has: "
            f"dataclasses.replace(resource, paging={style}), or a class of your own where it has links or numbers of pages"
        )


def announced_more(meta: Mapping[str, msgspec.Raw], headers: Mapping[str, str], *, ended: Ended) -> Announcement | None:
    """Find what announces more than has come; None where nothing does.

    :param meta: the answer's members besides the records, undecoded.
    :param headers: the answer's headers.
    :param ended: how the list has ended.
    """
    return next(chain(_in_object(meta, (), ended=ended, about_pages=True), _in_headers(headers, ended=ended)), None)


def _word(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _in_object(
    members: Mapping[str, msgspec.Raw], above: tuple[str, ...], *, ended: Ended, about_pages: bool
) -> Iterator[Announcement]:
    here: list[Any] = [one for name, raw in members.items() if _word(name) in _HERE and (one := _value(raw)) is not None]
    here += ended.asked
    is_money = bool(above) and any(_word(name) in _MONEY for name in members)
    for name, raw in members.items():
        path, text = (*above, name), bytes(raw)
        dotted = ".".join(path)
        if dotted in ended.ignored or _word(name) in _ELSEWHERE:
            continue
        word = _word(name)
        if is_money and _TOTAL.fullmatch(word):
            continue
        if _announces(word, text, here=here, ended=ended, vague=about_pages):
            is_cursor = (
                bool(_NEXT.fullmatch(word) or word in _VAGUE_NEXT)
                and not text.startswith((b"{", b"[", b"t"))
                and b"/" not in text
            )
            yield Announcement.of(path=dotted, is_cursor=is_cursor)
        elif text.startswith(b"{") and len(path) < _DEEPEST:
            yield from _in_object(_object(text), path, ended=ended, about_pages=about_pages and word in _ABOUT_PAGES)
        elif text.startswith(b"[") and word in {"links", "link"} and about_pages:
            yield from (Announcement.of(path=dotted) for one in _links(text) if _leads_on(one, here=here, ended=ended))
        elif word in {"links", "link"} and about_pages and _has_next(str(_value(raw)), ended=ended):
            yield Announcement.of(path=dotted)


def _announces(word: str, text: bytes, *, here: list[Any], ended: Ended, vague: bool) -> bool:
    if _NEXT.fullmatch(word) or (vague and word in _VAGUE_NEXT):
        return _leads_on(_value(msgspec.Raw(text)), here=here, ended=ended)
    if _MORE.fullmatch(word) or (vague and word in _VAGUE_MORE):
        return _truth(text) is True
    if (_LAST.fullmatch(word) or (vague and word in _VAGUE_LAST)) and _truth(text, numbers=False) is False:
        return True
    number = _number(text)
    if not vague or number is None:
        return False
    if _TOTAL.fullmatch(word):
        return number > ended.records
    if _LEFT.fullmatch(word):
        return number > 0
    return bool(_PAGES.fullmatch(word)) and ended.pages is not None and number > max(ended.pages, 1)


def _leads_on(value: Any, *, here: list[Any], ended: Ended) -> bool:
    """Tell whether a value leads to another page than the one at hand."""
    # Not by recursion: a decoder goes deeper than functions do.
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            pending += [inner for name, inner in one.items() if _word(name) in _TARGETS] or one.values()
        elif isinstance(one, list):
            pending += one
        elif _is_elsewhere(one, here=here, ended=ended):
            return True
    return False


def _is_elsewhere(value: Any, *, here: list[Any], ended: Ended) -> bool:
    if value is None or value is False or str(value).strip().lower() in _NOTHING or _is_at(value, here):
        return False
    return not (isinstance(value, str) and _is_same(value, ended.target, here=here))


def _is_at(value: Any, here: list[Any]) -> bool:
    flat = [inner for one in here for inner in (one.values() if isinstance(one, dict) else [one])]
    return value is not True and any(str(value) == str(one) for one in flat if not isinstance(one, dict | list))


def _is_same(link: str, target: str, *, here: list[Any]) -> bool:
    """Tell whether a link leads to where the answer came from."""
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
        return True  # it asks for nothing that was not asked for
    pages = {value for name, value in query.items() if _word(name) in {"page", "pagenumber", "currentpage"}}
    return bool(pages) and pages <= {str(number) for number in here}


def _links(text: bytes) -> Iterator[Any]:
    """Give the targets of those links in a list whose relation is ``next``."""
    for link in _value(msgspec.Raw(text)) or []:
        if isinstance(link, dict) and any(
            _word(name) in {"rel", "relation"} and isinstance(value, str) and "next" in value.lower().split()
            for name, value in link.items()
        ):
            yield {name: value for name, value in link.items() if _word(name) in _TARGETS}


def _in_headers(headers: Mapping[str, str], *, ended: Ended) -> Iterator[Announcement]:
    for name, value in headers.items():
        # Proxies write their names in other cases.
        if name.lower() in {one.lower() for one in ended.ignored}:
            continue
        if name.lower() == "link":
            if _has_next(value, ended=ended):
                yield Announcement.of(path=name, is_header=True)
        elif name.lower() == "content-range":
            if (found := _RANGE.fullmatch(value)) and int(found[1]) > ended.records:
                yield Announcement.of(path=name, is_header=True)
        elif _HEADERS.match(name) and _announces(
            _word(name).removeprefix("x").removeprefix("pagination"),
            msgspec.json.encode(value),
            here=[headers.get("X-Page")],
            ended=ended,
            vague=not name.lower().startswith("x-rate"),
        ):
            yield Announcement.of(path=name, is_header=True)


def _has_next(links: str, *, ended: Ended) -> bool:
    """Tell whether one of the links of a ``Link`` header is the next page."""
    for link in _LINK.finditer(links):
        rels = " ".join(quoted or bare for quoted, bare in _REL.findall(link[2])).lower().split()
        if "next" in rels and not _is_same(link[1], ended.target, here=[]):
            return True
    return False


def _object(text: bytes) -> Mapping[str, msgspec.Raw]:
    try:
        return _OBJECT.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return {}


def _value(raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None


def _truth(text: bytes, *, numbers: bool = True) -> bool | None:
    """Read a switch; None where it is none."""
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
