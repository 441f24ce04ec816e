# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Idempotency: how a row's idempotency key is made, where a request carries it, and for how long the API remembers it."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from limio_limitrail.parameters.given import unfit
from limio_limitrail.parameters.members import read_members
from limio_limitrail.parameters.readers import optional, text
from limio_limitrail.parameters.times import span
from limio_limitrail.usage.body import Row, UsageRowError, as_json, as_text, is_missing
from limio_limitrail.usage.ledger.rules import RESEND_WITHIN

_NAMESPACE = uuid.UUID("7f1d8a52-6f0e-5a57-9a0b-0d5a7c3d9e41")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, kw_only=True)
class Idempotency:
    """How your LimitRail takes idempotency keys.

    :param header: the header that carries the key.
    :param field: a member of the body that carries it instead, with dots between nested names.
    :param resend_within: with ``on_unknown="resend"``: for how long after its first request a row without a clear answer may be
        sent again under its key; a timedelta, seconds, or a text such as ``PT20H``. Less than the API remembers keys; older rows
        are parked.
    """

    header: str = "Idempotency-Key"
    field: str | None = None
    resend_within: timedelta = timedelta(seconds=RESEND_WITHIN)


def _header(name: str, value: object) -> str:
    found = text("the name of a header")(name, value)
    if not _HEADER.fullmatch(found):
        raise unfit(name, value, expected="the name of a header, such as Idempotency-Key")
    return found


_READERS = {"header": _header, "field": optional(text("the name of a member")), "resend_within": span()}


def idempotency(name: str, value: object) -> Idempotency:
    """Read an `Idempotency`, or a mapping with its members.

    :raises ParameterError: it is neither, or a member does not fit.
    """
    return read_members(name, value, of=Idempotency, readers=_READERS)


def idempotency_key(
    row: Row, *, number: int, tenant: str, operation: str, key_columns: Sequence[str], namespace: str | None = None
) -> str:
    """Return a row's idempotency key, a UUID: the same for the same row in every retry, re-run and backfill.

    :param number: the row's position in the input, from 1.
    :param tenant: the tenant, or the client and host that stand for it.
    :param operation: such as ``usage.commit``.
    :param key_columns: the columns that identify the row, sorted.
    :param namespace: distinguishes rows with the same key columns; None for keys without.
    :raises UsageRowError: a key column has no value.
    """
    parts = []
    for name in key_columns:
        if is_missing(row.get(name)):
            raise UsageRowError(number, f"key column {name!r} has no value, and every row needs a key of its own")
        parts.append([name, _canonical(row[name], number=number, column=name)])
    named = [tenant, operation, parts, *(() if namespace is None else (namespace,))]
    return str(uuid.uuid5(_NAMESPACE, json.dumps(named, ensure_ascii=True)))


def put_key(body: dict[str, Any], field: str, key: str, *, number: int) -> None:
    """Put an idempotency key into a body.

    :param field: the member that takes it, with dots between nested names.
    :raises UsageRowError: there is no object for it, or it is there already.
    """
    *parents, last = field.split(".")
    for name in parents:
        body = body.setdefault(name, {})
        if not isinstance(body, dict):
            raise UsageRowError(number, f"the body has no object at {name!r} to put the idempotency key into")
    if last in body:
        raise UsageRowError(number, f"the body has a member {field!r} already, where the idempotency key belongs")
    body[last] = key


def _canonical(value: object, *, number: int, column: str) -> str:
    """Write a key's value in one form, whatever its type in a database or a file: 5, 5.0 and 5.00 are one number."""
    exact = as_json(value, number=number, column=column)
    if isinstance(exact, bool):
        return f"b:{exact}"
    if isinstance(exact, int | float | Decimal):
        digits = format(Decimal(repr(exact)) if isinstance(exact, float) else Decimal(exact), "f")
        digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
        return f"n:{'0' if digits == '-0' else digits}"
    return f"s:{as_text(exact, number=number, column=column)}"
