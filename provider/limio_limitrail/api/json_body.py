# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Read JSON bodies that may hold anything, and detect 2xx responses that are errors or incomplete."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from limio_limitrail.api.errors import ProtocolError
from limio_limitrail.api.redact import safe_text
from limio_limitrail.lazy import lazy_pattern

if TYPE_CHECKING:
    from limio_limitrail.api.responses import Response

log = logging.getLogger(__name__)

OBJECT_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
# An escaped surrogate that has no partner. JavaScript writes one when text was cut inside an emoji; no UTF-8 can hold it.
_SURROGATES = lazy_pattern(
    rb"(?<!\\)((?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|(?<!\\)((?:\\\\)*)\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
_WHOLE_NUMBER = lazy_pattern(r"[0-9]{1,15}(?:\.0*)?")
_TOTAL_MEMBERS = ("value", "total", "count")
_MAX_DEPTH = 3

TOO_DEEP = "objects or lists are nested deeper in it than can be read"

_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "UTF-8", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}

_MENDED = rb"\uFfFd"
"""U+FFFD, spelled as no encoder does: the keys of a table must not have one that was something else; see `part_builders`."""

MakeError = Callable[[str], ProtocolError]
"""Makes the error out of what was expected and what was found."""


class NotJSONError(ValueError):
    """A body is not JSON. The text says why, and repeats nothing of it."""


class NestedTooDeeplyError(NotJSONError):
    """A body is nested deeper than the decoder goes."""


