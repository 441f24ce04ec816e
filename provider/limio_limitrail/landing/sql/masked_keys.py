# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which secret made the hashes in a table's key. With another secret a merge would find no row again, and add each a second time.

The table ``_limio_masked_keys`` is in the schema of the tables that it is about. It has a digest of each secret, not the secret.
"""

from __future__ import annotations

from dataclasses import dataclass

from limio_limitrail.landing.sql.dialect import VALUE, Session
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.names import TableName, column_names

MASKED_KEYS = "_limio_masked_keys"

_HASH_LENGTH = 64
_COLUMNS = ("table_name", "column_name", "secret_digest")


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


def check_masked_keys(session: Session, *, table: TableName, masked: MaskedKeys) -> None:
    """Check before a load that the table's rows have hashes of the same secret.

    :raises MaskedKeyError: the table has rows whose keys are not hashes, or are those of another secret.
    """
    if session.columns(table) is None or not _exists(session, table, "1 = 1"):
        return
    for column in masked.columns:
        known = _known(session, table=table, column=column)
        if known != masked.digest:
            _check(session, table, column=column, is_known=known is not None)


def record_masked_keys(session: Session, *, table: TableName, masked: MaskedKeys) -> None:
    """Note whose hashes the keys of a table are, in the transaction that loads them."""
    new = [column for column in masked.columns if _known(session, table=table, column=column) != masked.digest]
    if not new:
        return
    side = _side_table(table)
    if session.columns(side) is None:
        session.create_table(table=side, columns=[(column, session.dialect.text_type) for column in _COLUMNS], key=())
    qualified, values = session.dialect.qualified(side), ", ".join([VALUE] * len(_COLUMNS))
    for column in new:
        session.execute(f"DELETE FROM {qualified} WHERE table_name = {VALUE} AND column_name = {VALUE}", table.table, column)
        session.execute(f"INSERT INTO {qualified} ({', '.join(_COLUMNS)}) VALUES ({values})", table.table, column, masked.digest)


def _side_table(table: TableName) -> TableName:
    return TableName(schema=table.schema, table=MASKED_KEYS)


def _check(session: Session, table: TableName, *, column: str, is_known: bool) -> None:
    """Refuse rows of another secret, or of none; hashes that nobody has claimed yet are taken for those of this secret."""
    remedy = "load into another table, remove its rows, or run once with mode='replace' and max_missing='100%'"
    if is_known:
        raise MaskedKeyError(
            f"the masked key {column!r} of {table} was made with another secret, so that each row would come a second time. "
            f"Nothing was loaded: give the connection of mask_conn_id its former password, or {remedy}"
        )
    found = {one.name: one for one in session.columns(table) or ()}
    own = found.get(column_names([column], existing=found, same=session.dialect.same_name)[column])
    if own is None:
        return
    text = f"CAST({session.dialect.quote(own.name)} AS {session.dialect.text_type})"
    if _exists(session, table, f"LENGTH({text}) <> {_HASH_LENGTH}"):
        raise MaskedKeyError(
            f"{table} has rows whose key {column!r} is not masked, so that each row would come a second time. "
            f"Nothing was loaded: {remedy}"
        )


def _known(session: Session, *, table: TableName, column: str) -> str | None:
    side = _side_table(table)
    if session.columns(side) is None:
        return None
    rows = session.query(
        f"SELECT secret_digest FROM {session.dialect.qualified(side)} WHERE table_name = {VALUE} AND column_name = {VALUE}",
        table.table,
        column,
    )
    return str(rows[0][0]) if rows else None


def _exists(session: Session, table: TableName, condition: str) -> bool:
    rows = f"SELECT 1 FROM {session.dialect.qualified(table)} WHERE {condition}"
    [(found,)] = session.query(f"SELECT CASE WHEN EXISTS ({rows}) THEN 1 ELSE 0 END")
    return bool(found)
