# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which secret made the hashes in a table's key. With another secret a merge would find no row again, and add each a second time.

The table ``_limio_masked_keys`` is in the schema of the tables that it is about. It has a digest of each secret, not the secret.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.dialect import VALUE, Session
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.names import TableName, column_names
from limio_limitrail.landing.sql.sessions import find_table, open_session

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

MASKED_KEYS = "_limio_masked_keys"

_HASH_LENGTH = 64
_COLUMNS = ("table_name", "column_name", "secret_digest")


def claim_masked_keys(hook: DbApiHook, *, table: str, columns: Collection[str], digest: str, replaces: bool) -> None:
    """Note whose hashes a table's key has, before rows with such hashes are loaded. Doing it again changes nothing.

    :param hook: the connection.
    :param table: the table, as the user wrote it.
    :param columns: the record keys of the primary key that are hashed.
    :param digest: a digest of the secret.
    :param replaces: whether all rows that the table has will be replaced.
    :raises LandingError: the table has rows whose keys are not hashes, or are those of another secret.
    """
    with open_session(hook, step=f"while comparing the secret of {table}'s masked key") as session:
        name = find_table(table, dialect=session.dialect)
        session.lock(name)
        side = TableName(schema=name.schema, table=MASKED_KEYS)
        has_rows = session.columns(name) is not None and _exists(session, name, "1 = 1")
        if session.columns(side) is None:
            session.create_table(table=side, columns=[(column, session.dialect.text_type) for column in _COLUMNS], key=())
        for column in columns:
            known = _known(session, side, table=name.table, column=column)
            if known == digest:
                continue
            if has_rows and not replaces:
                _check(session, name, column=column, is_known=known is not None)
            where = f"table_name = {VALUE} AND column_name = {VALUE}"
            session.execute(f"DELETE FROM {session.dialect.qualified(side)} WHERE {where}", name.table, column)
            values = ", ".join([VALUE] * len(_COLUMNS))
            names = ", ".join(_COLUMNS)
            session.execute(
                f"INSERT INTO {session.dialect.qualified(side)} ({names}) VALUES ({values})", name.table, column, digest
            )


def _check(session: Session, table: TableName, *, column: str, is_known: bool) -> None:
    """Refuse rows of another secret, or of none; hashes that nobody has claimed yet are taken for those of this secret."""
    remedy = "load into another table, remove its rows, or run once with mode='replace'"
    if is_known:
        raise LandingError(
            f"the masked key {column!r} of {table} was made with another secret, so that each row would come a second time. "
            f"Nothing was loaded: give the connection of mask_conn_id its former password, or {remedy}"
        )
    found = {one.name: one for one in session.columns(table) or ()}
    own = found.get(column_names([column], existing=found, same=session.dialect.same_name)[column])
    if own is None:
        return
    text = f"CAST({session.dialect.quote(own.name)} AS {session.dialect.text_type})"
    if _exists(session, table, f"LENGTH({text}) <> {_HASH_LENGTH}"):
        raise LandingError(
            f"{table} has rows whose key {column!r} is not masked, so that each row would come a second time. "
            f"Nothing was loaded: {remedy}"
        )


def _known(session: Session, side: TableName, *, table: str, column: str) -> str | None:
    rows = session.query(
        f"SELECT secret_digest FROM {session.dialect.qualified(side)} WHERE table_name = {VALUE} AND column_name = {VALUE}",
        table,
        column,
    )
    return str(rows[0][0]) if rows else None


def _exists(session: Session, table: TableName, condition: str) -> bool:
    rows = f"SELECT 1 FROM {session.dialect.qualified(table)} WHERE {condition}"
    [(found,)] = session.query(f"SELECT CASE WHEN EXISTS ({rows}) THEN 1 ELSE 0 END")
    return bool(found)
