# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The tables of a reconciliation: its differences, and its totals by operation and day. A run replaces its own rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.landing.sql.errors import during
from limio_limitrail.usage.ledger.sql import instant, storable
from limio_limitrail.usage.ledger.states import LedgerError
from limio_limitrail.usage.ledger.table import Type, find_name
from limio_limitrail.usage.reconciliation.amounts import AmountTotals
from limio_limitrail.usage.reconciliation.model import Finding

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.persistent_connection import PersistentConnection
    from limio_limitrail.landing.sql.session import Session

RUN = ("dag_id", "task_id", "map_index", "since", "until")
"""What a run replaces: what the same task has written about the same range."""

_ABOUT = {"dag_id": Type.TEXT, "task_id": Type.TEXT, "map_index": Type.NUMBER, "since": Type.TEXT, "until": Type.TEXT}
DIFFERENCES = {
    **_ABOUT,
    **dict.fromkeys(
        ("kind", "operation", "day", "idempotency_key", "row_key", "state", "list_id", "members", "reason", "proposal"), Type.TEXT
    ),
    "found_at": Type.INSTANT,
}
TOTALS = {
    **_ABOUT,
    "operation": Type.TEXT,
    "day": Type.TEXT,
    "kind": Type.TEXT,
    "ledger_rows": Type.NUMBER,
    "list_records": Type.NUMBER,
    # No type of a column is exact for any number in all databases.
    "ledger_amount": Type.TEXT,
    "list_amount": Type.TEXT,
    "unknown_amounts": Type.NUMBER,
    "found_at": Type.INSTANT,
}
LATER = frozenset({"ledger_amount", "list_amount", "unknown_amounts"})
"""Columns that tables of an earlier version lack."""

_BATCH = 200


class Totals:
    """Counts rows and records by operation, day and kind.

    :param amounts: sums their amounts; None if there are none.
    """

    def __init__(self, operation: str, *, amounts: AmountTotals | None = None) -> None:
        self._operation = operation
        self.amounts = amounts
        self.rows: Counter[tuple[str, str]] = Counter()
        self.records: Counter[tuple[str, str]] = Counter()

    def add(self, finding: Finding, *, counts_row: bool = True) -> None:
        """Count a finding."""
        group = day_of(finding), finding.kind.value
        self.rows[group] += finding.row is not None and counts_row
        self.records[group] += finding.record is not None
        if self.amounts is not None:
            self.amounts.add(group, finding, counts_row=counts_row)

    def lines(self) -> list[list[object]]:
        """Return the lines of the table, without the run."""
        groups = sorted({group for counts in (self.rows, self.records) for group, count in counts.items() if count})
        return [[self._operation, *group, self.rows[group], self.records[group], *self._amounts(group)] for group in groups]

    def _amounts(self, group: tuple[str, str]) -> list[object]:
        if self.amounts is None:
            return [None, None, None]
        found = self.amounts.groups[group]
        return [*found.texts(), found.unknown]


