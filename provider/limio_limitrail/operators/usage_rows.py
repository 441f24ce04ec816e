# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Where usage rows come from: a query, parts that a pull has left, or a list."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from limio_limitrail.api.errors import ParameterError

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from limio_limitrail.ledger.spool import Spool
    from limio_limitrail.limitrail.usage import UsageTemplate

MOST_SHOWN = 10
"""Rows that cannot be sent, and that a message names one by one."""

_FETCH = 2000
"""Rows that are fetched at a time."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Rows, and the names of their columns where they are known before the first row.

    :param columns: the columns; none where each row has its own.
    :param rows: the rows, to be read once.
    """

    columns: tuple[str, ...] | None
    rows: Iterator[Mapping[str, Any]]


@contextmanager
def rows_of_query(hook: DbApiHook, sql: str) -> Iterator[Source]:
    """Run a query and give its rows, once.

    Decimals come as decimals, and the numbers within JSON columns too.

    :raises ParameterError: two columns have the same name.
    """
    with closing(hook.get_conn()) as connection:
        cursor = _cursor(connection)
        cursor.execute(sql)
        first = cursor.fetchmany(_FETCH)  # a cursor on the server tells its columns only now
        columns = tuple(column[0] for column in cursor.description or ())
        twice = sorted({name for name in columns if columns.count(name) > 1})
        if twice:
            raise ParameterError(
                f"the query gives {', '.join(repr(name) for name in twice)} more than once: name each column with AS"
            )

        def rows() -> Iterator[Mapping[str, Any]]:
            batch = first
            while batch:
                for values in batch:
                    yield dict(zip(columns, values, strict=True))
                batch = cursor.fetchmany(_FETCH)

        yield Source(columns=columns, rows=rows())


def _cursor(connection: Any) -> Any:
    module = type(connection).__module__
    loads = partial(json.loads, parse_float=Decimal)
    if module.startswith("psycopg2"):
        import psycopg2.extensions  # type: ignore[import-untyped]
        import psycopg2.extras  # type: ignore[import-untyped]

        psycopg2.extras.register_default_json(connection, loads=loads)
        psycopg2.extras.register_default_jsonb(connection, loads=loads)
        # A cursor with a name stays on the server, so that the result need not fit into memory.
        return connection.cursor(name="limitrail_usage", cursor_factory=psycopg2.extensions.cursor)
    if module.startswith("psycopg"):
        from psycopg.rows import tuple_row
        from psycopg.types.json import set_json_loads

        set_json_loads(loads, connection)
        return connection.cursor(name="limitrail_usage", row_factory=tuple_row)
    with suppress(AttributeError):
        connection.row_factory = None  # SQLite's hook may give rows of another kind
    return connection.cursor()


def rows_of_parts(folder: str) -> Source:
    """Read the parts that a finished pull has left, each checked against its manifest.

    :param folder: the pull's folder, the one with the manifest.
    :raises ParameterError: there is no manifest, or none that can be read.
    :raises DamagedPartError: a part is not the file that was written.
    """
    from airflow.sdk import ObjectStoragePath

    from limio_limitrail.landing.manifest import ManifestError, read_manifest

    place = ObjectStoragePath(folder)
    try:
        manifest = read_manifest(place)
    except FileNotFoundError:
        raise ParameterError(
            f"parts={folder!r} holds no manifest: give the folder of a finished pull, such as its summary's 'folder'"
        ) from None
    except ManifestError as error:
        raise ParameterError(f"parts={folder!r}: {error.what}") from None
    columns = tuple(manifest.schema) or None
    return Source(columns=columns, rows=_read_parts(place, manifest))


def _read_parts(place: Any, manifest: Any) -> Iterator[Mapping[str, Any]]:
    import msgspec
    import pyarrow as pa

    from limio_limitrail.landing.parts import ParquetPart, PartFormat, read_verified

    decoder = msgspec.json.Decoder(float_hook=Decimal)
    for part in manifest.parts:
        if manifest.part_format is PartFormat.PARQUET:
            for batch in ParquetPart(folder=place, part=part).read().to_batches(max_chunksize=_FETCH):
                yield from batch.to_pylist()
            continue
        with pa.CompressedInputStream(pa.BufferReader(read_verified(place, part)), "zstd") as stream:
            for line in stream.read().splitlines():
                yield decoder.decode(line)


def rows_of_list(rows: object) -> Source:
    """Take rows as they are.

    :raises ParameterError: they are no list of mappings.
    """
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise ParameterError(f"rows= is a {type(rows).__name__}; give a list of mappings, one a row")

    def checked(items: Iterable[object]) -> Iterator[Mapping[str, Any]]:
        for number, item in enumerate(items, start=1):
            if not isinstance(item, Mapping):
                raise ParameterError(f"row {number} of rows= is a {type(item).__name__}; give a mapping of columns")
            yield item

    return Source(columns=None, rows=checked(rows))


def fill_spool(spool: Spool, *, source: Source, template: UsageTemplate) -> None:
    """Make all rows ready, and find all that is wrong with them before the first one leaves.

    :raises ParameterError: rows cannot be sent as they are.
    :raises ClashError: two rows have the same key and different bodies.
    """
    from limio_limitrail.limitrail.body import UsageRowError
    from limio_limitrail.limitrail.usage import check_columns

    problems: list[str] = []
    wrong = 0
    if source.columns is not None:
        check_columns(source.columns, needed=template.columns())
    for number, row in enumerate(source.rows, start=1):
        try:
            spool.add(template.build(row, number=number))
        except UsageRowError as error:
            wrong += 1
            if len(problems) < MOST_SHOWN:
                problems.append(error.what)
    if wrong:
        more = f"; and {wrong - len(problems):,} more" if wrong > len(problems) else ""
        raise ParameterError(f"{wrong:,} rows cannot be sent, so nothing was sent: {'; '.join(problems)}{more}")
    spool.check()
