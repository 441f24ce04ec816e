# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""An answer's envelope: its members undecoded, and its records one by one, found in a single pass wherever that is possible."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from limio_limitrail.api.errors import ProtocolError
from limio_limitrail.api.pagination import Meta

log = logging.getLogger(__name__)

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RECORDS = msgspec.json.Decoder(list[msgspec.Raw])
_MISSING = msgspec.Raw(b"")

# An escaped surrogate that has no partner. JavaScript writes one when text was cut inside an emoji; no UTF-8 can hold it.
_SURROGATES = re.compile(
    rb"(?<!\\)((?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|(?<!\\)((?:\\\\)*)\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
_PLAIN_NAME = re.compile(r"[^\"\\\x00-\x1f]*")
"""The names that a Struct's member may have."""

MOST_MEMBERS = 50
"""Answers whose members have ever new names are read in two passes."""

TOO_DEEP = "objects or lists are nested deeper in it than can be read"

_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "UTF-8", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}

Broken = Callable[[str], ProtocolError]
"""Makes the error out of what was expected and what was found."""


class EnvelopeReader:
    """Takes the answers of one list apart.

    The members that an answer had are expected of the next one, in a type that refuses all others: an answer either fits it in
    full, or is looked at again in two passes, and nothing that came is ever skipped.

    :param records: the member that holds the records.
    """

    def __init__(self, records: str) -> None:
        self._records = records
        self._names: tuple[str, ...] = ()
        self._decoder: msgspec.json.Decoder[Any] | None = None

    def read(
        self, body: bytes, *, broken: Broken, check: Callable[[Meta], None] = lambda _: None
    ) -> tuple[list[msgspec.Raw] | None, Meta]:
        """Give the records, undecoded, and the other members.

        :param body: the whole answer.
        :param check: looks at the other members before anything is expected of the records; may raise.
        :returns: no records where the answer has no such member.
        :raises ProtocolError: the body is no JSON object, or its records are no list.
        """
        if self._decoder is not None:
            try:
                check_text(body, broken=broken)
                envelope = self._decoder.decode(body)
            except (msgspec.DecodeError, RecursionError):
                pass  # other members than before, or a fault that the other way names
            else:
                found = ((name, getattr(envelope, f"f{index}")) for index, name in enumerate(self._names))
                meta = {name: raw for name, raw in found if bytes(raw)}
                check(meta)
                return envelope.records, meta
        meta = read_object(body, broken=broken)[1]
        raw = meta.pop(self._records, None)
        check(meta)
        if raw is None:
            return None, meta
        array = bytes(raw)
        if not array.startswith(b"["):
            raise broken(f"expected a list in {self._records!r}, found {name_of(array)}")
        self._expect(meta)
        with _depth_told(broken):
            return _RECORDS.decode(array), meta

    def _expect(self, names: Iterable[str]) -> None:
        """Make the type of an answer that has these members besides its records."""
        known = tuple(dict.fromkeys((*self._names, *names)))
        if known == self._names and self._decoder is not None:
            return  # something else did not fit: the type would be the same
        if len(known) > MOST_MEMBERS or not all(_PLAIN_NAME.fullmatch(name) for name in (self._records, *known)):
            # Forgotten altogether, so that ever new names do not pile up.
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


def read_object(body: bytes, *, broken: Broken) -> tuple[bytes, dict[str, msgspec.Raw]]:
    """Read a JSON object's members without decoding them, and give the object's own text, mended where that was needed.

    :raises ProtocolError: the body is no JSON object.
    """
    if not body.strip():
        raise broken(f"expected JSON, found {'an empty body' if not body else 'a body of white space'}")
    try:
        check_text(body, broken=broken)
        with _depth_told(broken):
            return body, _OBJECT.decode(body)
    except msgspec.ValidationError:
        raise broken(f"expected a JSON object, found {name_of(body.lstrip())}") from None
    except msgspec.DecodeError as error:
        mended = replace_lone_surrogates(body)
        if mended != body:
            try:
                with _depth_told(broken):
                    meta = _OBJECT.decode(mended)
            except msgspec.DecodeError:
                pass
            else:
                log.warning("An answer holds half a surrogate pair, which no text can; it arrives as U+FFFD.")
                return mended, meta
        found = name_of(body.lstrip())
        raise broken(f"expected JSON, found something else ({error}; it begins as {found})") from None


@contextmanager
def _depth_told(broken: Broken) -> Iterator[None]:
    """Make a `ProtocolError` of what is nested deeper than the decoder goes."""
    try:
        yield
    except RecursionError:
        raise broken(TOO_DEEP) from None


def check_text(body: bytes, *, broken: Broken) -> None:
    """Make sure that a body is UTF-8: the decoder does not look into strings that it skips.

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
    """Put U+FFFD where an escaped surrogate has no partner, and leave everything else as it is."""

    def mend(match: re.Match[bytes]) -> bytes:
        return match.group(0) if match.group(2) else match.group(3) + b"\\ufffd"

    return _SURROGATES.sub(mend, body)


def name_of(text: bytes) -> str:
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
