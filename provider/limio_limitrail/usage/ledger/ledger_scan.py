# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""All rows of an operation, read in small transactions without claiming them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.usage.ledger.model import Entry
from limio_limitrail.usage.ledger.open_rows import entry_of, ledger_row, number
from limio_limitrail.usage.ledger.sql import LedgerStatements, instant
from limio_limitrail.usage.ledger.states import State
from limio_limitrail.usage.ledger.table import ENTRY, KEY, SETTLEMENT, check_format, milliseconds

SCAN_ROWS = 5_000
"""Rows that one transaction reads."""

_INSTANTS = ("claimed_at", "finished_at", "settled_at")
_TEXTS = ("operation", "row_key", "kept_members", "tenant", "conn_id", *(name for name in SETTLEMENT if name != "settled_at"))
_COLUMNS = (*ENTRY, *_TEXTS, *_INSTANTS)


class ScanFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows to read.

    :param tenant: the tenant's name, as the ledger keeps it; None if the connection has none.
    :param conn_id: the connection that rows without a tenant were sent with.
    :param since: leave out rows that were done with before this, in milliseconds since 1970; None: none.
    :param until: leave out rows that were sent first after this, likewise.
    """

    operation: str
    tenant: str | None
    conn_id: str
    since: int | None = None
    until: int | None = None


class ScannedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row as it stands in the ledger.

    :param first_at: when its first request may have been sent, in milliseconds since 1970; None if unknown.
    :param last_at: when its last request may have been sent at the latest, likewise.
    :param in_doubt: whether it was refused after a request that may have been carried out.
    :param is_alive: whether a worker may be sending it.
    """

    key: str
    operation: str
    row_key: str
    kept_members: str | None
    trace_id: str | None
    reservation_id: str | None
    state: str
    version: str
    attempts: int
    first_at: int | None
    last_at: int | None
    in_doubt: bool
    is_alive: bool


def scan_rows(
    sql: LedgerStatements, wanted: ScanFilter, *, after: str, may_be_alive: Callable[[Entry], bool]
) -> tuple[list[ScannedRow], str | None]:
    """Return the next rows in the order of their keys, and the key to go on after; None at the end.

    :raises LedgerError: another version has written one of them.
    """
    dialect = sql.session.dialect
    quote = dialect.quote
    columns = ", ".join(dialect.legible(quote(name)) if name in _INSTANTS else quote(name) for name in _COLUMNS)
    conditions = [f"{quote('operation')} = {VALUE}", f"{quote(KEY)} > {VALUE}"]
    values: list[object] = [wanted.operation, after]
    if dialect.strict_types:
        if wanted.since is not None:
            conditions.append(f"COALESCE({quote('finished_at')} >= {sql.bound('finished_at')}, TRUE)")
            values.append(instant(wanted.since))
        if wanted.until is not None:
            # A row that was sent again may have been sent first long before.
            before = f"COALESCE({quote('claimed_at')} < {sql.bound('claimed_at')}, TRUE)"
            conditions.append(f"({before} OR COALESCE({quote('attempts')}, 2) > 1)")
            values.append(instant(wanted.until))
    found = sql.session.query(
        f"SELECT {columns} FROM {sql.qualified_table} WHERE {' AND '.join(conditions)} ORDER BY {quote(KEY)} LIMIT {SCAN_ROWS}",
        *values,
    )
    rows = [row for values_ in found if (row := _read(values_, wanted=wanted, may_be_alive=may_be_alive)) is not None]
    return rows, str(found[-1][0]) if len(found) == SCAN_ROWS else None


def _read(values: Sequence[Any], *, wanted: ScanFilter, may_be_alive: Callable[[Entry], bool]) -> ScannedRow | None:
    row = dict(zip(_COLUMNS, values, strict=True))
    if not _is_of_tenant(row["tenant"], row["conn_id"], wanted=wanted):
        return None
    check_format(row)
    about = ledger_row(row)
    claimed, finished = milliseconds(row["claimed_at"]), milliseconds(row["finished_at"])
    since = number(row["in_doubt_since"])
    is_sending = about.state is State.SENDING
    first = since or claimed
    times = [time for time in (claimed, finished, since, number(row["lease_until"]) if is_sending else None) if time]
    is_done_before = wanted.since is not None and finished is not None and finished < wanted.since
    is_sent_after = wanted.until is not None and claimed is not None and claimed >= wanted.until and (about.attempts or 2) <= 1
    if is_done_before or is_sent_after:
        return None
    entry = entry_of(row) if is_sending else None
    return ScannedRow(
        key=str(row[KEY]),
        operation=str(row["operation"]),
        row_key=str(row["row_key"] or ""),
        kept_members=row["kept_members"],
        trace_id=row["trace_id"],
        reservation_id=row["reservation_id"],
        state=about.word,
        version=about.version,
        attempts=about.attempts or 1,
        first_at=first,
        last_at=max(times) if times else None,
        in_doubt=about.state is State.REJECTED and row["in_doubt_since"] is not None,
        is_alive=entry is not None and may_be_alive(entry),
    )


def _is_of_tenant(tenant: str | None, conn_id: str | None, *, wanted: ScanFilter) -> bool:
    if tenant and wanted.tenant:
        return tenant == wanted.tenant
    return conn_id == wanted.conn_id
