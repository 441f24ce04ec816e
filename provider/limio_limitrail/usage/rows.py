# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The rows of a usage task: a query, the parts of a pull, or a list; and which of them the ledger knows already."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.troubleshooting import ExplainedError
from limio_limitrail.usage.body import UsageRowError
from limio_limitrail.usage.ledger.ledger import Ledger
from limio_limitrail.usage.ledger.other_rows import find_rekeyed, refuse_rekeyed
from limio_limitrail.usage.ledger.row_identity import read_row_key, same_row
from limio_limitrail.usage.parameters import ErrorBudget, one_of

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from limio_limitrail.usage.ledger.model import UsageRow, Worker
    from limio_limitrail.usage.ledger.previews import Previews
    from limio_limitrail.usage.messages import UsageTemplate
    from limio_limitrail.usage.row_buffer import RowBuffer
    from limio_limitrail.usage.summary import OutcomeCounts

log = logging.getLogger("limio_limitrail.usage")

MOST_SHOWN = 10
"""Rows that cannot be sent and that a message names one by one."""

_BATCH_ROWS = 2000
"""Rows of a Parquet part that are converted at a time."""

_UTC = frozenset({"UTC", "Etc/UTC", "GMT", "Etc/GMT", "Zulu", "Etc/Zulu", "Universal", "Etc/Universal", "UCT", "Etc/UCT"})


@dataclass(frozen=True, kw_only=True)
class Source:
    """Rows, and the names of their columns; None where each row has its own."""

    columns: tuple[str, ...] | None
    rows: Iterator[Mapping[str, Any]]


@contextmanager
def open_source(hook: DbApiHook, *, sql: str | None, parts_path: object, rows: object) -> Iterator[Source]:
    """Open the one source of rows that was given.

    :raises ParameterError: none was given, or more than one, or it cannot be read.
    """
    match one_of(sql=sql, parts_path=parts_path, rows=rows):
        case "sql":
            with rows_of_query(hook, str(sql)) as source:
                yield source
        case "parts_path":
            yield rows_of_parts(str(parts_path))
        case _:
            yield rows_of_list(rows)


@contextmanager
def rows_of_query(hook: DbApiHook, sql: str) -> Iterator[Source]:
    """Run a query in UTC and return its rows, to be read once. Numbers are exact decimals, within JSON columns too.

    :raises ParameterError: two columns have the same name.
    :raises QueryError: the query failed.
    :raises DatabaseError: the database cannot be reached.
    """
    from limio_limitrail.landing.sql.queries import run_query
    from limio_limitrail.usage.body import UNREADABLE_TIME, json_number

    with run_query(hook, sql, parse_float=json_number, unreadable_time=UNREADABLE_TIME) as result:
        columns = result.columns
        if twice := sorted({name for name in columns if columns.count(name) > 1}):
            raise ParameterError(f"the query gives {', '.join(map(repr, twice))} more than once: name each column with AS")
        if result.time_zone is not None and result.time_zone not in _UTC:
            log.info(
                "The query of rows runs in UTC, and not in the connection's time zone %s: days and texts that it makes of "
                "instants are those of UTC.",
                result.time_zone,
            )
        rows = (dict(zip(columns, values, strict=True)) for batch in result.batches for values in batch)
        yield Source(columns=columns, rows=rows)


def rows_of_parts(folder: str) -> Source:
    """Read the parts of a finished pull, each checked against the manifest.

    :raises ParameterError: there is no manifest, or none that can be read.
    :raises DamagedPartError: a part is not the file that was written.
    """
    from airflow.sdk import ObjectStoragePath

    from limio_limitrail.landing.manifest import ManifestError, read_manifest

    path = ObjectStoragePath(folder)
    try:
        manifest = read_manifest(path)
    except FileNotFoundError:
        raise ParameterError(
            f"parts_path={folder!r} holds no manifest: give the folder of a finished pull, such as its summary's 'folder'"
        ) from None
    except ManifestError as error:
        raise ParameterError(f"parts_path={folder!r}: {error.what}") from None
    return Source(columns=tuple(manifest.schema) or None, rows=_read_parts(path, manifest))


def _read_parts(path: Any, manifest: Any) -> Iterator[Mapping[str, Any]]:
    import msgspec
    import pyarrow as pa

    from limio_limitrail.landing.column_parts import ColumnPart
    from limio_limitrail.landing.parts import PartFormat, read_verified
    from limio_limitrail.usage.body import json_number

    decoder = msgspec.json.Decoder(float_hook=json_number)
    for part in manifest.parts:
        if manifest.part_format is not PartFormat.JSONL:
            for batch in ColumnPart(folder=path, part=part).read().to_batches(max_chunksize=_BATCH_ROWS):
                yield from batch.to_pylist()
            continue
        with pa.CompressedInputStream(pa.BufferReader(read_verified(path, part)), "zstd") as stream:
            for number, line in enumerate(stream.read().splitlines(), start=1):
                try:
                    yield decoder.decode(line)
                except msgspec.ValidationError:
                    raise ParameterError(f"record {number} of the part {part.name} holds a number of too many digits") from None


def rows_of_list(rows: object) -> Source:
    """Return a list of rows as a source."""
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise ParameterError(f"rows= is a {type(rows).__name__}; give a list of mappings, one a row")

    def checked(items: Iterable[object]) -> Iterator[Mapping[str, Any]]:
        for number, item in enumerate(items, start=1):
            if not isinstance(item, Mapping):
                raise ParameterError(f"row {number} of rows= is a {type(item).__name__}; give a mapping of columns")
            yield item

    return Source(columns=None, rows=checked(rows))


