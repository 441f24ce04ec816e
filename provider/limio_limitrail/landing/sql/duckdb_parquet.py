# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Parts as Parquet files that DuckDB reads itself."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import Kind, arrow_type, kind_of
from limio_limitrail.landing.sql.dialect import quoted
from limio_limitrail.landing.sql.model import FilePart, PartSource
from limio_limitrail.landing.sql.staged_rows import STORED_NUL, in_kinds

if TYPE_CHECKING:
    import pyarrow as pa

    from limio_limitrail.landing.sql.plan import ColumnPlan, LoadPlan

_UNFIT_FOR_PATHS = re.compile(r"[*?\[\]{}\\]")
"""Characters of a pattern in DuckDB's file names."""


@dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """A Parquet file, and how the columns of a plan are read out of it.

    :param file: its path.
    :param rows: how many it has.
    :param schema: its columns.
    :param values: an expression for each column of the plan, in the plan's order.
    """

    file: Path
    rows: int
    schema: pa.Schema
    values: tuple[str, ...]


@contextmanager
def readable(part: PartSource, *, plan: LoadPlan) -> Iterator[ParquetSource]:
    """Return a part as a file: its own, or a rewritten one if SQL cannot convert its columns to the plan's.

    :param part: the part.
    :param plan: what happens to each column.
    :raises LandingError: the part does not fit the plan.
    """
    own = _own_file(part, plan=plan)
    if own is not None:
        yield own
        return
    with tempfile.TemporaryDirectory(prefix="limio_limitrail_") as folder:
        file = Path(folder) / "part.parquet"
        _write(part, plan=plan, file=file)
        yield _readable(file, values=tuple(_typed(quoted(column.staged), column) for column in plan.columns))


def _own_file(part: PartSource, *, plan: LoadPlan) -> ParquetSource | None:
    if not isinstance(part, FilePart):
        return None
    file = part.file()
    if file is None or _UNFIT_FOR_PATHS.search(str(file)):
        return None
    import pyarrow.parquet as pq

    schema = pq.read_schema(file)
    # DuckDB ignores the case of names, and has no empty name.
    if len({name.casefold() for name in schema.names}) != len(schema.names) or "" in schema.names:
        return None
    if set(schema.names) - {column.key for column in plan.columns}:
        return None
    values = [_value(column, schema=schema) for column in plan.columns]
    known = tuple(value for value in values if value is not None)
    return _readable(file, values=known) if len(known) == len(values) else None


def _readable(file: Path, *, values: tuple[str, ...]) -> ParquetSource:
    import pyarrow.parquet as pq

    about = pq.read_metadata(file)
    return ParquetSource(file=file, rows=about.num_rows, schema=about.schema.to_arrow_schema(), values=values)


def _value(column: ColumnPlan, *, schema: pa.Schema) -> str | None:
    """Return the expression that reads a column; ``None`` if only Arrow converts it in the same way for every database."""
    at = schema.get_field_index(column.key)
    source = kind_of(schema.field(at)) if at >= 0 else Kind.NULL
    if source is Kind.NULL:
        return "NULL"
    if arrow_type(source) == arrow_type(column.kind):
        value = quoted(column.key)
        return f"replace({value}, chr(0), '{STORED_NUL}')" if column.kind is Kind.TEXT else _typed(value, column)
    return f"CAST({quoted(column.key)} AS DOUBLE)" if (source, column.kind) == (Kind.INTEGER, Kind.DOUBLE) else None


def _typed(value: str, column: ColumnPlan) -> str:
    return f"CAST({value} AS JSON)" if column.kind is Kind.JSON else value


def _write(part: PartSource, *, plan: LoadPlan, file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(column.staged, arrow_type(column.kind)) for column in plan.columns])
    with pq.ParquetWriter(file, schema, compression="lz4") as writer:
        for group in part.groups():
            writer.write_table(in_kinds(rows=group, part=part.name, plan=plan))
