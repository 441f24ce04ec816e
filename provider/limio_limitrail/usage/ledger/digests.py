# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Digests of requests that compare by value, and of their members, so that later it can be said which ones differ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from limio_limitrail.usage.ledger.row_identity import plain_number

BY_VALUE = "v2:"
"""Marks digests in which numbers count by value: one of what is said about the row, and after a colon one of the path. A digest
without it is the SHA-256 of path and body, byte by byte."""

_MEMBER_DIGITS = 6
_PATH_DIGITS = 16
_LEAST_WITH_EXPONENT = 10**16
_ENCODER = msgspec.json.Encoder(order="deterministic")
_AS_BEFORE = msgspec.json.Encoder(decimal_format="number", order="deterministic")
_DECIMALS = msgspec.json.Decoder(float_hook=Decimal)


def digest_by_value(path: str, content: object, *, in_path: Mapping[str, str]) -> str:
    """Return the digest of a request.

    :param path: where it goes.
    :param content: its JSON as `by_value` returns it; none where there is none.
    :param in_path: what the path says about the row besides its key, by column.
    """
    said = b"" if content is None else _ENCODER.encode(content)
    if in_path:
        said += b"\n" + _ENCODER.encode(in_path)
    return f"{BY_VALUE}{hashlib.sha256(said).hexdigest()}:{hashlib.sha256(path.encode()).hexdigest()[:_PATH_DIGITS]}"


def says_the_same(one: str, other: str) -> bool:
    """Tell whether two digests are of requests that say the same about their row, wherever they went.

    In a digest of a former version the path cannot be told from the rest.
    """
    if one.startswith(BY_VALUE) and other.startswith(BY_VALUE):
        return one.rpartition(":")[0] == other.rpartition(":")[0]
    return one == other


def by_value(content: Any) -> Any:
    """Return JSON whose numbers are written in one way: 1.5, 1.50 and 15E-1 are the same."""
    if content is None or isinstance(content, str | bool):
        return content
    if isinstance(content, dict):
        return {name: by_value(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [by_value(value) for value in content]
    return msgspec.Raw(plain_number(content).encode())


def member_digests(content: Any, *, salt: str) -> str:
    """Return a JSON object with a short digest for each member of a request's JSON, nested ones by their path with dots.

    :param content: the JSON as `by_value` returns it.
    :param salt: goes into each digest, so that equal values of different rows do not show.
    """
    digests: dict[str, str] = {}
    _add_members(digests, content, path="", salt=salt.encode()[:64])
    return _ENCODER.encode(digests).decode()


def _add_members(digests: dict[str, str], content: Any, *, path: str, salt: bytes) -> None:
    if isinstance(content, dict) and content:
        for name, value in content.items():
            _add_members(digests, value, path=f"{path}.{name}" if path else name, salt=salt)
    else:
        digest = hashlib.blake2b(_ENCODER.encode(content), digest_size=_MEMBER_DIGITS // 2, key=salt)
        digests[path] = digest.hexdigest()


def differing_members(now: str | None, before: str | None) -> list[str] | None:
    """Name the members that differ between two requests of one row; none where that is not known.

    :param now: digests of the members, as `member_digests` returns them.
    :param before: likewise of the request that was sent.
    """
    try:
        ours, theirs = (msgspec.json.decode(text or "", type=dict[str, str]) for text in (now, before))
    except (msgspec.DecodeError, UnicodeError):
        return None
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def is_former_digest(digest: str, *, path: str, body: bytes | None) -> bool:
    """Tell whether a digest of a former version is one of this request, whichever way that version wrote its numbers."""
    return digest in (_bytewise(path, form) for form in _former_forms(body))


def _former_forms(body: bytes | None) -> Iterator[bytes]:
    yield body or b""
    try:
        yield _AS_BEFORE.encode(_DECIMALS.decode(body or b""))
        content = msgspec.json.decode(body or b"")
        yield _AS_BEFORE.encode(content)
        yield _AS_BEFORE.encode(_with_floats(content))
    except (msgspec.DecodeError, RecursionError, ValueError, OverflowError):
        return


def _with_floats(content: Any) -> Any:
    """Return JSON whose large whole numbers are floats, which former versions wrote with an exponent."""
    match content:
        case dict():
            return {name: _with_floats(value) for name, value in content.items()}
        case list():
            return [_with_floats(value) for value in content]
        case int() if abs(content) >= _LEAST_WITH_EXPONENT:
            return float(content)
        case _:
            return content


def _bytewise(path: str, body: bytes) -> str:
    return hashlib.sha256(path.encode() + b"\n" + body).hexdigest()
