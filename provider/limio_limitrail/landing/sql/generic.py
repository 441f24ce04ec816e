# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Load into any database that speaks standard SQL, with bound values."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import VALUE, Dialect, Equality, TableColumn, quoted
from limio_limitrail.landing.sql.double_texts import texts
from limio_limitrail.landing.sql.errors import Cause, DatabaseError, Diagnosis, cause_of, class_and_state, connected
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.names import LONGEST_NAME, TableName
from limio_limitrail.landing.sql.session import Session

if TYPE_CHECKING:
    import pyarrow as pa
    from airflow.providers.common.sql.hooks.sql import DbApiHook

BATCH_ROWS = 1000
"""Rows in one `executemany`."""

_TYPES = {
    Kind.NULL: "TEXT",
    Kind.BOOLEAN: "BOOLEAN",
    Kind.INTEGER: "BIGINT",
    Kind.BIGINT: "BIGINT",
    Kind.DOUBLE: "DOUBLE PRECISION",
    Kind.TIMESTAMP: "TIMESTAMP WITH TIME ZONE",
    Kind.TEXT: "TEXT",
    # Standard SQL has no type that stores JSON unchanged.
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


STANDARD = Dialect(
    name="the database",
    longest_name=LONGEST_NAME,
    types=_TYPES,
    text_type="TEXT",
    integer_type="BIGINT",
    instant_type="TIMESTAMP WITH TIME ZONE",
    serializes_loads=False,
    to_custom_type=lambda expression, _, type_: f"CAST({expression} AS {type_})",
    custom_type_loses=lambda expression, kind, type_: (
        f"CAST(CAST({expression} AS {type_}) AS {_TYPES[kind]}) IS DISTINCT FROM {expression}"
    ),
)


class GenericSession(Session):
    """A transaction in a database that speaks standard SQL, through a driver after PEP 249."""

    dialect = STANDARD
    driver_error = Exception

    def __init__(self, hook: DbApiHook, connection: Any) -> None:
        super().__init__(hook, connection)
        self._cursor = connection.cursor()
        self._placeholder = hook.placeholder

    @classmethod
    def connect(cls, hook: DbApiHook, *, wait: float | None = None) -> Any:  # noqa: ARG003
        return connected(hook, name="the database")

    @classmethod
    def connect_to_inspect(cls, hook: DbApiHook) -> Any | None:  # noqa: ARG003
        """Return None: opening an unknown database may have effects."""
        return None

    @classmethod
    def describe(cls, error: Exception, *, connection: Any) -> Diagnosis:
        """Describe an error without the driver's text: it is not known where that quotes rows."""
        class_, state = class_and_state(error)
        cause = cause_of(state)
        if cause is Cause.LOST or getattr(connection, "closed", 0) not in (0, False):
            return Diagnosis(summary=f"the connection to the database ended {class_}", cause=Cause.LOST)
        return Diagnosis(summary=f"the database refused {class_}", cause=cause)

    def begin(self, *, lock_wait: float | None, idle_limit: float | None, read_only: bool) -> None:  # noqa: ARG002
        """Switch autocommit off: the first statement begins the transaction."""
        if self.hook.supports_autocommit:
            self.hook.set_autocommit(self._connection, False)

    def bound(self, value: object) -> object:
        """Convert a value for the driver."""
        return value

    def bindable(self, array: pa.ChunkedArray) -> pa.ChunkedArray:
        """Convert a column for the driver."""
        return array

    def execute(self, sql: str, *values: object) -> int:
        self._run(self._cursor, sql, values)
        return max(0, int(self._cursor.rowcount))

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        self._run(self._cursor, sql, values)
        return [tuple(row) for row in self._cursor.fetchall()]

    def _run(self, cursor: Any, sql: str, values: tuple[object, ...]) -> None:
        if values:
            self.guarded(lambda: cursor.execute(self._with_placeholders(sql), tuple(map(self.bound, values))))
        else:
            self.guarded(lambda: cursor.execute(sql))

    def _with_placeholders(self, sql: str) -> str:
        escaped = sql if self._placeholder == "?" else sql.replace("%", "%%")
        return escaped.replace(VALUE, self._placeholder)

    def columns(self, table: TableName) -> tuple[TableColumn, ...] | None:
        where = f"table_name = {VALUE} AND table_schema = " + (VALUE if table.schema is not None else "CURRENT_SCHEMA")
        names = (table.table,) if table.schema is None else (table.table, table.schema)
        kinds = self.query(f"SELECT table_type FROM information_schema.tables WHERE {where}", *names)
        if not kinds:
            return None
        if any(kind != "BASE TABLE" for (kind,) in kinds):
            raise LandingError(f"{table} is a view; a pull can only be loaded into a table")
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
                managed=bool(managed),
                equality=_EQUALITIES.get(type_.upper(), Equality.LOOSE),
            )
            for name, type_, managed in described
        )

    def may_skip_rows(self, table: TableName) -> bool:  # noqa: ARG002
        """Return True: standard SQL has no way to find out."""
        return True

    def fill(self, *, stage: str, rows: pa.Table) -> None:
        """Add rows to a temporary table as bound values."""
        insert = self._with_placeholders(f"INSERT INTO {quoted(stage)} VALUES ({', '.join([VALUE] * rows.num_columns)})")
        for at in range(0, rows.num_rows, BATCH_ROWS):
            columns = [self.bindable(array).to_pylist() for array in rows.slice(at, BATCH_ROWS).columns]
            self._insert_many(insert, list(zip(*columns, strict=True)))

    def _insert_many(self, insert: str, batch: list[tuple[Any, ...]]) -> None:
        self.guarded(lambda: self._cursor.executemany(insert, batch))

    def widen(self, *, table: TableName, column: TableColumn, source: Kind, to: Kind) -> None:
        """Replace a column by a wider one: add it, fill it, drop the old one and rename."""
        qualified, name = self.dialect.qualified(table), quoted(column.name)
        wider = quoted(f"_limio_wider_{uuid.uuid4().hex}")
        self.execute(f"ALTER TABLE {qualified} ADD COLUMN {wider} {self.dialect.types[to]}")
        direct = self.direct_text(name, source) if to is Kind.TEXT else f"CAST({name} AS {self.dialect.types[to]})"
        if direct is not None:
            self.execute(f"UPDATE {qualified} SET {wider} = {direct}")
        else:
            self._fill_with_texts(table=qualified, name=name, wider=wider, source=source)
        try:
            self.execute(f"ALTER TABLE {qualified} DROP COLUMN {name}")
        except DatabaseError as refused:
            refused.cause = Cause.OBSTACLE if refused.cause.about_rows else refused.cause
            raise
        self.execute(f"ALTER TABLE {qualified} RENAME COLUMN {wider} TO {name}")

    def direct_text(self, name: str, source: Kind) -> str | None:
        """Return the expression of a value's text form; ``None`` if databases write it differently."""
        match source:
            case Kind.DOUBLE | Kind.TIMESTAMP:
                return None
            case Kind.BOOLEAN:
                return f"CASE WHEN {name} THEN 'true' WHEN NOT {name} THEN 'false' END"
            case _:
                return f"CAST({name} AS TEXT)"

    def _fill_with_texts(self, *, table: str, name: str, wider: str, source: Kind) -> None:
        """Fill the wider column with texts made here, one for every distinct value."""
        texts_table = f"_limio_spelling_{uuid.uuid4().hex}"
        self.create_stage(stage=texts_table, columns=[("old", self.dialect.stage_type(source)), ("new", self.dialect.text_type)])
        insert = self._with_placeholders(f"INSERT INTO {quoted(texts_table)} VALUES ({VALUE}, {VALUE})")
        reader = self._connection.cursor()
        self._run(reader, f"SELECT DISTINCT {name} FROM {table} WHERE {name} IS NOT NULL", ())
        while rows := reader.fetchmany(BATCH_ROWS):
            held = [row[0] for row in rows]
            self._insert_many(insert, list(zip(held, texts(held, kind=source), strict=True)))
        reader.close()
        self.execute(self.dialect.update(table, quoted(texts_table), [(wider, "s.new")], f"t.{name} = s.old"))
