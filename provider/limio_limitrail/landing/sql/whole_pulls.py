# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""When the newest pull of each whole list began that was merged into a table: the table ``_limio_whole_pulls``.

An unchanged row keeps its ``_extracted_at``, so that a merge writes only what differs. Where times cannot tell which of two
versions is newer, a load that comes late would therefore replace a row that a newer pull has seen as it is. Here one row for each
list says that there was such a pull. It changes in the transactions that change the table.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.landing.sql.model import WriteMode
from limio_limitrail.landing.sql.names import TableName
from limio_limitrail.landing.sql.scopes import stored_instant

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.dialect import Session
    from limio_limitrail.landing.sql.model import Target

log = logging.getLogger("limio_limitrail.landing.sql")

WHOLE_PULLS_TABLE = "_limio_whole_pulls"
"""The table that knows the newest whole pulls into all tables of its schema."""

_COLUMNS = ("table_name", "scope", "began_at", "description")


def later_scopes(*, session: Session, table: TableName, target: Target) -> frozenset[str]:
    """Return the digests of the scopes of which a whole pull was merged that began later than this one."""
    if target.scope is None or target.mode is not WriteMode.MERGE or not _is_kept(session=session, table=table):
        return frozenset()
    found = session.query(
        f"SELECT scope FROM {_qualified(session=session, table=table)} WHERE table_name = {VALUE} AND began_at > {VALUE}",
        session.dialect.same_name(table.table),
        stored_instant(target.extracted_at),
    )
    return frozenset(str(scope) for (scope,) in found if str(scope).isalnum())


def record_whole_pull(*, session: Session, table: TableName, target: Target, is_new: bool) -> None:
    """Note that a pull was loaded, if it read the whole list; forget those whose rows are gone.

    :param is_new: whether the load has created the table.
    """
    scope = target.scope
    if scope is None or target.mode not in (WriteMode.MERGE, WriteMode.REPLACE):
        return
    name, qualified = session.dialect.same_name(table.table), _qualified(session=session, table=table)
    exists = _is_kept(session=session, table=table)
    if exists and (is_new or target.mode is WriteMode.REPLACE):
        session.execute(f"DELETE FROM {qualified} WHERE table_name = {VALUE}", name)
    if target.mode is WriteMode.REPLACE or not target.full_scan or not session.dialect.serializes_loads:
        return
    if not exists and not _create(session=session, table=table):
        return
    began_at = stored_instant(target.extracted_at)
    mine = f"FROM {qualified} WHERE table_name = {VALUE} AND scope = {VALUE}"
    if session.query(f"SELECT 1 {mine} AND began_at >= {VALUE}", name, scope.digest, began_at):
        return
    session.execute(f"DELETE {mine}", name, scope.digest)
    session.execute(
        f"INSERT INTO {qualified} ({', '.join(_COLUMNS)}) VALUES ({', '.join([VALUE] * len(_COLUMNS))})",
        name,
        scope.digest,
        began_at,
        scope.text,
    )


def _create(*, session: Session, table: TableName) -> bool:
    """Create the table; return whether the user may."""
    side = _side_table(table)
    if not session.may_write(side):
        log.info(
            "The connection's user may not create or change %s, which would say when the newest pull of the whole list began: a "
            "late load into %s may replace rows that a newer pull saw, where their times do not tell which is newer",
            side,
            table,
        )
        return False
    session.lock(side)
    if session.columns(side) is None:
        session.create_table(table=side, columns=[(name, session.dialect.text_type) for name in _COLUMNS], key=())
    return True


def _is_kept(*, session: Session, table: TableName) -> bool:
    side = _side_table(table)
    return session.dialect.serializes_loads and session.exists(side) and session.may_write(side)


def _side_table(table: TableName) -> TableName:
    return TableName(schema=table.schema, table=WHOLE_PULLS_TABLE)


def _qualified(*, session: Session, table: TableName) -> str:
    return session.dialect.qualified(_side_table(table))
