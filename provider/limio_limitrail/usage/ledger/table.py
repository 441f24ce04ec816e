# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The ledger's table: its columns, how it is created, and how its entries are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import VALUE, Dialect
from limio_limitrail.landing.sql.errors import Cause, DatabaseError, during
from limio_limitrail.landing.sql.names import TableName
from limio_limitrail.landing.sql.session import Session
from limio_limitrail.usage.ledger.model import Entry, Outcome, Worker
from limio_limitrail.usage.ledger.states import IN_DOUBT, LedgerError, State
from limio_limitrail.usage.ledger.table_checks import (
    check_keeps_rows,
    check_owner,
    check_privileges,
    check_server,
    check_texts,
    check_unique,
)

if TYPE_CHECKING:
    from limio_limitrail.usage.ledger.transactions import Transactions


class Type(Enum):
    """The type of a column."""

    TEXT = "text"
    NUMBER = "number"
    INSTANT = "instant"

    def of(self, dialect: Dialect) -> str:
        """Return the type's name in a database."""
        return {Type.TEXT: dialect.text_type, Type.NUMBER: dialect.integer_type, Type.INSTANT: dialect.instant_type}[self]


KEY = "idempotency_key"

FORMAT = 3
"""The format of an entry. Entries of other formats are refused."""

FORMAT_COLUMN = "ledger_format"

OUTCOME = ("http_status", "decision", "reservation_id", "error_code", "resource_key", "trace_id", "field", "detail")
WORKER = ("dag_id", "task_id", "run_id", "map_index", "try_number", "claim_id")

SETTLEMENT = ("settled_by", "settled_at", "settlement")

_NUMBERS = frozenset({FORMAT_COLUMN, "http_status", "attempts", "map_index", "try_number", "lease_until", "in_doubt_since"})
_INSTANTS = frozenset({"claimed_at", "finished_at", "seen_at", "previewed_at", "settled_at"})


def typed(*names: str) -> dict[str, Type]:
    """Return columns with their types; a column has one type in all tables."""
    return {name: Type.NUMBER if name in _NUMBERS else Type.INSTANT if name in _INSTANTS else Type.TEXT for name in names}


