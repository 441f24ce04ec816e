# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Loads through any driver of a database that speaks standard SQL: rows go in as bound values."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import VALUE, Dialect, Equality, TableColumn, quoted, unchanged, update_from
from limio_limitrail.landing.sql.errors import Cause, DatabaseError, Refusal, cause_of, connected, during, guarded
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.names import LONGEST_NAME, TableName
from limio_limitrail.landing.sql.widening import texts

if TYPE_CHECKING:
    import pyarrow as pa
    from airflow.providers.common.sql.hooks.sql import DbApiHook

BATCH_ROWS = 1000
"""Rows that are bound at a time."""

_TYPES = {
    Kind.NULL: "TEXT",
    Kind.BOOLEAN: "BOOLEAN",
    Kind.INTEGER: "BIGINT",
    Kind.BIGINT: "BIGINT",
    Kind.DOUBLE: "DOUBLE PRECISION",
    Kind.TIMESTAMP: "TIMESTAMP WITH TIME ZONE",
    Kind.TEXT: "TEXT",
    # Standard SQL has no type that keeps JSON to the letter.
    Kind.JSON: "TEXT",
}
_KINDS = {
    "BOOLEAN": Kind.BOOLEAN,
    "BIGINT": Kind.BIGINT,
    "DOUBLE PRECISION": Kind.DOUBLE,
    "TIMESTAMP WITH TIME ZONE": Kind.TIMESTAMP,
    "TEXT": Kind.TEXT,
}

_EQUALITIES = {
    **dict.fromkeys(
        ("BIGINT", "BOOLEAN", "CHARACTER", "CHARACTER VARYING", "DATE", "DOUBLE PRECISION", "INTEGER", "SMALLINT", "TEXT",
         "TIMESTAMP WITH TIME ZONE", "TIMESTAMP WITHOUT TIME ZONE", "UUID", "VARCHAR"),
        Equality.EXACT,
    ),
    **dict.fromkeys(("DECIMAL", "NUMERIC", "REAL", "FLOAT"), Equality.NUMERIC),
}  # fmt: skip


def same(expression: str, kind: Kind) -> str:  # noqa: ARG001
    """Leave an expression as it is."""
    return expression


STANDARD = Dialect(
    name="the database",
    quote=quoted,
    fold=unchanged,
    same_name=unchanged,
    longest_name=LONGEST_NAME,
    most_columns=None,
    types=_TYPES,
    text_type="TEXT",
    integer_type="BIGINT",
    instant_type="TIMESTAMP WITH TIME ZONE",
    stored=same,
    distinct=lambda one, other: f"{one} IS DISTINCT FROM {other}",
    key=same,
    exact=same,
    foreign_value=lambda expression, _, foreign: f"CAST({expression} AS {foreign})",
    foreign_loss=lambda expression, kind, foreign: (
        f"CAST(CAST({expression} AS {foreign}) AS {_TYPES[kind]}) IS DISTINCT FROM {expression}"
    ),
    update=update_from,
)


@contextmanager
def generic_session(hook: DbApiHook) -> Iterator[GenericSession]:
    """Open a connection and a transaction for one load."""
    connection = connected(hook, name="the database")
    try:
        with generic_transaction(hook, connection) as session:
            yield session
    finally:
        connection.close()


@contextmanager
def generic_transaction(hook: DbApiHook, connection: Any) -> Iterator[GenericSession]:
    """Open a transaction: committed at the end, rolled back if anything is raised."""
    if hook.supports_autocommit:
        hook.set_autocommit(connection, False)
    session = GenericSession(connection, placeholder=hook.placeholder)
    try:
        yield session
        with during("while committing"):
            session.commit()
    except BaseException:
        # What could not be undone must not hide why it had to be; closing undoes it too.
        with suppress(Exception):
            connection.rollback()
        raise


