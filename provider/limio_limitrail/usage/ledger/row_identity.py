# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a row is, apart from its idempotency key: its operation and the values of its key columns, whatever their types.

The identity of a row is a hash of a coarse form and only finds candidates. Whether one of them is the same row is decided by
`same_row`, which looks at the values again.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

LONGEST_VALUE = 200
"""Characters of a key column's value that the ledger holds."""

_CUT = re.compile(r"…(?: \([0-9,]+ characters, SHA-256 [0-9a-f]+\))?\Z")
"""The end of a value that was shortened."""

_DECODER = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_UUID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ]([0-9]{2}:[0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?(?: ?([Zz]|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2}){0,2}))?)?"
)
_WORD = re.compile(r"[A-Za-z][!-~]{5,30}")
"""A text that is no number, time, UUID or boolean, and has no blanks at its ends."""

_TRUTH = {"true": 1, "t": 1, "false": 0, "f": 0}
_MOST_DIGITS = 400


def row_identity(operation: str, values: Mapping[str, Any]) -> str:
    """Return the identity of a row, as 32 hexadecimal digits.

    It does not contain the names of the columns, so that a renamed column still finds its rows.
    """
    encoded = msgspec.json.encode([operation, *sorted(coarse(value) for value in values.values())])
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()


def read_row_key(text: str | None) -> dict[str, Any] | None:
    """Read the key columns of an entry; None if they cannot be read."""
    try:
        values = _DECODER.decode(text or "")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return values or None


def shortened(value: str) -> str:
    """Return a text as the ledger holds it: a long one has its length and a digest instead of its end."""
    if len(value) <= LONGEST_VALUE:
        return value
    # The digest distinguishes values that begin alike.
    mark = f"… ({len(value):,} characters, SHA-256 {hashlib.sha256(value.encode()).hexdigest()[:12]})"
    return value[: LONGEST_VALUE - len(mark)] + mark


def _is_cut(value: object) -> bool:
    return isinstance(value, str) and len(value) >= LONGEST_VALUE and _CUT.search(value) is not None


def coarse(value: object) -> str:
    """Return a form that is equal for any two values that are one by `same_value`."""
    if not isinstance(value, str):
        return "n" + plain_number(value)
    # Most keys are words, which are quicker to match than to look up in a cache; dates repeat.
    return f"s{value}" if _WORD.fullmatch(value) else _coarse_text(value)


@lru_cache(maxsize=4096)
def _coarse_text(value: str) -> str:
    text = _trimmed(value)
    if text[:1] in "+-.0123456789":
        if _NUMBER.fullmatch(text):
            return "n" + plain_number(Decimal(text))
        if (moment := _moment(text)) is not None:
            return f"t{moment.utc()}"
    if len(text) in (32, 36) and _UUID.fullmatch(text):
        return "u" + text.replace("-", "").lower()
    truth = _TRUTH.get(text.lower())
    return f"s{text}" if truth is None else f"n{truth}"


def _trimmed(text: str) -> str:
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).strip()


def plain_number(value: object) -> str:
    """Return a number (or a boolean, or the JSON text of a number) in one form, whatever its type, zeros and exponent."""
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, msgspec.Raw):
        value = Decimal(bytes(value).decode())
    number = value if isinstance(value, Decimal) else Decimal(repr(value))
    if not number:
        return "0"
    if abs(number.adjusted()) > _MOST_DIGITS:
        sign, digits, exponent = number.as_tuple()
        short = "".join(map(str, digits)).rstrip("0")
        return f"{'-' if sign else ''}{short}e{int(exponent) + len(digits) - len(short)}"
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True, kw_only=True)
class _Moment:
    """A time in a text, to the second and in UTC if it has a zone; its fraction of a second has no trailing zeros."""

    when: datetime
    fraction: str
    has_zone: bool

    def utc(self, zone: ZoneInfo | None = None) -> str:
        """Return it in UTC; `zone` is that of a time without one, None for UTC."""
        when = self.when if self.has_zone or zone is None else self.when.replace(tzinfo=zone).astimezone(UTC)
        return f"{when.replace(tzinfo=None).isoformat()}.{self.fraction}"


