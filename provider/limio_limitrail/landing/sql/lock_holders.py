# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which sessions and processes hold the lock that a transaction waits for."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.landing.sql.names import TableName
from limio_limitrail.landing.sql.session import Session

MOST_NAMED = 3
"""Lock holders that a message names."""

_STATES = {"T": "stopped", "t": "stopped", "Z": "dead, and not yet removed", "D": "waiting for its disk"}
"""Linux' states of a process that explain why it keeps a lock."""

# Sessions that have or wait for a stronger lock than a reader's on the table, and those that block them: a statement that waits
# for a reader makes all others wait, too. A transaction that is younger than the wait cannot have caused it.
# The sessions' queries are not read, because they contain values.
_HOLDERS = f"""
WITH RECURSIVE tables AS (
    SELECT CAST(to_regclass({VALUE}) AS oid) AS id
    UNION SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = CAST(to_regclass({VALUE}) AS oid)
), chain AS (
    SELECT pid FROM pg_catalog.pg_locks
    WHERE locktype = 'relation' AND relation IN (SELECT id FROM tables) AND mode <> 'AccessShareLock'
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

# If there are none, the table may be being created, by a transaction that has written something.
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


def sessions_holding(session: Session, table: TableName, *, waited: float) -> list[str]:
    """Describe the sessions of Postgres that lock a table, those first that do not wait themselves.

    Takes no lock on the table, and shows only what the connection's user may see.

    :param session: another transaction, after the one that waited.
    :param waited: seconds of the wait.
    """
    name = session.dialect.qualified(table)
    named = [_named(*found) for found in session.query(_HOLDERS, name, name, waited)]
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
    """Describe the local processes that lock a SQLite file, writers first; Linux only."""
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
    """Describe a local process, and the state that stops it, if there is one."""
    about = []
    with suppress(OSError, IndexError):
        # The name may contain blanks and brackets; the state follows the last bracket.
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
        about = [name, _STATES.get(rest.split()[0], "")]
    known = ", ".join(word for word in about if word)
    return f"process {pid}{f' ({known})' if known else ''}"
