# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A connection to a database, and its transaction."""

from __future__ import annotations

import os
import socket
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Self, TypeVar

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import Dialect, TableColumn, Update, quoted
from limio_limitrail.landing.sql.errors import Cause, DatabaseError, Diagnosis, during, guarded, moved_file
from limio_limitrail.landing.sql.open_file import has_open

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from limio_limitrail.landing.sql.model import PartSource
    from limio_limitrail.landing.sql.names import TableName
    from limio_limitrail.landing.sql.plan import ColumnPlan, LoadPlan
    from limio_limitrail.landing.sql.staging_table import StagingTables
    from limio_limitrail.landing.sql.statements import LoadStatements

T = TypeVar("T")

CANCEL_SECONDS = 5.0
"""How long a server may take to confirm that it cancels a statement."""


class WhilePulling(Enum):
    """Whether rows are copied into a database while a pull goes on."""

    BY_DEFAULT = "by default"
    ON_REQUEST = "on request"
    """Only if the user asks for it, because nobody else can use the database meanwhile."""
    REFUSED = "refused"


class Session(ABC):
    """A connection to a database and its transaction. Others see nothing of a transaction before it is committed.

    :param hook: the connection's hook.
    :param connection: what `connect` has returned.
    """

    dialect: Dialect
    driver_error: type[Exception]
    """The base class of what the driver raises."""

    def __init__(self, hook: DbApiHook, connection: Any) -> None:
        self.hook = hook
        self._connection = connection

    @classmethod
    @abstractmethod
    def connect(cls, hook: DbApiHook, *, wait: float | None = None) -> Any:
        """Open the driver's connection.

        :param wait: seconds to wait for another process that has the database's file open; ``None``: as long as a load does.
        :raises LandingError: the database cannot be reached, or refuses the connection.
        """

    @classmethod
    def connect_to_inspect(cls, hook: DbApiHook) -> Any | None:
        """Open the connection without creating the database or waiting for it; ``None`` where that is not possible."""
        return cls.connect(hook, wait=0.0)

    @classmethod
    def while_pulling(cls, hook: DbApiHook) -> WhilePulling:  # noqa: ARG003
        """Return whether rows are staged in the database while a pull goes on."""
        return WhilePulling.REFUSED

    @classmethod
    def hold(cls, hook: DbApiHook) -> Any | None:  # noqa: ARG003
        """Keep the database open between transactions; return what to close in the end, ``None`` where there is no need.

        :raises LandingError: as `connect`, without waiting.
        """
        return None

    @classmethod
    def process_lock(cls, hook: DbApiHook) -> AbstractContextManager[object]:  # noqa: ARG003
        """Return a lock for a whole load, where the threads of one process need one."""
        return nullcontext()

    def file(self) -> Path | None:
        """Return the open database's file; ``None`` if it is a server's, or in memory."""
        return None

    def interrupt(self) -> None:
        """End the statement that another thread runs, where the driver can."""
        # DuckDB and SQLite; psycopg 3, whose cancel() stops all threads of the process until the server answers; psycopg 2.
        for name, limit in (("interrupt", {}), ("cancel_safe", {"timeout": CANCEL_SECONDS}), ("cancel", {})):
            if callable(call := getattr(self._connection, name, None)):
                with suppress(Exception):
                    call(**limit)
                return

    def cut_off(self) -> None:
        """End the connection, and with it what another thread does with it, without the server, which may not answer.

        To cancel a statement, drivers wait for the server, and keep all threads of the process from running as they do.
        """
        with suppress(Exception), socket.socket(fileno=os.dup(self._connection.fileno())) as own:
            own.shutdown(socket.SHUT_RDWR)

    @classmethod
    @abstractmethod
    def describe(cls, error: Exception, *, connection: Any) -> Diagnosis:
        """Describe an error of the driver, without any value of a row."""

    @contextmanager
    def transaction(
        self, *, lock_wait: float | None = None, idle_limit: float | None = None, read_only: bool = False
    ) -> Iterator[Self]:
        """Run a transaction: committed at the end, rolled back if anything is raised.

        :param lock_wait: seconds to wait for a lock, where the database can limit that; ``None``: as long as a load does.
        :param idle_limit: seconds after which the database ends a transaction without statements, where it can.
        :param read_only: whether nothing will be written.
        """
        try:
            self.begin(lock_wait=lock_wait, idle_limit=idle_limit, read_only=read_only)
            yield self
            with during("while committing"):
                self.commit()
            self._check_file()
        except BaseException:
            self.roll_back()
            raise

    def restore_settings(self) -> None:  # noqa: B027 - most databases have a connection for each load
        """Undo what earlier transactions of the connection have set for themselves."""

    @abstractmethod
    def begin(self, *, lock_wait: float | None, idle_limit: float | None, read_only: bool) -> None:
        """Begin a transaction; see `transaction`."""

    def commit(self) -> None:
        """Commit the transaction."""
        try:
            self.guarded(self._connection.commit)
        except DatabaseError as refused:
            if refused.cause is Cause.LOST:
                refused.cause = Cause.UNCERTAIN
            raise

    def _check_file(self) -> None:
        """Check that what was committed can be found: that the database's file was not replaced while it was open.

        :raises DatabaseError: it was; the cause is `Cause.MOVED`.
        """
        file = self.file()
        if file is not None and not has_open(file):
            raise moved_file(file)

    def roll_back(self) -> None:
        """Undo everything. If that fails, closing the connection does it, and the first error is not hidden."""
        with suppress(Exception):
            self._connection.rollback()

    def guarded(self, call: Callable[[], T]) -> T:
        """Run a call to the driver; what it raises becomes a `DatabaseError` that quotes no value."""
        return guarded(call, refused=self.driver_error, describe=lambda error: self.describe(error, connection=self._connection))

    @abstractmethod
    def execute(self, sql: str, *values: object) -> int:
        """Run a statement, with a bound value for every `VALUE` in it; return the number of affected rows."""

    @abstractmethod
    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a query and fetch all its rows."""

    @abstractmethod
    def columns(self, table: TableName) -> tuple[TableColumn, ...] | None:
        """Read a table's columns; ``None`` if there is no such table.

        :raises LandingError: the name belongs to something other than a table.
        """

    def exists(self, table: TableName) -> bool:
        """Return whether there is such a table. The connection's user need not be allowed to create it."""
        return self.columns(table) is not None

    def schema_of(self, table: TableName) -> str | None:
        """Return the schema that a table is in, or would be created in; ``None`` for the only one that a name can mean."""
        return table.schema

    def located(self, table: TableName) -> TableName:
        """Return a table's name with its schema. Without it, a table that is kept beside it might be found in another schema."""
        return replace(table, schema=self.schema_of(table))

    @abstractmethod
    def fill(self, *, stage: str, rows: pa.Table) -> None:
        """Add rows to a temporary table, whose columns have the same order."""

    @abstractmethod
    def widen(self, *, table: TableName, column: TableColumn, source: Kind, to: Kind) -> None:
        """Turn a column into a wider kind; numbers, instants and booleans take the text forms of `column_types.cast`."""

    def lock(self, table: TableName) -> None:  # noqa: B027 - most databases need none
        """Wait for other loads into the table, even one that has yet to be created; does nothing by default."""

    def reading(self) -> AbstractContextManager[None]:
        """Refuse to write within, as far as the database can."""
        return nullcontext()

    def check_deferred(self) -> None:  # noqa: B027 - most databases check at once
        """Check what the database would otherwise check when the transaction commits."""

    def may_write(self, table: TableName) -> bool:  # noqa: ARG002
        """Return whether the connection's user may read and change a table of loads, or create it if there is none."""
        return True

    def may_skip_rows(self, table: TableName) -> bool:  # noqa: ARG002
        """Return whether something, such as a trigger, can silently leave a row unchanged."""
        return False

    def create_stage(self, *, stage: str, columns: Sequence[tuple[str, str]]) -> None:
        """Create a temporary table of columns given by name and type."""
        self.execute(f"CREATE TEMPORARY TABLE {quoted(stage)} ({', '.join(f'{name} {type_}' for name, type_ in columns)})")

    def analyze(self, *, stage: str) -> None:  # noqa: B027 - most databases need none
        """Collect the statistics of a filled temporary table, where the planner needs them."""

    def indexed(self, table: TableName, *, columns: Sequence[str]) -> AbstractContextManager[object]:  # noqa: ARG002
        """Index columns for a while, where the database would otherwise compare each row with each."""
        return nullcontext()

    def staging_tables(self) -> StagingTables | None:
        """Return the tables in which rows are staged while a pull goes on; ``None`` if the database is loaded after the pull."""
        return None

    @classmethod
    def may_take_more_memory(cls, hook: DbApiHook) -> bool:  # noqa: ARG003
        """Return whether a load that needed more memory than `limit_memory` and its kind allow may succeed with more."""
        return False

    def take_more_memory(self) -> None:  # noqa: B027 - servers have limits of their own
        """Lift the limits of a load's memory as far as they can be."""

    def limit_memory(self, *, columns: int) -> None:  # noqa: B027 - servers have limits of their own
        """Use little memory for a merge into a table that exists, whose statements `pair_slices` keeps small."""

    def pair_slices(self, statements: LoadStatements, *, keys: Sequence[ColumnPlan]) -> Sequence[LoadStatements]:  # noqa: ARG002
        """Return statements for some of the pairs of a staged row and a row of the table at a time, if all would be too many."""
        return [statements]

    def staged_slices(self, stage: str) -> Sequence[range | None]:  # noqa: ARG002
        """Return the numbers of some staged rows at a time, if all would be too many to put in order; ``None`` for all."""
        return [None]

    def update(self, statements: LoadStatements, *, keys: Sequence[ColumnPlan], values: Sequence[object]) -> int:
        """Update the rows of the table that differ from the staged ones of their key; return how many.

        :param values: those that `LoadStatements.update` binds.
        """
        update = statements.update(keys)
        return 0 if update is None else self.execute(update, *values)

    def update_rows(self, update: Update, *values: object) -> int:
        """Change rows of the table; return how many.

        :param values: those that the assignments, the source and the condition bind, in this order.
        """
        statement = self.dialect.update(self.dialect.qualified(update.table), update.source, update.assignments, update.condition)
        return self.execute(statement, *values)

    def invalid_json(self, *, staged: str, column: str) -> int:  # noqa: ARG002
        """Count the staged values of a JSON column that the database's JSON type refuses."""
        return 0

    def create_table(self, *, table: TableName, columns: Sequence[tuple[str, str]], key: Sequence[str]) -> bool:  # noqa: ARG002
        """Create the table, with a primary key where that helps; return whether it now refuses equal and missing keys."""
        described = ", ".join(f"{quoted(name)} {type_}" for name, type_ in columns)
        self.execute(f"CREATE TABLE {self.dialect.qualified(table)} ({described})")
        return False

    def ensure_replica_identity(self, table: TableName) -> None:  # noqa: B027 - only where changes are published
        """Let the database send updates and deletes of a table without a key to subscribers; called before such a change."""

    def staged_values(self, columns: Mapping[str, Any], *, types: Sequence[str]) -> str:
        """Create a temporary table of some columns, each an Arrow array or a list; return its name as SQL."""
        import pyarrow as pa

        name = f"_limio_values_{uuid.uuid4().hex}"
        self.create_stage(stage=name, columns=list(zip(columns, types, strict=True)))
        self.fill(stage=name, rows=pa.table(dict(columns)))
        self.analyze(stage=name)
        return quoted(name)


class DirectLoadSession(Session):
    """A session of a database that takes the rows of a new table without a staging table."""

    @abstractmethod
    def savepoint(self) -> AbstractContextManager[None]:
        """Undo everything that is done within if it raises; must be entered before anything else is done."""

    @abstractmethod
    def copy_into(self, plan: LoadPlan, *, parts: Sequence[PartSource]) -> Iterator[int]:
        """Copy the parts' rows straight into the new table; yield how many were added since the last time."""

    def add_primary_key(self, *, table: TableName, columns: Sequence[tuple[str, str]], key: Sequence[str]) -> bool:  # noqa: ARG002
        """Add the primary key to the filled table; return False if the database has none, so that nothing was checked."""
        return False
