# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Copy the parts of a pull into a staging table of the run while the pull goes on, so that the load has less left to do.

A thread copies what is finished in transactions of its own; the load finds the rows by `early_rows`. Whatever prevents either is
logged and no error: the load then reads the parts, as it does without this.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec.structs import replace

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.parts import Part
from limio_limitrail.landing.sql.early_rows import StagedRun
from limio_limitrail.landing.sql.errors import Cause, DatabaseError
from limio_limitrail.landing.sql.exclusive_connection import ExclusiveConnection
from limio_limitrail.landing.sql.metadata import run_columns
from limio_limitrail.landing.sql.names import TableName
from limio_limitrail.landing.sql.plan import LoadPlan, make_plan
from limio_limitrail.landing.sql.session import Session
from limio_limitrail.landing.sql.sessions import find_table, open_session
from limio_limitrail.landing.sql.staging_columns import SchemaState, added_columns, columns_of, staged_tables
from limio_limitrail.landing.sql.staging_table import (
    StagingRecord,
    StagingTables,
    StagingTarget,
    digest_of,
    name_prefix,
    read_record,
    staging_name,
)

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from limio_limitrail.landing.sql.model import PartSource

log = logging.getLogger("limio_limitrail.landing.sql")

LOCK_WAIT = 10.0
"""Seconds that the thread waits for a lock."""

MAX_RESTARTS = 3
"""How often the thread starts over because of the columns or the parts, before it leaves the rest to the load."""

MAX_FAILURES = 3
"""How many of its transactions may fail."""

QUIET_SECONDS = 600.0
"""How long a load waits for the thread while this finishes no part: its connection may hang, and nothing else would end it."""

_STOP_SECONDS = 10.0


