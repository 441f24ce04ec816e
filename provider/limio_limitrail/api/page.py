# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A page: an answer's envelope, taken apart without building objects for its records."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import msgspec

from limio_limitrail.api.errors import Failure, ProtocolError
from limio_limitrail.api.pagination import BadCursorError, Cursor, Meta
from limio_limitrail.api.redact import safe_text
from limio_limitrail.api.resource import Resource
from limio_limitrail.api.secret import Secret

log = logging.getLogger(__name__)

_ENVELOPE = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RECORDS = msgspec.json.Decoder(list[msgspec.Raw])

# An escaped surrogate that has no partner. JavaScript writes one when text was cut inside an emoji; no UTF-8 can hold it.
_SURROGATES = re.compile(
    rb"(?<!\\)((?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|(?<!\\)((?:\\\\)*)\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of a list.

    :param records: the JSON array of records, as it came.
    :param following: the next page's cursor; none on the last page.
    :param total: how many records match in all, where the API says so.
    :param number: the page's place in this walk, from 1.
    :param ends_slice: True on the last page of a slice, where a list is walked through slice by slice.
    """

    records: bytes
    following: Cursor | None
    total: int | None
    number: int
    ends_slice: bool = False

    @cached_property
    def raw_records(self) -> list[msgspec.Raw]:
        """The records one by one, undecoded."""
        return _RECORDS.decode(self.records)

    @property
    def empty(self) -> bool:
        """True where the array holds nothing."""
        return not self.records[1:-1].strip()


def split(body: bytes, *, resource: Resource, call: Failure, number: int, secrets: Iterable[Secret] = ()) -> Page:
    """Take an answer apart.

    :param body: the whole body.
    :param resource: where its records and its cursor are.
    :param call: what errors say about the call.
    :param number: the page's place in the walk.
    :param secrets: credentials that no error may repeat.
    :raises ProtocolError: the body is not JSON, the records are missing or no list, or the cursor cannot be read.
    """
    secrets = tuple(secrets)

    def broken(reason: str) -> ProtocolError:
        return ProtocolError(replace(call, status=200, reason=reason))

    body, meta = read_object(body, broken=broken)
    records = meta.pop(resource.records, None)
    if records is None:
        found = ", ".join(sorted(repr((safe_text(key, secrets=secrets) or "")[:40]) for key in list(meta)[:8])) or "nothing"
        raise broken(f"expected a list in {resource.records!r}, found no such member (the answer has {found})")
    array = bytes(records)
    if not array.startswith(b"["):
        raise broken(f"expected a list in {resource.records!r}, found {_name_of(array)}")
    page_meta: Meta = meta
    try:
        following = resource.paging.following(page_meta)
    except BadCursorError as error:
        raise broken(str(error)) from None
    return Page(records=array, following=following, total=_total(meta, resource), number=number)


def read_object(body: bytes, *, broken: Callable[[str], ProtocolError]) -> tuple[bytes, dict[str, msgspec.Raw]]:
    """Read a JSON object's members without decoding them, and give the object's own text, mended where that was needed.

    :param broken: makes the error out of what was expected and what was found.
    :raises ProtocolError: the body is no JSON object.
    """
    try:
        if not body.isascii():
            str(body, "utf-8")  # the decoder does not look into strings that it skips
        return body, _ENVELOPE.decode(body)
    except UnicodeDecodeError as error:
        raise broken(f"expected UTF-8, found a byte that is none at position {error.start}") from None
    except msgspec.ValidationError:
        raise broken(f"expected a JSON object, found {_name_of(body.lstrip())}") from None
    except msgspec.DecodeError as error:
        mended = replace_lone_surrogates(body)
        if mended != body:
            try:
                meta = _ENVELOPE.decode(mended)
            except msgspec.DecodeError:
                pass
            else:
                log.warning("An answer holds half a surrogate pair, which no text can; it arrives as U+FFFD.")
                return mended, meta
        found = _name_of(body.lstrip())
        raise broken(f"expected JSON, found something else ({error}; it begins as {found})") from None


def replace_lone_surrogates(body: bytes) -> bytes:
    """Put U+FFFD where an escaped surrogate has no partner, and leave everything else as it is."""

    def mend(match: re.Match[bytes]) -> bytes:
        return match.group(0) if match.group(2) else match.group(3) + b"\\ufffd"

    return _SURROGATES.sub(mend, body)


def _total(meta: Meta, resource: Resource) -> int | None:
    if resource.total is None or resource.total not in meta:
        return None
    try:
        return msgspec.json.decode(meta[resource.total], type=int)
    except msgspec.ValidationError:
        return None


def _name_of(text: bytes) -> str:
    """Name the kind of value that a text begins with, without repeating it."""
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