def decode_json(body: bytes) -> object:
    """Decode a body that may hold anything; raise `NotJSONError`, or `NestedTooDeeplyError` for what the decoder cannot reach."""
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise NestedTooDeeplyError("it is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotJSONError(str(error) if isinstance(error, msgspec.DecodeError) else "it is not UTF-8") from None


class _Name:
    """A member's name that equals no other, so that a `dict` has both members of the same name."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


_ALL_MEMBERS = msgspec.json.Decoder(dict[_Name, msgspec.Raw], dec_hook=lambda _, text: _Name(text))


def unique_members(
    text: bytes | msgspec.Raw, *, broken: Callable[[str], Exception], matters: Callable[[str], bool] = lambda _: True
) -> dict[str, msgspec.Raw]:
    """Return an object's undecoded members; raise what `broken` makes if one comes twice with different values.

    A decoder keeps the last one, and what the other says would be lost.

    :param matters: whether a member counts; of another the last one is kept.
    """
    members: dict[str, msgspec.Raw] = {}
    for name, raw in _ALL_MEMBERS.decode(text).items():
        known = members.get(name.text)
        members[name.text] = raw
        if known is not None and matters(name.text) and bytes(known) != bytes(raw):
            named = repr((safe_text(name.text) or "")[:80])
            raise broken(f"its member {named} comes twice with different values, and one of them would be lost")
    return members


def read_object(
    body: bytes, *, broken: MakeError, matters: Callable[[str], bool] = lambda _: True
) -> tuple[bytes, dict[str, msgspec.Raw]]:
    """Return a JSON object's text, with lone surrogates replaced, and its undecoded members; raise what `broken` makes.

    :param matters: as for `unique_members`.
    """
    if not body.strip():
        raise broken(f"expected JSON, found {'an empty body' if not body else 'a body of white space'}")
    try:
        check_utf8(body, broken=broken)
        with depth_checked(broken):
            return body, unique_members(body, broken=broken, matters=matters)
    except msgspec.ValidationError:
        raise broken(f"expected a JSON object, found {kind_of(body.lstrip())}") from None
    except msgspec.DecodeError as error:
        repaired = replace_lone_surrogates(body)
        if repaired != body:
            try:
                with depth_checked(broken):
                    meta = unique_members(repaired, broken=broken, matters=matters)
            except msgspec.DecodeError:
                pass
            else:
                log.warning("A response has half a surrogate pair, which is not valid text; it is replaced by U+FFFD.")
                return repaired, meta
        found = kind_of(body.lstrip())
        raise broken(f"expected JSON, found something else ({error}; it begins as {found})") from None


@contextmanager
def depth_checked(broken: MakeError) -> Iterator[None]:
    """Raise a `ProtocolError` for what is nested deeper than the decoder goes."""
    try:
        yield
    except RecursionError:
        raise broken(TOO_DEEP) from None


def check_utf8(body: bytes, *, broken: MakeError) -> None:
    """Check that a body is UTF-8, which the decoder does not do for strings that it skips; raise what `broken` makes."""
    if body.isascii():
        return
    if (mark := next((mark for mark in _BYTE_ORDER_MARKS if body.startswith(mark)), None)) is not None:
        raise broken(f"expected JSON in UTF-8, found a byte order mark of {_BYTE_ORDER_MARKS[mark]}")
    try:
        str(body, "utf-8")
    except UnicodeDecodeError as error:
        raise broken(f"expected UTF-8, found a byte that is none at position {error.start}") from None


def replace_lone_surrogates(body: bytes) -> bytes:
    """Replace each escaped surrogate without a partner by U+FFFD."""

    def replacement(match: re.Match[bytes]) -> bytes:
        return match.group(0) if match.group(2) else match.group(3) + _MENDED

    return _SURROGATES.sub(replacement, body)


def kind_of(text: bytes) -> str:
    """Return the JSON type that a text begins with, without repeating the text."""
    first = text[:1]
    kinds = {b"{": "an object", b"[": "a list", b'"': "a string", b"<": "HTML or XML", b"n": "null"}
    kinds |= dict.fromkeys((b"t", b"f"), "a boolean")
    return "nothing" if not first else kinds.get(first, "a number" if first in b"-0123456789" else "plain text")


def normalized(name: str) -> str:
    """Return a member's name in lower case without anything but letters and digits."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def members_of(raw: msgspec.Raw | bytes) -> Mapping[str, msgspec.Raw]:
    """Return an object's undecoded members; none where it cannot be read."""
    try:
        return OBJECT_DECODER.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return {}


def value_of(raw: msgspec.Raw | bytes, *, unreadable: Any = None) -> Any:
    """Decode a value; return `unreadable` where it cannot be read."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return unreadable


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """How many records match; there may be more than that if it is not exact."""

    records: int
    exact: bool = True


def read_total(raw: msgspec.Raw | bytes, *, depth: int = _MAX_DEPTH) -> Total | None:
    """Read a total; return None where there is none.

    It is a whole number, such a number as text or with a fraction of zero, or one of these in an object's ``value``, ``total`` or
    ``count``. ``relation: gte`` beside it makes it a lower bound (Elasticsearch).
    """
    raw = bytes(raw)
    try:
        if raw.startswith(b"{"):
            members = OBJECT_DECODER.decode(raw)
            name = next((one for one in _TOTAL_MEMBERS if one in members), None)
            found = read_total(members[name], depth=depth - 1) if name and depth else None
            relation = bytes(members.get("relation", b"")).strip(b'"').lower()
            return found and Total(records=found.records, exact=found.exact and relation not in {b"gte", b"gt"})
        if raw.startswith(b'"'):
            text = _TEXT.decode(raw).strip()
            return Total(records=int(float(text) if "." in text else int(text))) if _WHOLE_NUMBER.fullmatch(text) else None
        if not raw[:1].isdigit():
            return None  # null, a boolean, a list, less than nothing
        number = msgspec.json.decode(raw, type=int | float)
    except (msgspec.DecodeError, RecursionError, ValueError, OverflowError):
        return None
    if number != number or number == float("inf") or number != int(number) or number >= 10**15:
        return None
    return Total(records=int(number))


OK = 200
NO_CONTENT = 204

_MEANINGS = {
    201: "something was made",
    202: "the response is not ready",
    203: "an intermediary has changed the response",
    205: "there is no content",
    206: "only a part of the response came",
}
_ERROR_MEMBERS = frozenset(
    {
        "error", "errors", "fault", "faults", "exception", "exceptions", "errormessage", "errormessages", "errortype", "failure",
        "failures", "odataerror", "partialfailure", "partialfailures", "partialfailureerror", "unreachable", "unprocesseditems",
        "unprocessedkeys", "errordetails", "errorinfo", "err", "errmsg", "errorlist", "errordescription", "failedshards",
    }
)  # fmt: skip
"""A value that is not empty here means that something failed."""
_TRUE_IF_FAILED_WORDS = frozenset(
    {
        "haserror", "haserrors", "iserror", "incomplete", "isincomplete", "incompleteresults", "partial", "ispartial",
        "partialresults", "partialresult", "timedout", "terminatedearly", "failed", "degraded",
    }
)  # fmt: skip
"""True here means so."""
_FALSE_IF_FAILED = frozenset({"success", "issuccess", "successful", "ok", "isok"})
"""False here means so."""
_STATUS_CODES = frozenset({"status", "statuscode", "httpstatus", "httpstatuscode", "responsestatus", "code"})
_FAILED_WORDS = frozenset({"error", "fail"})
_SUCCESS_CODES = frozenset({"0", "200"})
_EMPTY_WORDS = frozenset({"", "0", "ok", "none", "success", "noerror", "noerrors", "null", "false", "no", "n/a", "-"})
"""Texts that say that nothing failed."""
_RESPONSE_OBJECTS = frozenset({"meta", "metadata", "status", "response", "responsemetadata", "responsestatus", "result"})
"""Objects about the response: their members count as well."""
_ERROR_SUFFIXES = ("errors", "failures")
"""A name with such an end, such as ``upstreamErrors``, counts if it is a list or an object; others may be options."""
_ERROR_COUNTS = {"shards": ("failed",), "clusters": ("failed", "skipped", "partial")}
"""Elasticsearch's: parts of an index that did not answer."""
_WARNINGS = frozenset({"warning", "warnings"})
_RELEVANT = frozenset({"errorcode"}).union(
    _ERROR_MEMBERS, _TRUE_IF_FAILED_WORDS, _FALSE_IF_FAILED, _STATUS_CODES, _RESPONSE_OBJECTS, _ERROR_COUNTS, _WARNINGS
)


def failure_member(members: Mapping[str, msgspec.Raw], *, ignored: frozenset[str] = frozenset()) -> str | None:
    """Return the member besides the records which says that a request failed, in whole or in part; None where none does."""
    return next((name for name in failure_members(members) if name not in ignored), None)


def failure_members(members: Mapping[str, msgspec.Raw]) -> Iterator[str]:
    """Yield the members which say that a request failed, in whole or in part."""
    return _found(members, _fails)


def may_say_failure(names: tuple[str, ...]) -> bool:
    """Return whether `failure_members` would look at members with these names."""
    return bool(_relevant(names))


def is_success_member(name: str) -> bool:
    """Return whether a member says by true or false whether the request succeeded, such as ``success``."""
    return normalized(name) in _FALSE_IF_FAILED


def meaning_of(status: int) -> str | None:
    """Return what a status of 2xx other than 200 and 204 means; None where that is not known."""
    return _MEANINGS.get(status)


def read_record(
    response: Response, *, broken: MakeError, unique: Collection[str] = ("id",)
) -> tuple[bytes, Mapping[str, msgspec.Raw]]:
    """Return a single record, undecoded, and its members.

    A record may have an ``error`` of its own. A response without ``id`` is no record, and raises what `broken` makes.

    :param unique: members that must not come twice with different values.
    """
    if response.status != OK:
        raise broken("this status is no record: only 200 is a whole response")
    body, members = read_object(response.body, broken=broken, matters=unique.__contains__)
    if "id" not in members:
        member = failure_member(members)
        raise broken(
            f"its member {safe_text(member)!r} says that it failed, and it has no 'id'" if member else "no record: it has no 'id'"
        )
    return body, members


def warning_member(members: Mapping[str, msgspec.Raw], *, ignored: frozenset[str] = frozenset()) -> str | None:
    """Return the member that holds a warning; None where none does."""

    def warns(word: str, raw: msgspec.Raw) -> str | None:
        return "" if word in _WARNINGS and _is_set(_decoded(raw)) else None

    return next((name for name in _found(members, warns) if name not in ignored), None)


def _found(members: Mapping[str, msgspec.Raw], check: Callable[[str, msgspec.Raw], str | None]) -> Iterator[str]:
    for name, word in _relevant(tuple(members)):
        if (below := check(word, members[name])) is not None:
            yield f"{name}.{below}" if below else name


@lru_cache(maxsize=256)
def _relevant(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return the names that may mean a failure or a warning, with their normalized forms. All responses have nearly the same."""
    words = ((name, normalized(name)) for name in names)
    return tuple((name, word) for name, word in words if word in _RELEVANT or word.endswith(_ERROR_SUFFIXES))


def _fails(word: str, raw: msgspec.Raw) -> str | None:
    """Return the path, below a member, of what says that something failed: empty for itself, None where nothing does."""
    if word in _ERROR_MEMBERS:
        return "" if _is_set(_decoded(raw)) else None
    if word in _TRUE_IF_FAILED_WORDS:
        return "" if _scalar(raw) in {"true", "yes", "1"} else None
    if word in _FALSE_IF_FAILED:
        return "" if _scalar(raw) in {"false", "no", "0"} else None
    if word in _STATUS_CODES and not _is_object(raw):
        return "" if _is_failure(_decoded(raw)) else None
    if word == "errorcode":
        value = _decoded(raw)
        return "" if _is_set(value) and (isinstance(value, list | dict) or str(value) not in _SUCCESS_CODES) else None
    if word.endswith(_ERROR_SUFFIXES):
        value = _decoded(raw)
        return "" if isinstance(value, list | dict) and _is_set(value) else None
    if word == "result" and isinstance(value := _decoded(raw), str):
        return "" if value.lower() in _FAILED_WORDS else None
    if word in _RESPONSE_OBJECTS and _is_object(raw):
        return next(
            _found(
                members_of(raw),
                lambda inner, one: None if _is_object(one) and inner not in _ERROR_MEMBERS else _fails(inner, one),
            ),
            None,
        )
    if word in _ERROR_COUNTS:
        counts = _decoded(raw)
        if isinstance(counts, dict):
            return next((name for name in _ERROR_COUNTS[word] if _is_set(counts.get(name))), None)
    return None


def _decoded(raw: msgspec.Raw) -> Any:
    return value_of(raw, unreadable="something that cannot be read")


def _is_object(raw: msgspec.Raw) -> bool:
    return bytes(raw).startswith(b"{")


def _is_failure(value: Any) -> bool:
    if isinstance(value, str) and not value.isdigit():
        return value.lower() in _FAILED_WORDS
    try:
        return 400 <= int(value) < 600
    except (TypeError, ValueError, OverflowError):
        return False


def _is_set(value: Any) -> bool:
    # Not recursive: the decoder goes deeper than Python functions.
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            if one.strip().lower().replace(" ", "").replace("_", "") not in _EMPTY_WORDS:
                return True
        elif isinstance(one, dict | list):
            pending += one.values() if isinstance(one, dict) else one
        elif one not in (None, False, 0):
            return True
    return False


def _scalar(raw: msgspec.Raw) -> str:
    return "" if bytes(raw).startswith((b"{", b"[")) else str(_decoded(raw)).lower()
