# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The SQL of Postgres: its types, and how values are stored, compared and converted."""

from __future__ import annotations

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import Dialect
from limio_limitrail.landing.sql.names import LONGEST_NAME, ascii_lower

_TYPES = {
    Kind.NULL: "text",
    Kind.BOOLEAN: "boolean",
    Kind.INTEGER: "bigint",
    Kind.BIGINT: "bigint",
    Kind.DOUBLE: "double precision",
    Kind.TIMESTAMP: "timestamp with time zone",
    Kind.TEXT: "text",
    # Not jsonb: json stores the text unchanged, including the order of keys, forms of numbers and escapes.
    Kind.JSON: "json",
}
KINDS = {
    "boolean": Kind.BOOLEAN,
    "bigint": Kind.BIGINT,
    "double precision": Kind.DOUBLE,
    "timestamp with time zone": Kind.TIMESTAMP,
    "text": Kind.TEXT,
    "character varying": Kind.TEXT,
    "json": Kind.JSON,
}
"""The kinds of the types' names."""


def _stored(expression: str, kind: Kind) -> str:
    return f"CAST({expression} AS json)" if kind is Kind.JSON else expression


def _key(expression: str, kind: Kind) -> str:
    return f"CAST({expression} AS text)" if kind is Kind.JSON else expression


def _exact(expression: str, kind: Kind) -> str:
    # By code points, so that neither the newest text nor a change depends on the database's locale.
    return f'CAST({expression} AS text) COLLATE "C"' if kind in (Kind.TEXT, Kind.NULL, Kind.JSON) else expression


def _to_custom_type(expression: str, kind: Kind, type_: str) -> str:
    # A double's text is exact, its direct cast to numeric keeps 15 digits.
    inner = f"CAST({expression} AS text)" if kind is Kind.DOUBLE else expression
    return f"CAST({inner} AS {type_})"


def _custom_type_loses(expression: str, kind: Kind, type_: str) -> str:
    value = _to_custom_type(expression, kind, type_)
    if kind is Kind.JSON and type_ == "jsonb":
        # The column was created as jsonb on purpose; the cast itself still has to succeed.
        return f"{value} IS NULL"
    back = "text" if kind is Kind.JSON else _TYPES[kind]
    return f"CAST({value} AS {back}) IS DISTINCT FROM {expression}"


POSTGRES = Dialect(
    name="Postgres",
    fold=ascii_lower,
    longest_name=LONGEST_NAME,
    most_columns=1600,
    types=_TYPES,
    text_type="text",
    integer_type="bigint",
    instant_type="timestamp with time zone",
    stored=_stored,
    key=_key,
    exact=_exact,
    utc_day=lambda value: f"to_char({value} AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    to_custom_type=_to_custom_type,
    custom_type_loses=_custom_type_loses,
)
