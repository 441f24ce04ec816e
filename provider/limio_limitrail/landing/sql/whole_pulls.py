# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""When the newest pull of each whole list began that was merged into a table: the table ``_limio_whole_pulls``.

An unchanged row keeps its ``_extracted_at``, so that a merge writes only what differs. Where times cannot tell which of two
versions is newer, a load that comes late would therefore replace a row that a newer pull has seen as it is. Here one row for each
list says that there was such a pull. It changes in the transactions that change the table.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.model import WriteMode
from limio_limitrail.landing.sql.side_table import SideTable, stored_instant

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.model import Target
    from limio_limitrail.landing.sql.names import TableName
    from limio_limitrail.landing.sql.session import Session

log = logging.getLogger("limio_limitrail.landing.sql")

WHOLE_PULLS = SideTable(name="_limio_whole_pulls", columns=("scope", "began_at", "description"))


def later_scopes(*, session: Session, table: TableName, target: Target) -> frozenset[str]:
    """Return the digests of the scopes of which a whole pull was merged that began later than this one."""
    if target.scope is None or target.mode is not WriteMode.MERGE or not _is_kept(session=session, table=table):
        return frozenset()
    began_at = stored_instant(target.extracted_at)
    found = WHOLE_PULLS.read(session, table=table, columns=("scope", "began_at"))
    return frozenset(str(scope) for scope, began in found if str(began) > began_at and str(scope).isalnum())


def record_whole_pull(*, session: Session, table: TableName, target: Target, is_new: bool) -> None:
    """Note that a pull was loaded, if it read the whole list; forget those whose rows are gone.

    :param is_new: whether the load has created the table.
    """
    scope = target.scope
    if scope is None or target.mode not in (WriteMode.MERGE, WriteMode.REPLACE):
        return
    exists = _is_kept(session=session, table=table)
    if exists and (is_new or target.mode is WriteMode.REPLACE):
        WHOLE_PULLS.forget(session, table=table)
    if target.mode is WriteMode.REPLACE or not target.full_scan or not session.dialect.serializes_loads:
        return
    if not exists and not _create(session=session, table=table):
        return
    began_at, key = stored_instant(target.extracted_at), {"scope": scope.digest}
    if any(str(known) >= began_at for (known,) in WHOLE_PULLS.read(session, table=table, columns=("began_at",), where=key)):
        return
    WHOLE_PULLS.put(session, table=table, key=key, values={"began_at": began_at, "description": scope.text})


def _create(*, session: Session, table: TableName) -> bool:
    """Create the table; return whether the user may."""
    side = WHOLE_PULLS.beside(session, table=table)
    if not session.may_write(side):
        log.info(
            "The connection's user may not create or change %s, which would say when the newest pull of the whole list began: a "
            "late load into %s may replace rows that a newer pull saw, where their times do not tell which is newer",
            side,
            table,
        )
        return False
    WHOLE_PULLS.create(session, table=table)
    return True


def _is_kept(*, session: Session, table: TableName) -> bool:
    side = WHOLE_PULLS.beside(session, table=table)
    return session.dialect.serializes_loads and session.exists(side) and session.may_write(side)
