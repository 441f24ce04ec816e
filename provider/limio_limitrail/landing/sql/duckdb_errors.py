# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What DuckDB's errors say, without the values that they quote."""

from __future__ import annotations

import re

from limio_limitrail.landing.sql.errors import Cause, Diagnosis, before_values

# Texts of these errors hold names and the database's state; all others may quote the rows they could not store.
_QUOTE_NO_ROWS = frozenset(
    {"BinderException", "CatalogException", "DependencyException", "IOException", "NotImplementedException", "ParserException",
     "PermissionException", "SyntaxException", "OutOfMemoryException"}
)  # fmt: skip


def diagnosis(error: Exception) -> Diagnosis:
    """Describe an error, without any value."""
    kind, message = type(error).__name__, str(error).strip().partition("\n")[0]
    summary, cause = f"DuckDB refused ({kind})", Cause.OTHER
    if re.search(r"No space left|Disk quota|max_temp_directory_size", str(error)):
        cause = Cause.FULL
    elif re.search(r"Permission denied|Read-only file system|read-only mode", str(error)):
        cause = Cause.READ_ONLY
    elif kind == "OutOfMemoryException" or re.search(r"Failed to commit: (failed to (pin|allocate)|could not allocate)", message):
        cause = Cause.MEMORY
    elif kind == "TransactionException":
        cause = Cause.CONFLICT
    elif kind in ("ConversionException", "OutOfRangeException"):
        cause = Cause.ROWS
    if kind in _QUOTE_NO_ROWS:
        # An attached database's own error, which may quote rows, is an IOException.
        detail = before_values(message) if "ERROR:" in str(error) else message
        return Diagnosis(summary=summary, detail=detail, cause=cause)
    prefix, _, rest = message.partition(": ")
    if rest.startswith("NOT NULL constraint failed"):
        return Diagnosis(summary=summary, detail=rest, cause=Cause.ROWS)
    if repeated := re.match(r'Duplicate key "(.*?): ', rest):
        # The text before the first colon is a column's name, or its beginning.
        return Diagnosis(summary=summary, detail=f"a unique constraint on {repeated.group(1)!r} was violated", cause=Cause.ROWS)
    if kind in ("ConstraintException", "TransactionException", "ConnectionException"):
        cause = Cause.ROWS if kind == "ConstraintException" else cause
        return Diagnosis(summary=summary, detail=before_values(rest or prefix), cause=cause)
    return Diagnosis(summary=summary, detail="its message is not shown, since it may quote rows", cause=cause)