class GenericSession:
    """A transaction in a database that speaks standard SQL.

    :param connection: a connection after PEP 249, with a transaction open or about to be opened by its first statement.
    :param placeholder: what stands for a bound value, ``?`` or ``%s``.
    """

    dialect = STANDARD

    def __init__(self, connection: Any, *, placeholder: str) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._placeholder = placeholder

    def commit(self) -> None:
        """Keep what the transaction did."""
        try:
            guarded(self._connection.commit, refused=Exception, describe=self.describe)
        except DatabaseError as refused:
            if refused.cause is Cause.LOST:
                refused.cause = Cause.UNCERTAIN
            raise

    def describe(self, error: Exception) -> Refusal:
        """Tell what happened without the driver's words: nothing is known of where it quotes rows."""
        state = str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")
        class_ = f"({type(error).__name__}{f', SQLSTATE {state}' if state else ''})"
        cause = cause_of(state)
        if cause is Cause.LOST or getattr(self._connection, "closed", 0) not in (0, False):
            return Refusal(told=f"the connection to the database ended {class_}", cause=Cause.LOST)
        return Refusal(told=f"the database refused {class_}", cause=cause)

    def bound(self, value: object) -> object:
        """Give a value as the driver takes it."""
        return value

    def bindable(self, array: pa.ChunkedArray) -> pa.ChunkedArray:
        """Give a column of rows as the driver takes its values."""
        return array

    def execute(self, sql: str, *values: object) -> int:
        """Run a statement; answer the number of rows it touched."""
        self._run(self._cursor, sql, values)
        return max(0, int(self._cursor.rowcount))

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a query and fetch all its rows."""
        self._run(self._cursor, sql, values)
        return [tuple(row) for row in self._cursor.fetchall()]

    def _run(self, cursor: Any, sql: str, values: tuple[object, ...]) -> None:
        def run() -> None:
            if values:
                cursor.execute(self._placed(sql), tuple(self.bound(value) for value in values))
            else:
                cursor.execute(sql)

        guarded(run, refused=Exception, describe=self.describe)

    def _placed(self, sql: str) -> str:
        escaped = sql if self._placeholder == "?" else sql.replace("%", "%%")
        return escaped.replace(VALUE, self._placeholder)

    def lock(self, table: TableName) -> None:
        """Do nothing: standard SQL has no lock. Loads into one table must not run at the same time."""

    def columns(self, table: TableName) -> tuple[TableColumn, ...] | None:
        """Read what columns a table has."""
        where = f"table_name = {VALUE} AND table_schema = " + (VALUE if table.schema is not None else "CURRENT_SCHEMA")
        names = (table.table,) if table.schema is None else (table.table, table.schema)
        kinds = self.query(f"SELECT table_type FROM information_schema.tables WHERE {where}", *names)
        if not kinds:
            return None
        if any(kind != "BASE TABLE" for (kind,) in kinds):
            raise LandingError(f"{table} is a view; a pull can only be landed in a table")
        described = self.query(
            f"SELECT column_name, data_type, CASE WHEN column_default IS NULL THEN 1 ELSE 0 END "
            f"FROM information_schema.columns WHERE {where} ORDER BY ordinal_position",
            *names,
        )
        return tuple(
            TableColumn(
                name=name,
                type=type_,
                kind=_KINDS.get(type_.upper()),
                managed=bool(plain),
                equality=_EQUALITIES.get(type_.upper(), Equality.LOOSE),
            )
            for name, type_, plain in described
        )

    def may_skip_rows(self, table: TableName) -> bool:  # noqa: ARG002
        """Tell that something may: standard SQL does not say."""
        return True

    def create_stage(self, *, stage: str, columns: Sequence[tuple[str, str]]) -> None:
        """Make a temporary table."""
        self.execute(f"CREATE TEMPORARY TABLE {quoted(stage)} ({', '.join(f'{name} {type_}' for name, type_ in columns)})")

    def fill(self, *, stage: str, rows: pa.Table) -> None:
        """Add rows to a temporary table as bound values."""
        insert = self._placed(f"INSERT INTO {quoted(stage)} VALUES ({', '.join([VALUE] * rows.num_columns)})")
        for at in range(0, rows.num_rows, BATCH_ROWS):
            columns = [self.bindable(array).to_pylist() for array in rows.slice(at, BATCH_ROWS).columns]
            self._insert_many(insert, list(zip(*columns, strict=True)))

    def _insert_many(self, insert: str, batch: list[tuple[Any, ...]]) -> None:
        guarded(lambda: self._cursor.executemany(insert, batch), refused=Exception, describe=self.describe)

    def ready(self, *, stage: str) -> None:
        """Do nothing: standard SQL has no statistics."""

    def unfit_json(self, *, stage: str, column: str) -> int:  # noqa: ARG002
        """Count nothing: JSON is kept as text."""
        return 0

    def create_table(self, *, table: TableName, columns: Sequence[tuple[str, str]], key: Sequence[str]) -> bool:  # noqa: ARG002
        """Make the table, without a primary key: many databases want a length for a key of text."""
        described = ", ".join(f"{self.dialect.quote(name)} {type_}" for name, type_ in columns)
        self.execute(f"CREATE TABLE {self.dialect.qualified(table)} ({described})")
        return False

    def widen(self, *, table: TableName, column: TableColumn, source: Kind, to: Kind) -> None:
        """Put a wider column in the place of a column: added, filled, and named like the old one once that is gone."""
        place, name = self.dialect.qualified(table), self.dialect.quote(column.name)
        wider = self.dialect.quote(f"_limio_wider_{uuid.uuid4().hex}")
        self.execute(f"ALTER TABLE {place} ADD COLUMN {wider} {self.dialect.types[to]}")
        direct = self.direct_text(name, source) if to is Kind.TEXT else f"CAST({name} AS {self.dialect.types[to]})"
        if direct is not None:
            self.execute(f"UPDATE {place} SET {wider} = {direct}")
        else:
            self._spell(place=place, name=name, wider=wider, source=source)
        try:
            self.execute(f"ALTER TABLE {place} DROP COLUMN {name}")
        except DatabaseError as refused:
            refused.cause = Cause.OBSTACLE if refused.cause.about_rows else refused.cause
            raise
        self.execute(f"ALTER TABLE {place} RENAME COLUMN {wider} TO {name}")

    def direct_text(self, name: str, source: Kind) -> str | None:
        """Give the expression of a value's text form; ``None`` when databases differ in how they write it."""
        match source:
            case Kind.DOUBLE | Kind.TIMESTAMP:
                return None
            case Kind.BOOLEAN:
                return f"CASE WHEN {name} THEN 'true' WHEN NOT {name} THEN 'false' END"
            case _:
                return f"CAST({name} AS TEXT)"

    def _spell(self, *, place: str, name: str, wider: str, source: Kind) -> None:
        """Fill the wider column with texts that are made here, one for every value that the narrow one holds."""
        spelling = f"_limio_spelling_{uuid.uuid4().hex}"
        self.create_stage(stage=spelling, columns=[("old", self.dialect.stage_type(source)), ("new", self.dialect.text_type)])
        insert = self._placed(f"INSERT INTO {quoted(spelling)} VALUES ({VALUE}, {VALUE})")
        reader = self._connection.cursor()
        self._run(reader, f"SELECT DISTINCT {name} FROM {place} WHERE {name} IS NOT NULL", ())
        while rows := reader.fetchmany(BATCH_ROWS):
            held = [row[0] for row in rows]
            self._insert_many(insert, list(zip(held, texts(held, kind=source), strict=True)))
        reader.close()
        self.execute(self.dialect.update(place, quoted(spelling), [(wider, "s.new")], f"t.{name} = s.old"))
