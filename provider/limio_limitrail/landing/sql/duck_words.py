# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What DuckDB says: why it refuses, and which values its types take for equal."""

from __future__ import annotations

import re

from limio_limitrail.landing.sql.dialect import Equality
from limio_limitrail.landing.sql.errors import Cause, Refusal, before_values

# These speak of names and of the database's state; all others may quote the rows they could not store.
_SPEAK_OF_NAMES = frozenset(
    {"BinderException", "CatalogException", "DependencyException", "IOException", "NotImplementedException", "ParserException",
     "PermissionException", "SyntaxException", "OutOfMemoryException"}
)  # fmt: skip

# Types in which values are equal only if their texts are, as long as a text comes back as it went in.
_EXACT_TYPES = frozenset(
    {"BIT", "BLOB", "BOOLEAN", "DATE", "DECIMAL", "DOUBLE", "ENUM", "JSON", "TIME", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE",
     "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP_S", "UUID", "VARCHAR", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT",
     "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"}
)  # fmt: skip


def describe(error: Exception) -> Refusal:
    """Tell why a statement failed, without any value."""
    kind, message = type(error).__name__, str(error).strip().partition("\n")[0]
    told, cause = f"DuckDB refused ({kind})", Cause.OTHER
    if re.search(r"No space left|Disk quota|max_temp_directory_size", str(error)):
        cause = Cause.FULL
    elif re.search(r"Permission denied|Read-only file system|read-only mode", str(error)):
        cause = Cause.READ_ONLY
    elif kind == "TransactionException":
        cause = Cause.CONFLICT
    elif kind == "OutOfMemoryException":
        cause = Cause.LIMIT
    if kind in _SPEAK_OF_NAMES:
        return Refusal(told=told, words=message, cause=cause)
    prefix, _, rest = message.partition(": ")
    if rest.startswith("NOT NULL constraint failed"):
        return Refusal(told=told, words=rest, cause=Cause.ROWS)
    if repeated := re.match(r'Duplicate key "(.*?): ', rest):
        # Before the first colon stands a column's name, or its beginning.
        return Refusal(told=told, words=f"a unique constraint on {repeated.group(1)!r} was violated", cause=Cause.ROWS)
    if kind in ("ConstraintException", "TransactionException", "ConnectionException"):
        cause = Cause.ROWS if kind == "ConstraintException" else cause
        return Refusal(told=told, words=before_values(rest or prefix), cause=cause)
    return Refusal(told=told, words="its message is not shown, since it may quote rows", cause=cause)


def equality(type_: str) -> Equality:
    """Tell which values a column takes for equal."""
    # Collations need no look: keys are compared character by character, and indexes disregard collations.
    if type_ == "FLOAT":
        return Equality.NUMERIC
    plain = type_.partition("(")[0]
    return Equality.EXACT if plain in _EXACT_TYPES and not type_.endswith("]") else Equality.LOOSE