class RunStaging:
    """The staging table of a run, which a thread fills; an `EarlyLoad` of the pull.

    :param hook: returns a hook of its own for the thread.
    :param target: what the rows are for.
    :param source: returns a part, ready to be read.
    """

    def __init__(self, *, hook: Callable[[], DbApiHook], target: StagingTarget, source: Callable[[Part], PartSource]) -> None:
        self._hook = hook
        self._target = target
        self._source = source
        self._changed = threading.Condition()
        self._wanted: tuple[Sequence[Part], Mapping[str, Kind]] | None = None
        self._closing = False
        self._abandoned = False
        self._thread: threading.Thread | None = None
        self._session: Session | None = None
        self._held: ExclusiveConnection | None = None
        self._is_waiting = False
        self._copied = 0
        self._restarts = 0
        self._failures = 0
        self._gave_up = False
        self._has_leftovers = False

    @property
    def target(self) -> StagingTarget:
        """What the rows are for."""
        return self._target

    def add(self, parts: Sequence[Part], *, schema: Mapping[str, Kind]) -> None:
        """Let the thread copy the parts that it has not copied. See `EarlyLoad.add`."""
        if self._gave_up or not parts or not schema:
            return
        with self._changed:
            self._wanted = (parts, dict(schema))
            self._changed.notify()
        if self._thread is None:
            work = contextvars.copy_context().run
            self._thread = threading.Thread(target=work, args=(self._work,), name="staging", daemon=True)
            self._thread.start()

    def finish(self, parts: Sequence[Part]) -> StagedRun:
        """Wait until everything is copied, as far as it can be, and return what the load has to know.

        :param parts: all parts of the pull.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._hangs():
            log.warning(
                "%s: for %.0f s no part was copied into the staging table: its connection seems to hang, and is given up. "
                "The load copies the parts with its own",
                self._target.table,
                QUIET_SECONDS,
            )
            self._gave_up = True
            self.stop()
        held = None if self._gave_up else self._held
        return StagedRun(target=self._target, parts=parts, on_leftovers=self._note_leftovers, database=held)

    def _hangs(self) -> bool:
        """Wait for the end of the thread; return whether it does nothing any more."""
        while self._thread is not None and self._thread.is_alive():
            copied = self._copied
            self._thread.join(QUIET_SECONDS)
            if self._thread.is_alive() and self._copied == copied:
                return True
        return False

    def _note_leftovers(self) -> None:
        self._has_leftovers = True

    def stop(self) -> None:
        """End the thread and its connection, with the parts that it has committed."""
        with self._changed:
            self._abandoned = self._closing = True
            self._changed.notify()
        if self._thread is None or not self._thread.is_alive():
            return
        if (session := self._session) is not None:
            session.cut_off()
        self._thread.join(_STOP_SECONDS)

    def close(self) -> None:
        """Let others use a database that was kept open during the pull."""
        if self._thread is not None and self._thread.is_alive() and self._thread is not threading.current_thread():
            return
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def discard(self) -> None:
        """Remove what was copied. See `EarlyLoad.discard`."""
        self._gave_up = True
        self.stop()
        self.clean_up()
        self.close()

    def clean_up(self) -> None:
        """Drop the staging tables of the run and those that earlier ones have abandoned, if any; log what cannot be dropped."""
        if self._thread is None and not self._has_leftovers:
            return
        try:
            step = "while dropping staging tables"
            with open_session(self._hook(), step=step, lock_wait=LOCK_WAIT, file_wait=LOCK_WAIT) as session:
                if (tables := session.staging_tables()) is not None:
                    self._drop(session, tables)
        except Exception as error:  # noqa: BLE001 - the rows are in the table, or the pull's own error counts
            self._log_left(error)

    def _drop(self, session: Session, tables: StagingTables) -> None:
        table = session.located(find_table(self._target.table, dialect=session.dialect))
        own = staging_name(table, target=self._target).table
        for name, comment in tables.names(schema=table.schema, prefix=name_prefix(table)):
            record = read_record(comment)
            if record is None or (name != own and not record.is_abandoned):
                continue
            try:
                tables.drop(TableName(schema=table.schema, table=name))
                # Each by itself: DuckDB has no savepoints, and a table that cannot be dropped would keep those before it.
                session.commit()
            except Exception as error:  # noqa: BLE001 - as above
                session.roll_back()
                self._log_left(error, name=name)
            else:
                log.debug("%s: dropped the staging table %s.", table, name)
            session.begin(lock_wait=LOCK_WAIT, idle_limit=None, read_only=False)

    def _log_left(self, error: Exception, *, name: str | None = None) -> None:
        log.warning(
            "%s: %s, which holds rows of a pull, could not be dropped (%s). A later run into this table drops it",
            self._target.table,
            f"the staging table {name}" if name else "a staging table",
            getattr(error, "what", type(error).__name__),
        )

    def _work(self) -> None:
        try:
            self._copy_wanted()
        finally:
            self._end_transaction()

    def _end_transaction(self) -> None:
        if self._held is None:
            return
        try:
            if self._gave_up:
                self._held.roll_back()
            else:
                self._held.commit()
        except Exception as error:  # noqa: BLE001 - as above
            log.info("%s: %s", self._target.table, _postponed(error))

    def _copy_wanted(self) -> None:
        while not self._gave_up:
            with self._changed:
                while self._wanted is None and not self._closing:
                    self._changed.wait()
                if self._abandoned or self._wanted is None:
                    return
                wanted, self._wanted = self._wanted, None
            try:
                self._copy(*wanted)
            except _GaveUpError as why:
                self._give_up(str(why))
            except _InUseError as why:
                if not self._is_waiting:
                    log.info("%s: %s", self._target.table, why)
                self._is_waiting = True
            except Exception as error:  # noqa: BLE001 - the load reports it if it matters
                self._failures += 1
                if self._failures >= MAX_FAILURES and not self._abandoned:
                    self._give_up(getattr(error, "what", type(error).__name__))
                elif not self._abandoned:
                    log.info("%s: %s", self._target.table, _postponed(error))
            finally:
                self._session = None

    def _give_up(self, why: str) -> None:
        self._gave_up = True
        self.close()
        log.info("%s: the parts are loaded after the pull, not during it (%s)", self._target.table, why)

    def _copy(self, parts: Sequence[Part], schema: Mapping[str, Kind]) -> None:
        """Copy the parts that are not staged yet, in one transaction."""
        with self._transaction() as session:
            tables = session.staging_tables()
            if tables is None:
                raise _GaveUpError(f"{session.dialect.name} has no staging tables")
            self._session = session
            table = session.located(find_table(self._target.table, dialect=session.dialect))
            metadata = run_columns(extracted_at=datetime.now(UTC), run_id=self._target.run_id)
            plan = make_plan(session=session, table=table, schema=schema, metadata=metadata)
            staging = staging_name(table, target=self._target)
            staging = tables.located(staging, becomes_table=not plan.exists)
            writer = _Writer(tables=tables, staging=staging, plan=plan, target=self._target)
            record = writer.open(parts, may_restart=self._may_restart)
            for part in parts[record.parts :]:
                if self._abandoned:
                    break
                record = writer.append(record, self._source(part), rows=part.rows)
                self._copied += 1
            tables.set_comment(staging, comment=replace(record, digest=digest_of(parts[: record.parts])).to_text())

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        """Run a transaction, or continue the one of a database that is kept open."""
        step = f"while staging parts for {self._target.table}"
        hook = self._hook()
        if self._held is None:
            try:
                self._held = ExclusiveConnection.open(hook)
            except DatabaseError as refused:
                if refused.cause is Cause.TIMEOUT:
                    raise _InUseError(_postponed(refused)) from None
                raise
        held = self._held
        with open_session(hook, step=step, lock_wait=LOCK_WAIT) if held is None else held.staging(step=step) as session:
            yield session

    def _may_restart(self) -> None:
        self._restarts += 1
        if self._restarts > MAX_RESTARTS:
            raise _GaveUpError("the columns or the parts changed too often")


class _GaveUpError(Exception):
    """Nothing can be copied before the pull has ended."""


class _InUseError(Exception):
    """Another process has the database open. The message says what that means."""


def _postponed(error: Exception) -> str:
    return f"the finished parts will be copied with the next one ({getattr(error, 'what', type(error).__name__)})"


@dataclass(frozen=True, kw_only=True)
class _Writer:
    """Writes to a staging table in a transaction.

    :param tables: the staging tables of the database.
    :param staging: the name.
    :param plan: which column of the target each record key goes to.
    :param target: what the rows are for.
    """

    tables: StagingTables
    staging: TableName
    plan: LoadPlan
    target: StagingTarget

    def open(self, parts: Sequence[Part], *, may_restart: Callable[[], None]) -> StagingRecord:
        """Find or create the table, with the columns that are needed now."""
        dialect = self.tables.dialect
        columns = columns_of(self.plan, dialect=dialect, target=self.target, schema_is=SchemaState.GROWING)
        found = self.tables.comment(self.staging)
        if found is not None:
            record = read_record(found[0])
            if record is None:
                raise _GaveUpError(f"there is a table {self.staging} that this package did not make")
            self.tables.lock(self.staging)
            # Only what is read under the lock counts: another try of the run may just have written.
            record = read_record((self.tables.comment(self.staging) or (None,))[0])
            if (
                record is not None
                and record.becomes_table is not self.plan.exists
                and record.holds(parts)
                and (added := added_columns(record, columns)) is not None
                and not (record.rows and self.tables.is_empty(self.staging))
            ):
                self.tables.add_columns(self.staging, columns=added)
                return replace(record, columns=(*record.columns, *added))
            may_restart()
            self.tables.drop(self.staging)
        becomes_table = not self.plan.exists
        if (why := self.tables.refused(self.plan.table, becomes_table=becomes_table)) is not None:
            raise _GaveUpError(why)
        self.tables.create(self.staging, columns=columns, becomes_table=becomes_table)
        return StagingRecord(
            table=str(self.plan.table),
            run_id=self.target.run_id,
            becomes_table=becomes_table,
            columns=columns,
            at=datetime.now(UTC),
        )

    def append(self, record: StagingRecord, part: PartSource, *, rows: int) -> StagingRecord:
        """Copy a part; the digest of the record is left to the caller."""
        forms = set(record.nul_forms)
        names = [column.name for column in record.columns]
        tables = staged_tables(part, plan=self.plan, record=record, target=self.target, forms=forms)
        copied = self.tables.copy(self.staging, names=names, tables=tables)
        if copied != rows:
            raise _GaveUpError(f"the database copied {copied} rows where {rows} were sent")
        return replace(
            record, parts=record.parts + 1, rows=record.rows + rows, nul_forms=tuple(sorted(forms)), at=datetime.now(UTC)
        )