def fill_row_buffer(
    row_buffer: RowBuffer, *, source: Source, template: UsageTemplate, max_duplicates: int | str | None = None
) -> None:
    """Build all rows, and report everything that is wrong with them before the first one is sent.

    :raises ParameterError: rows cannot be sent as they are, or too many of them repeat others.
    :raises ClashError: two rows have the same key and different bodies.
    """
    unfit = UnfitRows()
    for row in build_rows(source, template=template, unfit=unfit):
        row_buffer.add(row)
    unfit.check()
    row_buffer.check()
    check_duplicates(row_buffer, max_duplicates=max_duplicates)


class UnfitRows:
    """Rows that cannot be sent as they are: how many, and the first ones."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def add(self, error: UsageRowError, row: Mapping[str, Any]) -> None:  # noqa: ARG002 - for those who look at the row
        """Count a row that cannot be built."""
        self.count += 1
        if len(self._first) < MOST_SHOWN:
            self._first.append(error.what)

    def check(self) -> None:
        """Check that there are none.

        :raises ParameterError: there are some.
        """
        if self.count:
            more = f"; and {self.count - len(self._first):,} more" if self.count > len(self._first) else ""
            raise ParameterError(f"{self.count:,} rows cannot be sent, so nothing was sent: {'; '.join(self._first)}{more}")


def build_rows(source: Source, *, template: UsageTemplate, unfit: UnfitRows) -> Iterator[UsageRow]:
    """Build the rows of a source, and count those that cannot be built.

    :raises UsageRowError: the rows lack a column.
    """
    from limio_limitrail.usage.messages import check_columns

    if source.columns is not None:
        check_columns(source.columns, needed=template.columns())
    for number, row in enumerate(source.rows, start=1):
        try:
            built = template.build(row, number=number)
        except UsageRowError as error:
            unfit.add(error, row)
        else:
            yield built


def check_duplicates(row_buffer: RowBuffer, *, max_duplicates: int | str | None) -> None:
    """Log rows that repeat others exactly.

    :raises ParameterError: there are more than allowed.
    """
    if row_buffer.repetition is None:
        return
    first, again = row_buffer.repetition
    numbers = f"{row_buffer.duplicates:,} of {row_buffer.total:,} rows"
    repeated = f"{numbers} repeat earlier ones exactly, for example row {again.number} repeats {first}"
    advice = (
        "If each is a use of its own, as in the hour that comes twice when clocks go back, make the key columns tell them apart "
        "(an hour by its time in UTC)"
    )
    budget = None if max_duplicates is None else ErrorBudget(name="max_duplicates", most=max_duplicates)
    if budget is not None and budget.exceeded_by(row_buffer.duplicates, of=row_buffer.total):
        raise ParameterError(
            f"{repeated} ({budget}). Nothing was sent. {advice}; if not, leave the repetitions out, or allow them with "
            f"{budget.name}"
        )
    log.warning("%s: each is sent once. %s. max_duplicates= lets the task fail for them.", repeated, advice)


def check_same_rows(ledger: Ledger | Previews, *, row_buffer: RowBuffer, worker: Worker, on_rekeyed: str) -> int:
    """Look for rows that the ledger holds under other keys, and return how many count as settled by those entries.

    :raises RekeyedRowsError: there are some, and ``on_rekeyed`` is ``fail``.
    """
    if not isinstance(ledger, Ledger) or on_rekeyed == "send" or not row_buffer.total:
        return 0
    total = row_buffer.total - row_buffer.duplicates
    _warn_of_similar_rows(row_buffer, operation=ledger.operation)
    found = find_rekeyed(ledger, row_buffer, worker=worker, zone=ledger.default_zone(), total=total)
    if found.keys and on_rekeyed == "fail":
        raise refuse_rekeyed(found, operation=ledger.operation, table=ledger.table, total=total)
    ledger.settle_elsewhere(found.keys)
    return len(found.keys)


def _warn_of_similar_rows(row_buffer: RowBuffer, *, operation: str) -> None:
    """Warn of rows of one task that seem to be one row written in two ways; each is sent."""
    example, count = "", 0
    for one, other in row_buffer.alike():
        values = [read_row_key(row.row_key) for row in (one, other)]
        if values[0] is not None and values[1] is not None and same_row(values[0], values[1]):
            count += 1
            example = example or f"{one} and {other}"
    if count:
        log.warning(
            "%s: %s rows are written like others of this task but for types, blanks, zones or forms of letters, for example %s. "
            "They have different keys, and each is sent. If they are one row, write their key columns in one way in the query.",
            operation,
            f"{count:,}",
            example,
        )


def list_changes(
    ledger: Ledger | Previews, *, row_buffer: RowBuffer, counts: OutcomeCounts, table: str, with_bodies: bool, batch_size: int
) -> Exception | None:
    """List the rows that were carried out earlier with other bodies; return the error if that is not possible."""
    if not isinstance(ledger, Ledger):
        return None
    try:
        for at in range(0, counts.changed, batch_size):
            rows = [row_buffer.row(number - 1) for number in counts.changed_rows[at : at + batch_size]]
            ledger.list_changes(rows, table=table, with_bodies=with_bodies)
    except Exception as error:  # noqa: BLE001 - the caller raises it in the end
        why = error.what if isinstance(error, ExplainedError) else type(error).__name__
        log.warning("%s rows that came with another body could not be listed in %s: %s", f"{counts.changed:,}", table, why)
        return error
    return None
