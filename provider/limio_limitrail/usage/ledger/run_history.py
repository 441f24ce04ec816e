# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The last whole runs of a usage task, in a small table beside the ledger: what a run is compared with."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.troubleshooting import ExplainedError
from limio_limitrail.usage.ledger.model import Worker
from limio_limitrail.usage.ledger.table import Type, find_name, milliseconds

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.names import TableName
    from limio_limitrail.landing.sql.persistent_connection import PersistentConnection
    from limio_limitrail.landing.sql.session import Session

log = logging.getLogger("limio_limitrail.usage")

REMEMBERED_RUNS = 14
"""Runs that are kept of a task; with days, two weeks."""

FORMAT = 1
"""The format of an entry. Entries of other formats are not read."""

_COLUMNS = {
    "series": Type.TEXT,
    "dag_id": Type.TEXT,
    "task_id": Type.TEXT,
    "run_id": Type.TEXT,
    "map_index": Type.NUMBER,
    "operation": Type.TEXT,
    "rows": Type.NUMBER,
    "sent": Type.NUMBER,
    "milliseconds": Type.NUMBER,
    "finished_at": Type.INSTANT,
    "history_format": Type.NUMBER,
}


@dataclass(frozen=True, kw_only=True)
class PastRun:
    """A whole run.

    :param rows: its rows, without exact repetitions.
    :param sent: those that it sent.
    """

    run_id: str
    rows: int
    sent: int
    seconds: float


class RunHistory:
    """The last whole runs of one task, or of one of its mapped copies. No method raises for what is wrong with the table: lost
    history is no error.

    :param table: its name, as the user wrote it; created if it does not exist.
    :param about: whatever makes another series of runs, such as the tenant: another deployment is not compared with.
    """

    def __init__(self, database: PersistentConnection, *, table: str, worker: Worker, operation: str, about: Sequence[object]):
        self._database = database
        self._table = table
        self._worker = worker
        self._operation = operation
        what = [worker.dag_id, worker.task_id, worker.map_index, operation, *map(str, about)]
        self._series = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]
        self._usable = True

    @property
    def run_id(self) -> str:
        """The Dag run that is compared with earlier ones."""
        return self._worker.run_id

    def earlier(self) -> list[PastRun]:
        """Return the last runs but this one, the newest first; none if there are none or the table cannot be read."""
        try:
            with self._database.reading() as session:
                runs, damaged = self._read(session)
        except Exception as error:  # noqa: BLE001 - see the class
            self._give_up(error)
            return []
        if damaged:
            log.warning(
                "%s: %d of this task's runs in %s are damaged, or another version has written them; they are passed over.",
                self._operation,
                damaged,
                self._table,
            )
        return [run for _, run in runs if run.run_id != self._worker.run_id]

    def add(self, run: PastRun) -> None:
        """Store a whole run, and forget the oldest ones."""
        if not self._usable:
            return
        try:
            with self._database.transaction() as session:
                self._create(session)
                earlier = self._read(session)[0]
                for _, same in earlier:
                    if same.run_id == run.run_id and same.sent > run.sent:
                        # A later try sends only what is left: how long the rows take is what the first one says.
                        run = replace(run, sent=same.sent, seconds=same.seconds)
                self._replace(session, run, earlier=earlier)
        except Exception as error:  # noqa: BLE001 - see the class
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._usable = False
        log.warning(
            "%s: the table %s of earlier runs cannot be used (%s). What is usual is not known, and nothing else depends on it. "
            "Give another history_table=, or drop that table.",
            self._operation,
            self._table,
            error.what if isinstance(error, ExplainedError) else type(error).__name__,
        )

    def _read(self, session: Session) -> tuple[list[tuple[int, PastRun]], int]:
        """Return the runs of the series, each after its time, the newest first, and how many entries cannot be read."""
        table = self._name(session)
        found = session.columns(table)
        if found is None:
            return [], 0
        if lacking := sorted(set(_COLUMNS) - {column.name.lower() for column in found}):
            raise LandingError(f"it is no table of runs: it lacks {', '.join(lacking)}")
        quote = session.dialect.quote
        names = ", ".join(map(quote, ("finished_at", "history_format", "run_id", "rows", "sent", "milliseconds")))
        of_series = f"WHERE {quote('series')} = {VALUE}"
        entries = session.query(f"SELECT {names} FROM {session.dialect.qualified(table)} {of_series}", self._series)
        read = [_read_run(entry) for entry in entries]
        runs = sorted((entry for entry in read if entry is not None), key=lambda entry: -entry[0])
        return runs, read.count(None)

    def _create(self, session: Session) -> None:
        table = self._name(session)
        if session.columns(table) is not None:
            session.ensure_replica_identity(table)
            return
        session.lock(table)
        # Another copy of the task may have created it in the meantime.
        if session.columns(table) is None:
            columns = [(name, type_.of(session.dialect)) for name, type_ in _COLUMNS.items()]
            session.create_table(table=table, columns=columns, key=())

    def _replace(self, session: Session, run: PastRun, *, earlier: Sequence[tuple[int, PastRun]]) -> None:
        dialect = session.dialect
        table, quote = dialect.qualified(self._name(session)), dialect.quote
        keep = [one.run_id for _, one in earlier if one.run_id != run.run_id][: REMEMBERED_RUNS - 1]
        others = f" AND {quote('run_id')} NOT IN ({', '.join([VALUE] * len(keep))})" if keep else ""
        session.execute(f"DELETE FROM {table} WHERE {quote('series')} = {VALUE}{others}", self._series, *keep)
        worker = self._worker
        values = (self._series, worker.dag_id, worker.task_id, run.run_id, worker.map_index, self._operation, run.rows, run.sent,
                  int(1000 * run.seconds), _after(earlier), FORMAT)  # fmt: skip
        names = ", ".join(map(quote, _COLUMNS))
        session.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join([VALUE] * len(values))})", *values)

    def _name(self, session: Session) -> TableName:
        return find_name(self._table, dialect=session.dialect)


def _after(earlier: Sequence[tuple[int, PastRun]]) -> datetime:
    """Return the time of a run that ends now."""
    # After a clock that was ahead, the next runs would count as the oldest ones, and be forgotten at once.
    newest = max((finished for finished, _ in earlier), default=0)
    return max(datetime.now(UTC), datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=newest + 1))


def _read_run(entry: Sequence[Any]) -> tuple[int, PastRun] | None:
    """Read an entry and when it was written; None if it is damaged, or another version has written it."""
    when, format_, run_id, *numbers = entry
    finished = milliseconds(when)
    try:
        rows, sent, took = (int(str(number)) for number in numbers)
    except ValueError:
        return None
    if finished is None or str(format_) != str(FORMAT) or not isinstance(run_id, str) or min(rows, sent, took) < 0:
        return None
    return finished, PastRun(run_id=run_id, rows=rows, sent=sent, seconds=took / 1000)