def day_of(finding: Finding) -> str:
    """Return the day of a finding in UTC: that of the record, else that of the row's first request; empty if unknown."""
    at = finding.record.at if finding.record is not None and finding.record.at is not None else None
    if at is None and finding.row is not None:
        at = finding.row.at
    try:
        return "" if at is None else datetime.fromtimestamp(at / 1000, tz=UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return ""


def describe_difference(finding: Finding, *, operation: str) -> dict[str, str | None]:
    """Return what a difference shows, by column: no values but those of key columns."""
    row, record = finding.row, finding.record
    return {
        "kind": finding.kind.value,
        "operation": operation,
        "day": day_of(finding),
        "idempotency_key": None if row is None else row.key,
        "row_key": None if row is None else row.row_key,
        "state": None if row is None else row.state,
        "list_id": None if record is None else record.id,
        "members": msgspec.json.encode(finding.members).decode() if finding.members else None,
        "reason": finding.reason,
        "proposal": finding.proposal,
    }


class ReconciliationTables:
    """Writes both tables in one transaction.

    :param differences_table: the table of differences; None to write none.
    :param totals_table: the table of totals, likewise.
    :param run: the values of `RUN`.
    """

    def __init__(
        self,
        database: PersistentConnection,
        *,
        differences_table: str | None,
        totals_table: str | None,
        run: Sequence[object],
        operation: str,
    ) -> None:
        self._database = database
        self.differences_table, self.totals_table = differences_table, totals_table
        self._run, self._operation = list(run), operation

    @property
    def range(self) -> tuple[str, str]:
        """The range, as the tables have it."""
        since, until = self._run[-2:]
        return str(since), str(until)

    @property
    def query(self) -> str | None:
        """The query that shows the differences of the run, for people; None without a table of differences."""
        if self.differences_table is None:
            return None
        shown = (str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'" for value in self._run)
        where = " AND ".join(f"{name} = {value}" for name, value in zip(RUN, shown, strict=True))
        return f"SELECT * FROM {self.differences_table} WHERE {where} ORDER BY kind, row_key"  # nosec B608 # noqa: S608

    def write(self, findings: Iterable[Finding], totals: Totals, *, now: int) -> None:
        """Replace what the same task has written about the same range.

        :param findings: the differences; read once.
        :raises LedgerError: a table is another one.
        """
        differences = (list(describe_difference(finding, operation=self._operation).values()) for finding in findings)
        wanted = ((self.differences_table, DIFFERENCES, differences), (self.totals_table, TOTALS, totals.lines()))
        given = [(table, columns, lines) for table, columns, lines in wanted if table is not None]
        if not given:
            return
        with self._database.transaction() as session:
            for table, columns, _ in given:
                _make_table(session, table, columns)
                _delete(session, table, run=self._run)
            for table, columns, lines in given:
                _insert(session, table, columns, ([*self._run, *line, instant(now)] for line in lines))


def _make_table(session: Session, text: str, columns: Mapping[str, Type]) -> None:
    dialect = session.dialect
    table = find_name(text, dialect=dialect)
    # Two runs of one task would both replace what the other has not written yet.
    session.lock(table)
    found = session.columns(table)
    if found is None:
        described = [(name, type_.of(dialect)) for name, type_ in columns.items()]
        with during(f"while creating {table}"):
            session.create_table(table=table, columns=described, key=())
        return
    session.ensure_replica_identity(table)
    if lacking := sorted(set(columns) - {column.name.lower() for column in found}):
        if set(lacking) <= LATER:
            for name in lacking:
                with during(f"while adding columns to {table}"):
                    session.execute(
                        f"ALTER TABLE {dialect.qualified(table)} ADD COLUMN {dialect.quote(name)} {columns[name].of(dialect)}"
                    )
            return
        raise LedgerError(f"the table {table} holds no reconciliation: it lacks {', '.join(lacking)}. Give another name for it")


def _delete(session: Session, text: str, *, run: Sequence[object]) -> None:
    dialect = session.dialect
    where = " AND ".join(f"{dialect.quote(name)} = {VALUE}" for name in RUN)
    session.execute(f"DELETE FROM {dialect.qualified(find_name(text, dialect=dialect))} WHERE {where}", *run)  # nosec B608 # noqa: S608


def _insert(session: Session, text: str, columns: Mapping[str, Type], lines: Iterable[Sequence[Any]]) -> None:
    dialect = session.dialect
    table = dialect.qualified(find_name(text, dialect=dialect))
    names = ", ".join(map(dialect.quote, columns))
    # SQLite would cast a time to its year.
    bound = [f"CAST({VALUE} AS {type_.of(dialect)})" if dialect.strict_types else VALUE for type_ in columns.values()]
    one = f"({', '.join(bound)})"
    reader = iter(lines)
    while batch := list(islice(reader, _BATCH)):
        sql = f"INSERT INTO {table} ({names}) VALUES {', '.join([one] * len(batch))}"  # nosec B608 # noqa: S608
        session.execute(sql, *(storable(value) if isinstance(value, str) else value for line in batch for value in line))
