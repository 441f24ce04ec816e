# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Read how many records an API announces, in whichever form it writes the number."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

_WHOLE = re.compile(r"[0-9]{1,15}(?:\.0*)?")
_MEMBERS = ("value", "total", "count")
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_DEEPEST = 3


@dataclass(frozen=True, kw_only=True)
class Total:
    """How many records match.

    :param records: the number.
    :param exact: False where there may be more than that.
    """

    records: int
    exact: bool = True


def read_total(raw: msgspec.Raw | bytes) -> Total | None:
    """Read a total: a whole number, such a number as text or with a fraction of zero, or one of these in an object's ``value``,
    ``total`` or ``count``. ``relation: gte`` beside it makes it a lower bound (Elasticsearch).

    :param raw: the member, undecoded.
    :returns: None where there is no such number in it.
    """
    return _read(bytes(raw), deep=_DEEPEST)


def _read(raw: bytes, *, deep: int) -> Total | None:
    try:
        if raw.startswith(b"{"):
            members = _OBJECT.decode(raw)
            name = next((one for one in _MEMBERS if one in members), None)
            found = _read(bytes(members[name]), deep=deep - 1) if name and deep else None
            relation = bytes(members.get("relation", b"")).strip(b'"').lower()
            return found and Total(records=found.records, exact=found.exact and relation not in {b"gte", b"gt"})
        if raw.startswith(b'"'):
            text = _TEXT.decode(raw).strip()
            return Total(records=int(float(text) if "." in text else int(text))) if _WHOLE.fullmatch(text) else None
        if not raw[:1].isdigit():
            return None  # null, a boolean, a list, less than nothing
        number = msgspec.json.decode(raw, type=int | float)
    except (msgspec.DecodeError, RecursionError, ValueError, OverflowError):
        return None
    if number != number or number == float("inf") or number != int(number) or number >= 10**15:
        return None
    return Total(records=int(number))
