# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Records as Python objects and as a pandas frame. Pulls and loads do without both."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import msgspec

from limio_limitrail.api.errors import ProtocolError, RequestContext
from limio_limitrail.api.json_body import TOO_DEEP

if TYPE_CHECKING:
    import pandas as pd

    from limio_limitrail.api.page import Page


def exact_number(text: str) -> float | str:
    """Return a number with a fraction or an exponent; as text where a double would change it.

    ``1.10`` is the double 1.1, which has the same value. ``0.1234567890123456789`` and ``1e400`` are no doubles.
    """
    number = float(text)
    if number in (float("inf"), float("-inf")):
        return text
    # A double keeps up to fifteen digits, except below its smallest exponent.
    if len(text) <= 15 and "e" not in text and "E" not in text:
        return number
    try:
        return number if Decimal(text) == Decimal(repr(number)) else text
    except InvalidOperation:
        return text


_DECODER = msgspec.json.Decoder(list[dict[str, Any]], float_hook=exact_number)
_INT64 = range(-(2**63), 2**63)


def decode_records(records: bytes) -> list[dict[str, Any]]:
    """Decode a JSON array of records.

    :raises ValueError: an element is no object.
    """
    return _DECODER.decode(records)


def decode_page(page: Page, *, api: str, resource: str) -> list[dict[str, Any]]:
    """Decode a page's records.

    :raises ProtocolError: an element is no object, or is nested too deep.
    """
    try:
        return decode_records(page.records)
    except msgspec.ValidationError as error:
        # The library's text names types and positions, never a value.
        reason = f"page {page.number}: expected a list of objects ({error})"
    except RecursionError:
        reason = f"page {page.number}: {TOO_DEEP}"
    raise ProtocolError(RequestContext(api=api, resource=resource, status=200, reason=reason))


def to_frame(records: Iterable[dict[str, Any]], *, flatten: bool) -> pd.DataFrame:
    """Return a frame whose columns hold the exact values, never rounded ones.

    Columns of one scalar kind get an Arrow type with nulls. Mixed and nested ones, and integers beyond 64 bits, stay Python
    objects.

    :param flatten: spread nested objects over columns named by their path.
    :raises ValueError: two values of a record would share a column.
    """
    import pandas as pd

    rows = [_flat(record) for record in records] if flatten else list(records)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pd.DataFrame({name: _column([row.get(name) for row in rows]) for name in names}, columns=names, index=range(len(rows)))


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    pending = list(reversed(record.items()))
    while pending:
        name, value = pending.pop()
        if isinstance(value, dict) and value:
            pending.extend((f"{name}.{inner}", item) for inner, item in reversed(value.items()))
        elif name in flat:
            raise ValueError(f"flattened, two values of one record would share the column {name!r}: leave flatten out")
        else:
            flat[name] = value
    return flat


def _column(values: list[Any]) -> pd.Series[Any]:
    import pandas as pd
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float} and all(abs(value) <= 2**53 for value in values if isinstance(value, int)):
        kinds = {float}
        values = [None if value is None else float(value) for value in values]
    simple = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    if len(kinds) == 1 and (kind := kinds.pop()) in simple and (kind is not int or all(v is None or v in _INT64 for v in values)):
        arrow = simple[kind]
        return pd.Series(values, dtype=pd.ArrowDtype(arrow))
    return pd.Series(values, dtype=object)
