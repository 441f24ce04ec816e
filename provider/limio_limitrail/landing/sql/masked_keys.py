# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which secret made the hashes in a table's key. With another secret, or without the mask, a merge would find no row again, and
add each a second time.

The table ``_limio_masked_keys`` is in the schema of the tables that it is about. It has a digest of each secret, not the secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from limio_limitrail.landing.sql.model import LandingError, Target, WriteMode
from limio_limitrail.landing.sql.names import TableName, column_names
from limio_limitrail.landing.sql.session import Session
from limio_limitrail.landing.sql.side_table import SideTable

MASKED_KEYS = SideTable(name="_limio_masked_keys", columns=("column_name", "secret_digest"))

_HASH_LENGTH = 64
_REMEDY = "load into another table, remove its rows, or run once with mode='replace' and max_missing='100%'"


class MaskedKeyError(LandingError):
    """The rows of a table have other keys for the same records, so that a merge would add each record a second time."""


@dataclass(frozen=True, kw_only=True)
class MaskedKeys:
    """The hashes in the primary key of the rows that come.

    :param columns: the record keys that are hashed.
    :param digest: a digest of the secret.
    """

    columns: tuple[str, ...]
    digest: str


UNMASKED = MaskedKeys(columns=(), digest="")
"""Rows whose key has no hashes."""


def check_masked_keys(session: Session, *, table: TableName, target: Target, masked: MaskedKeys) -> None:
    """Check before a load that the keys of the table's rows are hashes of the same secret, or as plain as those that come.

    :raises MaskedKeyError: they are not.
    """
    if not target.mode.needs_key:
        return
    recorded = _recorded(session, table=table)
    if not masked.columns and not recorded:
        return
    if session.columns(table) is None or not _exists(session, table, "1 = 1"):
        return
    for column in target.primary_key:
        known = recorded.get(session.dialect.same_name(column))
        if column not in masked.columns:
            if known is not None and _has_lengths(session, table, column=column, condition=f">= {_HASH_LENGTH}"):
                raise MaskedKeyError(
                    f"{table} has rows whose key {column!r} is masked, and that of the rows that come is not, so that each row "
                    f"would come a second time. Nothing was loaded: mask {column!r} again, or {_REMEDY}"
                )
        elif known is None:
            # Hashes that nobody has claimed yet are taken for those of this secret.
            if _has_lengths(session, table, column=column, condition=f"<> {_HASH_LENGTH}"):
                raise MaskedKeyError(
                    f"{table} has rows whose key {column!r} is not masked, so that each row would come a second time. "
                    f"Nothing was loaded: {_REMEDY}"
                )
        elif known != masked.digest:
            raise MaskedKeyError(
                f"the masked key {column!r} of {table} was made with another secret, so that each row would come a second time. "
                f"Nothing was loaded: give the connection of mask_conn_id its former password, or {_REMEDY}"
            )


def record_masked_keys(session: Session, *, table: TableName, target: Target, masked: MaskedKeys) -> None:
    """Note whose hashes the keys of a table are, in the transaction that loads its rows."""
    if target.mode is WriteMode.APPEND:
        return
    same = session.dialect.same_name
    recorded = _recorded(session, table=table)
    wanted = {same(column): masked.digest for column in masked.columns}
    # Columns that are no longer in the key keep their hashes, unless all rows are new.
    about = recorded.keys() if target.mode is WriteMode.REPLACE else {same(column) for column in target.primary_key}
    stale = [column for column, digest in recorded.items() if column in about and wanted.get(column) != digest]
    new = [column for column, digest in wanted.items() if recorded.get(column) != digest]
    if not stale and not new:
        return
    if not MASKED_KEYS.exists(session, table=table):
        MASKED_KEYS.create(session, table=table)
    for column in stale:
        MASKED_KEYS.forget(session, table=table, where={"column_name": column})
    for column in new:
        MASKED_KEYS.put(session, table=table, key={"column_name": column}, values={"secret_digest": masked.digest})


def _recorded(session: Session, *, table: TableName) -> Mapping[str, str]:
    """Return the masked columns of the key of a table, as names that the database does not distinguish, with their digests."""
    rows = MASKED_KEYS.read(session, table=table, columns=("column_name", "secret_digest"))
    return {str(column): str(digest) for column, digest in rows}


def _has_lengths(session: Session, table: TableName, *, column: str, condition: str) -> bool:
    """Return whether the table has keys whose length meets a condition."""
    found = {one.name: one for one in session.columns(table) or ()}
    own = found.get(column_names([column], existing=found, same=session.dialect.same_name)[column])
    if own is None:
        return False
    text = f"CAST({session.dialect.quote(own.name)} AS {session.dialect.text_type})"
    return _exists(session, table, f"LENGTH({text}) {condition}")


def _exists(session: Session, table: TableName, condition: str) -> bool:
    rows = f"SELECT 1 FROM {session.dialect.qualified(table)} WHERE {condition}"
    [(found,)] = session.query(f"SELECT CASE WHEN EXISTS ({rows}) THEN 1 ELSE 0 END")
    return bool(found)