@lru_cache(maxsize=4096)
def _moment(text: str) -> _Moment | None:
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    day, minute, second, fraction, zone = found.groups()
    shift = "" if zone is None else "+00:00" if zone.isalpha() else zone
    try:
        when = datetime.fromisoformat(f"{day}T{minute or '00:00'}:{second or '00'}{shift}")
        when = when if zone is None else when.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return _Moment(when=when, fraction=(fraction or "").rstrip("0"), has_zone=zone is not None)


def local_times(values: Mapping[str, Any], zone: ZoneInfo) -> dict[str, Any] | None:
    """Return key columns with their times as a session in a zone shows them; None if they have no times.

    Times with a zone lose it, and those without get one: the other form of the same values after a column has changed its type.
    """
    found = dict(values)
    for name, value in values.items():
        moment = _moment(_trimmed(value)) if isinstance(value, str) and value[:1].isdigit() else None
        if moment is None:
            continue
        try:
            other = moment.when.astimezone(zone) if moment.has_zone else moment.when.replace(tzinfo=zone).astimezone(UTC)
        except OverflowError:
            continue
        found[name] = f"{other.replace(tzinfo=None).isoformat()}.{moment.fraction or '0'}{'' if moment.has_zone else 'Z'}"
    return found if found != values else None


def same_row(one: Mapping[str, Any], other: Mapping[str, Any], *, renamed: bool = False, zone: ZoneInfo | None = None) -> bool:
    """Return whether two rows of one operation that have the same identity are the same by their key columns.

    :param renamed: whether columns may have other names.
    """
    names, others = ({name.casefold(): value for name, value in values.items()} for values in (one, other))
    if names.keys() == others.keys():
        return all(same_value(value, others[name], zone=zone) for name, value in names.items())
    if not renamed or len(one) != len(other):
        return False
    pairs = zip(sorted(one.values(), key=coarse), sorted(other.values(), key=coarse), strict=True)
    return all(same_value(left, right, zone=zone) for left, right in pairs)


def same_value(one: object, other: object, *, zone: ZoneInfo | None = None) -> bool:
    """Return whether two values of a key column are one value, in whatever types a database or a file may hold it."""
    if isinstance(one, str) and isinstance(other, str):
        return _same_text(one, other, zone=zone)
    if isinstance(one, str):
        one, other = other, one
    if not isinstance(other, str):
        return plain_number(one) == plain_number(other)
    text = _trimmed(other)
    if _NUMBER.fullmatch(text):
        return plain_number(Decimal(text)) == plain_number(one)
    return isinstance(one, bool) and _TRUTH.get(text.lower()) == one


def _same_text(one: str, other: str, *, zone: ZoneInfo | None) -> bool:
    if _is_cut(one) or _is_cut(other):
        # They have the same identity, which is made of the whole values.
        return True
    one, other = _trimmed(one), _trimmed(other)
    if one == other:
        return True
    if _UUID.fullmatch(one) and _UUID.fullmatch(other):
        return one.replace("-", "").lower() == other.replace("-", "").lower()
    left, right = _moment(one), _moment(other)
    if left is None or right is None:
        return False
    if left.utc() == right.utc():
        return True
    return zone is not None and left.has_zone != right.has_zone and left.utc(zone) == right.utc(zone)


def describe_change(now: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """Describe how the key columns of a row differ from those in the ledger, without their values."""
    if now.keys() != before.keys():
        names = (", ".join(repr(name) for name in sorted(values)) for values in (now, before))
        return "the key columns are {}, and were {}".format(*names)
    changes = [
        f"key column {name!r} holds {kind}, and held {former}"
        if (kind := _kind(now[name])) != (former := _kind(before[name]))
        else f"key column {name!r} is written in another way"
        for name in now
        if type(now[name]) is not type(before[name]) or now[name] != before[name]
    ]
    return "; ".join(changes)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "a boolean"
    if not isinstance(value, str):
        return "a number"
    moment = _moment(_trimmed(value))
    if moment is None:
        return "a text"
    if len(value.strip()) == len("2026-01-01"):
        return "a date"
    return "a time with a zone" if moment.has_zone else "a time without a zone"
