# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Who holds the lock that a transaction waits for."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from limio_limitrail.landing.sql.dialect import VALUE, Session
from limio_limitrail.landing.sql.names import TableName

MOST_NAMED = 3
"""Holders that a message names."""

_STATES = {"T": "stopped", "t": "stopped", "Z": "dead, and not yet removed", "D": "waiting for its disk"}
"""Linux' letters for what a process does, as far as they explain why it keeps a lock."""

# Whoever has a stronger lock than a reader's on the table, or waits for one, and whoever those wait for: a statement that waits
# for an open reader makes all others wait behind itself. A transaction that is younger than the wait cannot have caused it.
# What a session runs is not read, because a query holds values.
_HOLDERS = f"""
WITH RECURSIVE places AS (
    SELECT CAST(to_regclass({VALUE}) AS oid) AS place
    UNION SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = CAST(to_regclass({VALUE}) AS oid)
), chain AS (
    SELECT pid FROM pg_catalog.pg_locks
    WHERE locktype = 'relation' AND relation IN (SELECT place FROM places) AND mode <> CAST({VALUE} AS text)
    AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
    UNION SELECT unnest(pg_blocking_pids(pid)) FROM chain
)
SELECT pid, coalesce(nullif(application_name, ''), backend_type, 'not known'), usename, state,
to_char(xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), cardinality(pg_blocking_pids(pid)) > 0
FROM pg_catalog.pg_stat_activity
WHERE pid IN (SELECT pid FROM chain) AND pid <> pg_backend_pid()
AND (xact_start IS NULL OR xact_start < clock_timestamp() - make_interval(secs => CAST({VALUE} AS double precision)))
ORDER BY 6, xact_start
"""

# Where none is found, the table may be about to be made. Only who has written something keeps a lock on what nobody sees yet.
_WRITERS = f"""
SELECT pid, coalesce(nullif(application_name, ''), backend_type, 'not known'), usename, state,
to_char(xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), cardinality(pg_blocking_pids(pid)) > 0
FROM pg_catalog.pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xid IS NOT NULL
AND xact_start < clock_timestamp() - make_interval(secs => CAST({VALUE} AS double precision))
ORDER BY 6, xact_start
"""

_PREPARED = f"""
SELECT gid, owner, to_char(prepared AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') FROM pg_catalog.pg_prepared_xacts
WHERE database = current_database() AND EXISTS (SELECT 1 FROM pg_catalog.pg_locks
WHERE virtualtransaction = '-1/' || transaction::text AND relation = CAST(to_regclass({VALUE}) AS oid))
"""


def sessions_holding(session: Session, table: TableName, *, waited: float, readers: bool) -> list[str]:
    """Name the sessions of Postgres that keep others from a table, those first that wait for nobody themselves.

    It takes no lock on the table. Nothing is named that is not visible to the connection's user.

    :param session: a transaction of its own, after the one that waited.
    :param waited: seconds of the wait.
    :param readers: True where those who only read are in the way, too.
    """
    name = session.dialect.qualified(table)
    harmless = "" if readers else "AccessShareLock"
    named = [_named(*found) for found in session.query(_HOLDERS, name, name, harmless, waited)]
    for gid, user, since in session.query(_PREPARED, name):
        named.append(f"the prepared transaction {gid!r} (user {user!r}, since {since} UTC)")
    if not named:
        named = [f"perhaps {_named(*found)}" for found in session.query(_WRITERS, waited)]
    return named[:MOST_NAMED]


def _named(pid: int, application: str, user: str, state: str | None, since: str, waits: bool) -> str:
    about = f"{state} since {since} UTC" if state else "what it does is shown to members of pg_read_all_stats only"
    behind = ", itself waiting for a lock" if waits else ""
    return f"process {pid} (application {application!r}, user {user!r}, {about}{behind})"


def processes_holding(file: Path) -> list[str]:
    """Name the processes of this machine that have a lock on a SQLite database's file, writers first; Linux only."""
    inodes = set()
    for path in (file, file.with_name(f"{file.name}-shm")):
        with suppress(OSError):
            inodes.add(str(path.stat().st_ino))
    found: dict[int, bool] = {}
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "POSIX" and words[5].rpartition(":")[2] in inodes:
                pid = int(words[4])
                found[pid] = found.get(pid, False) or words[3] == "WRITE"
    found.pop(os.getpid(), None)
    writers = [pid for pid, writes in found.items() if writes]
    return [process(pid) for pid in (writers or found) if pid > 0][:MOST_NAMED]


def process(pid: int) -> str:
    """Name a process of this machine, and say what keeps it from going on, where that can be seen."""
    about = []
    with suppress(OSError, IndexError):
        # The name may hold blanks and brackets; the state stands behind its last bracket.
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
        about = [name, _STATES.get(rest.split()[0], "")]
    known = ", ".join(word for word in about if word)
    return f"process {pid}{f' ({known})' if known else ''}"
