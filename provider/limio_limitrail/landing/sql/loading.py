# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Load a pull into a table and its child tables, in one transaction.

Lock the tables, load the records (`table_load`), then the elements of their lists (`child_tables`), run the checks, and commit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.child_tables import ChildSource, follow, load_children, lock_tables
from limio_limitrail.landing.sql.contract import EVOLVE, Contract
from limio_limitrail.landing.sql.errors import Cause, DatabaseError, during
from limio_limitrail.landing.sql.load_checks import run_checks
from limio_limitrail.landing.sql.masked_keys import UNMASKED, MaskedKeys, check_masked_keys, record_masked_keys
from limio_limitrail.landing.sql.model import LoadResult, PartSource, Target
from limio_limitrail.landing.sql.partitions import Partitions
from limio_limitrail.landing.sql.sessions import find_table, open_session, session_class
from limio_limitrail.landing.sql.table_load import TableLoad

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from limio_limitrail.landing.checks import Check
    from limio_limitrail.landing.sql.early_rows import StagedRun
    from limio_limitrail.landing.sql.session import Session

log = logging.getLogger("limio_limitrail.landing.sql")

_NOTHING_WRITTEN = "Nothing was written; a retry goes on from the finished parts"


def load(
    *,
    hook: DbApiHook,
    target: Target,
    schema: Mapping[str, Kind],
    parts: Sequence[PartSource],
    child_tables: Sequence[ChildSource] = (),
    masked_keys: MaskedKeys = UNMASKED,
    progress: Callable[[int], None] | None = None,
    contract: Contract = EVOLVE,
    checks: Sequence[Check] = (),
    partitions: Partitions | None = None,
    before_commit: Callable[[LoadResult], None] | None = None,
    staged: StagedRun | None = None,
    dry_run: bool = False,
) -> LoadResult:
    """Write a pull into a table, in one transaction: all of it or nothing.

    The table is created if it does not exist, gains missing columns, and columns that are too narrow are widened. Loads own the
    columns: a row that is replaced has a null in every column that it no longer brings. Columns with a default, and those that
    the database fills, are never written.

    DuckDB, Postgres and SQLite also undo changes of columns when a load fails. Another database of standard SQL may commit those,
    and does not serialize two loads into one table.

    A NUL character is stored as the six characters ``\\u0000``. A column of a type that this package does not create, such as
    ``numeric``, ``varchar(20)`` or ``uuid``, is written if it returns every value unchanged; ``jsonb`` stores JSON as it does.

    A load that needs more memory than its database gets, where that can be more, is undone and run once more: `progress` begins
    anew then, and `before_commit` may be called a second time.

    :param hook: the connection, with the table's database and default schema.
    :param target: the table and how to write to it.
    :param schema: record key → the widest kind of all parts, in order.
    :param parts: the parts in order. Each is read once, one at a time; once more if it cannot go straight into a new table.
    :param child_tables: what was pulled of nested lists, for their child tables.
    :param masked_keys: the hashes in the primary key.
    :param progress: called after every part with the number of rows sent so far.
    :param contract: what may change of the columns, and what the pull must bring.
    :param checks: what must hold of the table in the end.
    :param partitions: how the table is divided, if the touched partitions are asked for. Not with `WriteMode.REPLACE`, which
        writes all of them.
    :param before_commit: called with the result when only the commit is left to do; what it raises undoes the load.
    :param staged: the run whose rows may have been staged while the pull went on.
    :param dry_run: roll back in the end, and return what would have been done. Needs a database that undoes changes of columns.
    :raises MaskedKeyError: the table's keys are not hashes of the same secret. The table is as it was before.
    :raises LatePullError: a later pull has rows there that an append or a replace would remove. The table is as it was before.
    :raises MappedReplaceError: another copy of a mapped task has, in the same Dag run. The table is as it was before.
    :raises ContractError: the pull breaks the contract, or a check failed. The table is as it was before.
    :raises LandingError: the pull does not fit, or the database refused it. The table is as it was before.
    """
    # Only parts are counted, not rows: an empty pull may still come with parts.
    log.info("Loading %d parts into %s (%s)", len(parts), target.table, target.mode)
    import pyarrow as pa

    # Return the memory that the pull has used to the system before the database uses as much.
    pa.default_memory_pool().release_unused()
    step = f"while loading {target.table}"

    def transact(prepare: Callable[[Session], None]) -> LoadResult:
        try:
            held = None if staged is None else staged.database
            opened = open_session(hook, step=step) if held is None else held.loading(step=step)
            with during(step, outcome=_NOTHING_WRITTEN), opened as session:
                prepare(session)
                table = find_table(target.table, dialect=session.dialect)
                lock_tables(session, table=table, children=child_tables)
                with during(f"while comparing the masks of the key of {table}"):
                    check_masked_keys(session, table=table, target=target, masked=masked_keys)
                loading = TableLoad(
                    session=session,
                    table=table,
                    target=target,
                    schema=schema,
                    parts=parts,
                    progress=progress,
                    contract=contract,
                    partitions=partitions,
                    staged=staged,
                )
                followers = follow(loading, child_tables)
                result = loading.run()
                if followers:
                    result = load_children(loading, followers, result=result)
                if result.rows:
                    with during(f"while recording the masks of the key of {table}"):
                        record_masked_keys(session, table=table, target=target, masked=masked_keys)
                run_checks(checks, session=session, table=table)
                if before_commit is not None and not dry_run:
                    before_commit(result)
                if dry_run:
                    with during("while checking what a commit would check"):
                        session.check_deferred()
                    raise _DryRunEndedError  # noqa: TRY301 - the way out of a transaction without a commit
        except _DryRunEndedError:
            pass
        return result

    try:
        result = transact(lambda _: None)
    except DatabaseError as error:
        if error.cause is not Cause.MEMORY or not session_class(hook).may_take_more_memory(hook):
            raise
        log.warning("%s. Nothing was written; the load is run again with more memory", error.summary)
        result = transact(lambda session: session.take_more_memory())
    log.info(
        "%s %s: %d rows came, %d inserted, %d updated, %d unchanged, %d outdated, %d deleted, %d duplicates dropped",
        "Dry run, rolled back: into" if dry_run else "Loaded into",
        target.table,
        result.rows,
        result.inserted,
        result.updated,
        result.unchanged,
        result.outdated,
        result.deleted,
        result.duplicates,
    )
    return result


class _DryRunEndedError(Exception):
    """Ends the transaction of a dry run."""
