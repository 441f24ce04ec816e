# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What logical replication asks of tables in Postgres: a publication refuses changes of a table whose rows it cannot name.

It names them by the primary key. A table without one needs a replica identity: with ``FULL`` the whole old row is the name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.dialect import VALUE

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.names import TableName
    from limio_limitrail.landing.sql.postgres import PostgresSession

BY_WHOLE_ROW = "REPLICA IDENTITY FULL"
BY_PRIMARY_KEY = "REPLICA IDENTITY DEFAULT"

CHECK_FUNCTION = "CheckCmdReplicaIdentity"
"""The server's function that refuses a change, in any language."""

# To change the identity of a table that nobody publishes would only make a load wait for those who read the table.
_LACKS_IDENTITY = f"""
SELECT 1 FROM pg_catalog.pg_class
WHERE oid = to_regclass({VALUE}) AND relreplident = 'd' AND pg_has_role(relowner, 'USAGE')
AND current_setting('transaction_read_only') = 'off'
AND NOT EXISTS (SELECT FROM pg_catalog.pg_index WHERE indrelid = pg_class.oid AND indisprimary)
AND EXISTS (
    SELECT FROM pg_catalog.pg_publication_tables
    WHERE tablename = relname AND schemaname = (SELECT nspname FROM pg_catalog.pg_namespace WHERE oid = relnamespace)
)
"""

_PUBLISHED = "SELECT 1 FROM pg_catalog.pg_publication WHERE puballtables"
_PUBLISHED_BY_SCHEMA = f"""
SELECT 1 FROM pg_catalog.pg_publication_namespace JOIN pg_catalog.pg_namespace ON pg_namespace.oid = pnnspid
WHERE nspname = {VALUE}
"""


def publishes_new_tables(session: PostgresSession, *, schema: str | None) -> bool:
    """Return whether a publication sends each table that is created in a schema."""
    if session.query(f"{_PUBLISHED} LIMIT 1"):
        return True
    by_schema = session.query("SELECT to_regclass('pg_catalog.pg_publication_namespace') IS NOT NULL")[0][0]
    return bool(by_schema and session.query(f"{_PUBLISHED_BY_SCHEMA} LIMIT 1", schema))


def ensure_replica_identity(session: PostgresSession, table: TableName) -> None:
    """Set the replica identity of a published table without a key, if the connection's user owns it."""
    name = session.dialect.qualified(table)
    if session.query(_LACKS_IDENTITY, name):
        session.execute(f"ALTER TABLE {name} {BY_WHOLE_ROW}")
