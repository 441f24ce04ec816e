# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Postgres' errors without values, and which values its types compare as equal."""

from __future__ import annotations

import re

from limio_limitrail.landing.sql.dialect import Equality
from limio_limitrail.landing.sql.errors import Cause, Diagnosis, before_values, cause_of, class_and_state
from limio_limitrail.landing.sql.postgres_publications import CHECK_FUNCTION

# Classes of SQLSTATE whose messages hold names and the server's state. Their details, hints and contexts quote rows and are never
# read.
_QUOTE_NO_ROWS = frozenset({"08", "0A", "23", "25", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58"})
_QUOTE_ROWS = frozenset({"22"})

_REASONS = (
    (r"no password supplied|authentication failed|no pg_hba\.conf entry|role .* does not exist|not permitted to log in",
     Cause.CREDENTIALS, "the server refused the login"),
    (r"database .* does not exist", Cause.NO_DATABASE, "the server has no such database"),
    (r"too many (clients|connections)|connection slots", Cause.CONNECTIONS, "the server accepts no more connections"),
    (r"translate host name|resolve host|name resolution|[Nn]ame or service not known", Cause.UNREACHABLE,
     "the host's name is not known"),
    (r"[Cc]onnection refused|No such file or directory", Cause.UNREACHABLE, "no server listens there"),
    (r"time(d)? ?out", Cause.UNREACHABLE, "the server did not answer in time"),
    (r"starting up|shutting down|recovery mode", Cause.UNREACHABLE, "the server is starting or shutting down"),
    (r"unsupported startup parameter", Cause.UNREACHABLE,
     "the pooler refuses a parameter such as options: take it out of the connection's extra, or let the pooler ignore it"),
    (r"SSL|certificate", Cause.UNREACHABLE, "TLS failed: check sslmode and the certificates"),
)  # fmt: skip
# Types that compare values as equal only if their texts are, as long as a text is returned unchanged. Enums do, too.
_EXACT_TYPES = frozenset(
    {"bit", "bool", "bpchar", "bytea", "char", "cidr", "date", "float8", "inet", "int2", "int4", "int8", "json", "macaddr",
     "macaddr8", "name", "oid", "text", "time", "timestamp", "timestamptz", "timetz", "uuid", "varbit", "varchar"}
)  # fmt: skip
_NUMERIC_TYPES = frozenset({"float4", "numeric"})


def unreachable(message: str) -> Diagnosis:
    """Recognize in the driver's text why there is no connection, without repeating it."""
    for pattern, cause, detail in _REASONS:
        if re.search(pattern, message):
            return Diagnosis(summary="", detail=detail, cause=cause)
    return Diagnosis(summary="", cause=Cause.UNREACHABLE)


def describe(error: Exception, *, lost: bool) -> Diagnosis:
    """Describe why a statement failed, without any value.

    :param lost: whether the connection is closed.
    """
    class_, state = class_and_state(error)
    diagnosis = getattr(error, "diag", None)
    message = str(getattr(diagnosis, "message_primary", None) or "")
    detail = ""
    if getattr(diagnosis, "source_function", None) == "exec_stmt_raise":
        pass  # text of a user's function, which may choose any SQLSTATE
    elif state[:2] in _QUOTE_NO_ROWS and message:
        # A statement that a function has built may hold values where others hold names.
        detail = before_values(message) if getattr(diagnosis, "internal_query", None) else message
    elif state[:2] in _QUOTE_ROWS and message:
        detail = before_values(message)
    cause = cause_of(state)
    if getattr(diagnosis, "source_function", None) == CHECK_FUNCTION:
        cause = Cause.NO_IDENTITY
    if lost or cause is Cause.LOST:
        return Diagnosis(summary=f"the connection to Postgres ended {class_}", detail=detail, cause=Cause.LOST)
    return Diagnosis(summary=f"Postgres refused {class_}", detail=detail, cause=cause)


def equality(deterministic: bool, type_: str, category: str, schema: str, modifier: int) -> Equality:
    """Return which values a column compares as equal."""
    if not deterministic or not (category == "e" or schema == "pg_catalog"):
        return Equality.LOOSE
    if type_ in _NUMERIC_TYPES:
        # With a number of digits after the point, a value's text is always the same.
        return Equality.EXACT if type_ == "numeric" and modifier >= 0 else Equality.NUMERIC
    return Equality.EXACT if category == "e" or type_ in _EXACT_TYPES else Equality.LOOSE
