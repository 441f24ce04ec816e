# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Read JSON bodies that may hold anything: strictly, as an object, and leniently, member by member."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from limio_limitrail.api.errors import ProtocolError

log = logging.getLogger(__name__)

OBJECT_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
# An escaped surrogate that has no partner. JavaScript writes one when text was cut inside an emoji; no UTF-8 can hold it.
_SURROGATES = re.compile(
    rb"(?<!\\)((?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|(?<!\\)((?:\\\\)*)\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
_WHOLE_NUMBER = re.compile(r"[0-9]{1,15}(?:\.0*)?")
_TOTAL_MEMBERS = ("value", "total", "count")
_MAX_DEPTH = 3

TOO_DEEP = "objects or lists are nested deeper in it than can be read"

_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "UTF-8", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}

MakeError = Callable[[str], ProtocolError]
"""Makes the error out of what was expected and what was found."""


class NotJSONError(ValueError):
    """A body is not JSON. The text says why, and repeats nothing of it."""


class NestedTooDeeplyError(NotJSONError):
    """A body is nested deeper than the decoder goes."""


def decode_json(body: bytes) -> object:
    """Decode a body that may hold anything.

    :raises NestedTooDeeplyError: it is nested deeper than the decoder goes.
    :raises NotJSONError: it is not JSON.
    """
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise NestedTooDeeplyError("it is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotJSONError(str(error) if isinstance(error, msgspec.DecodeError) else "it is not UTF-8") from None


def read_object(body: bytes, *, broken: MakeError) -> tuple[bytes, dict[str, msgspec.Raw]]:
    """Return a JSON object's text and its undecoded members; lone surrogates are replaced.

    :param broken: makes the error.
    :raises ProtocolError: the body is no JSON object.
    """
    if not body.strip():
        raise broken(f"expected JSON, found {'an empty body' if not body else 'a body of white space'}")
    try:
        check_utf8(body, broken=broken)
        with depth_checked(broken):
            return body, OBJECT_DECODER.decode(body)
    except msgspec.ValidationError:
        raise broken(f"expected a JSON object, found {kind_of(body.lstrip())}") from None
    except msgspec.DecodeError as error:
        repaired = replace_lone_surrogates(body)
        if repaired != body:
            try:
                with depth_checked(broken):
                    meta = OBJECT_DECODER.decode(repaired)
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
    """Check that a body is UTF-8: the decoder does not check strings that it skips.

    :raises ProtocolError: it is not.
    """
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
        return match.group(0) if match.group(2) else match.group(3) + b"\\ufffd"

    return _SURROGATES.sub(replacement, body)


def kind_of(text: bytes) -> str:
    """Return the JSON type that a text begins with, without repeating the text."""
    first = text[:1]
    kinds = {
        b"{": "an object",
        b"[": "a list",
        b'"': "a string",
        b"<": "HTML or XML",
        b"n": "null",
        b"t": "a boolean",
        b"f": "a boolean",
    }
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


@dataclass(frozen=True, kw_only=True)
class Total:
    """How many records match.

    :param exact: False where there may be more than that.
    """

    records: int
    exact: bool = True


def read_total(raw: msgspec.Raw | bytes) -> Total | None:
    """Read a total; return None where there is none.

    It is a whole number, such a number as text or with a fraction of zero, or one of these in an object's ``value``, ``total`` or
    ``count``. ``relation: gte`` beside it makes it a lower bound (Elasticsearch).
    """
    return _read_total(bytes(raw), depth=_MAX_DEPTH)


def _read_total(raw: bytes, *, depth: int) -> Total | None:
    try:
        if raw.startswith(b"{"):
            members = OBJECT_DECODER.decode(raw)
            name = next((one for one in _TOTAL_MEMBERS if one in members), None)
            found = _read_total(bytes(members[name]), depth=depth - 1) if name and depth else None
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