COLUMNS = typed(
    KEY, "state", "operation", "row_key", *OUTCOME, "attempts", "body_digest", "conn_id", *WORKER, "lease_until", "claimed_at",
    "finished_at", FORMAT_COLUMN, "in_doubt_since", "row_identity", "tenant", "key_namespace", "body_members",
    *SETTLEMENT, "kept_members",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """A table with one row per idempotency key, its first column.

    :param unfit: what an error says of a table that lacks some, such as ``is no ledger``.
    :param indexed: columns with an index, except in DuckDB: it needs none, and would update an indexed row by deleting it.
    :param later: columns that earlier versions did not have: a table that lacks them gets them.
    """

    columns: Mapping[str, Type]
    unfit: str
    parameter: str
    indexed: tuple[str, ...] = ()
    later: tuple[str, ...] = ()


LEDGER = TableSpec(
    columns=COLUMNS,
    unfit="is no ledger",
    parameter="ledger_table",
    indexed=("row_identity",),
    later=(*SETTLEMENT, "kept_members"),
)

ENTRY = (KEY, FORMAT_COLUMN, "state", "lease_until", "body_digest", "attempts", "in_doubt_since", *WORKER, *OUTCOME)
_REQUIRED = (FORMAT_COLUMN, "lease_until", "body_digest", "attempts", *WORKER)
_REQUIRED_NUMBERS = (FORMAT_COLUMN, "lease_until", "attempts", "map_index", "try_number")


def read_entry(values: Sequence[Any]) -> tuple[str, Entry]:
    """Read the columns of `ENTRY`; the row's key comes first.

    :raises LedgerError: another version has written the entry, or it is damaged. The row must not be sent then: whether it was
        sent is not known.
    """
    row = dict(zip(ENTRY, values, strict=True))
    check_format(row)
    try:
        state = State(row["state"])
    except ValueError:
        raise LedgerError(
            f"the ledger's row {row[KEY]} has the state {str(row['state'])[:40]!r}; correct it to one of {', '.join(State)}"
        ) from None
    if empty := [name for name in _REQUIRED if row[name] is None]:
        raise LedgerError(f"the ledger's row {row[KEY]} is damaged: {', '.join(empty)} must not be empty")
    row |= {name: _number(row, name) for name in _REQUIRED_NUMBERS}
    since = None if row["in_doubt_since"] is None else _number(row, "in_doubt_since")
    return row[KEY], Entry(
        state=state,
        worker=Worker(**{name: row[name] for name in WORKER}),
        lease_until=row["lease_until"],
        digest=row["body_digest"],
        attempts=row["attempts"],
        outcome=Outcome(state=state, **{name: row[name] for name in OUTCOME}),
        # A person may have changed the state and not this column.
        in_doubt_since=since or 0 if state in IN_DOUBT else since,
    )


def check_format(row: Mapping[str, Any]) -> None:
    """Refuse an entry that another version has written, by its columns.

    :raises LedgerError: as `read_entry` does.
    """
    if row[FORMAT_COLUMN] is not None and (format_ := _number(row, FORMAT_COLUMN)) != FORMAT:
        raise LedgerError(
            f"the ledger's row {row[KEY]} has format {format_}, and this version reads format {FORMAT}. It is not guessed at: "
            "run the version of the package that has written it, or a later one"
        )


def replace_rows(session: Session, table: str, *, columns: Mapping[str, Type], rows: Sequence[Sequence[object]]) -> None:
    """Insert rows, and replace those with the same keys; the key is the first column, and the table is named in SQL."""
    dialect = session.dialect
    keys = [row[0] for row in rows]
    session.execute(f"DELETE FROM {table} WHERE {dialect.quote(KEY)} IN ({', '.join([VALUE] * len(keys))})", *keys)
    names = ", ".join(map(dialect.quote, columns))
    # SQLite would cast a time to its year.
    bound = [f"CAST({VALUE} AS {type_.of(dialect)})" if dialect.strict_types else VALUE for type_ in columns.values()]
    placeholders = f"({', '.join(bound)})"
    sql = f"INSERT INTO {table} ({names}) VALUES {', '.join([placeholders] * len(rows))}"
    session.execute(sql, *(value for row in rows for value in row))


def milliseconds(instant: object) -> int | None:
    """Read an instant as a database or a person has written it, in milliseconds since 1970; None if it is not one."""
    try:
        when = instant if isinstance(instant, datetime) else datetime.fromisoformat(str(instant))
        return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def _number(row: Mapping[str, Any], name: str) -> int:
    """Read a whole number, which a database may return as another type."""
    try:
        return int(row[name])
    except (TypeError, ValueError, OverflowError):
        raise LedgerError(f"the ledger's row {row[KEY]} is damaged: {name} is no number") from None


def find_name(text: str, *, dialect: Dialect) -> TableName:
    """Read a table's name as the user wrote it."""
    try:
        return dialect.table_name(text)
    except ValueError as error:
        raise LedgerError(str(error)) from None


def prepare_table(transactions: Transactions, text: str, spec: TableSpec) -> None:
    """Create a table as `make_table` does; one that exists is only read, without waiting for its writers, and its privileges
    are checked. One that an earlier version has made gets the columns that it lacks."""
    if require_table(transactions, text, spec):
        transactions.read(lambda session: _check_rows(session, find_name(text, dialect=session.dialect), spec))
        return
    transactions.run(lambda session: make_table(session, find_name(text, dialect=session.dialect), spec))


def require_table(transactions: Transactions, text: str, spec: TableSpec, *, read_only: bool = False) -> bool:
    """Check a table, and add the columns that earlier versions did not have; return False if it does not exist.

    :param read_only: whether its rows are only read: privileges to change them are not checked.
    :raises LedgerError: it lacks other columns, or they cannot be added.
    """

    def check(session: Session) -> list[str] | None:
        table = find_name(text, dialect=session.dialect)
        lacking = _missing_columns(session, table, spec)
        if lacking is not None and not read_only:
            check_privileges(session, table)
        return lacking

    lacking = transactions.read(check)
    if lacking:
        _add_columns(transactions, text, spec)
    return lacking is not None


def table_exists(transactions: Transactions, text: str, spec: TableSpec) -> bool:
    """Return whether a table exists. One that lacks columns raises a `LedgerError`."""
    return transactions.read(lambda session: has_table(session, text, spec))


def check_writable(transactions: Transactions, text: str, spec: TableSpec) -> None:
    """Check that a run could create a table, add the columns that it lacks, and change its rows; nothing is changed.

    :raises LedgerError: it could not; the message says what is missing.
    """

    def check(session: Session) -> None:
        table = find_name(text, dialect=session.dialect)
        lacking = _missing_columns(session, table, spec)
        if lacking is not None:
            check_privileges(session, table)
            _check_rows(session, table, spec)
        if lacking:
            check_owner(session, table, lacking=lacking)
        check_server(session)

    transactions.read(check)


def has_table(session: Session, text: str, spec: TableSpec) -> bool:
    """Return whether a table exists, with all its columns but those of later versions.

    :raises LedgerError: it lacks others.
    """
    return lacking_columns(session, text, spec) is not None


def lacking_columns(session: Session, text: str, spec: TableSpec) -> list[str] | None:
    """Return the columns of later versions that a table lacks; None if it does not exist.

    :raises LedgerError: it lacks others.
    """
    try:
        return _missing_columns(session, find_name(text, dialect=session.dialect), spec)
    except DatabaseError as error:
        # There is none, and the connection's user could not create it.
        if error.cause is not Cause.RIGHTS:
            raise
        return None


def _add_columns(transactions: Transactions, text: str, spec: TableSpec) -> None:
    statements: list[str] = []

    def add(session: Session) -> None:
        dialect = session.dialect
        table = find_name(text, dialect=dialect)
        session.lock(table)
        # Another worker may have added them in the meantime.
        lacking = _missing_columns(session, table, spec) or []
        statements[:] = [
            f"ALTER TABLE {dialect.qualified(table)} ADD COLUMN {dialect.quote(name)} {spec.columns[name].of(dialect)}"
            for name in lacking
        ]
        with during(f"while adding columns to {table}"):
            for statement in statements:
                session.execute(statement)

    try:
        transactions.run(add)
    except LedgerError as error:
        if not statements:
            raise
        raise LedgerError(
            f"the table {text} lacks columns of this version, and they could not be added: {error.what}. Nothing was sent or "
            f"changed. Have its owner run: {'; '.join(statements)}"
        ) from error


def _missing_columns(session: Session, table: TableName, spec: TableSpec) -> list[str] | None:
    """Return the columns of later versions that a table lacks; None if it does not exist.

    :raises LedgerError: it lacks others.
    """
    found = session.columns(table)
    if found is None:
        return None
    if loose := next((column for column in found if column.name.lower() == KEY and column.confuses(Kind.TEXT)), None):
        raise LedgerError(
            f"the table {table}: its column {loose.name!r} takes different keys for equal (its type is {loose.type}), so rows "
            f"would be mixed up. Give another {spec.parameter}=, or make the column a text with a deterministic collation"
        )
    lacking = sorted(set(spec.columns) - {column.name.lower() for column in found})
    if set(lacking) - set(spec.later):
        raise LedgerError(
            f"the table {table} {spec.unfit} of this version: it lacks {', '.join(lacking)}. "
            f"Give another {spec.parameter}=, or add the columns"
        )
    return lacking


def _check_rows(session: Session, table: TableName, spec: TableSpec) -> None:
    """Check that rows which are added to a table stay there, each key once and as it was written.

    :raises LedgerError: they do not.
    """
    check_keeps_rows(session, table)
    columns = session.columns(table) or ()
    check_texts(session, table, columns=[column for column in columns if column.name.lower() in spec.columns], key=KEY)
    check_unique(session, table, key=KEY)


def _index(session: Session, table: TableName, *, column: str) -> None:
    dialect = session.dialect
    match dialect.name:
        case "Postgres":
            session.execute(f"CREATE INDEX ON {dialect.qualified(table)} ({dialect.quote(column)})")
        case "SQLite":
            name = replace(table, table=f"{table.table}_{column}")
            session.execute(f"CREATE INDEX {dialect.qualified(name)} ON {dialect.quote(table.table)} ({dialect.quote(column)})")


def make_table(session: Session, table: TableName, spec: TableSpec) -> None:
    """Create a table with one row per key, if it does not exist. One that exists is not locked.

    :raises LedgerError: the table exists and lacks columns.
    """
    if _missing_columns(session, table, spec) is not None:
        return
    session.lock(table)
    # Another worker may have created it in the meantime.
    if _missing_columns(session, table, spec) is not None:
        return
    dialect = session.dialect
    described = [f"{dialect.quote(name)} {type_.of(dialect)}" for name, type_ in spec.columns.items()]
    described[0] += " NOT NULL"
    described.append(f"PRIMARY KEY ({dialect.quote(KEY)})")
    with during(f"while creating {table}"):
        session.execute(f"CREATE TABLE {dialect.qualified(table)} ({', '.join(described)})")
        for name in spec.indexed:
            _index(session, table, column=name)
