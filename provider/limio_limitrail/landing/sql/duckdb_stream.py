# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Tables, or parts, as one stream of Arrow batches that DuckDB's threads take turns to read from."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

from limio_limitrail.concurrency import prefetch
from limio_limitrail.landing.column_types import arrow_type
from limio_limitrail.landing.sql.staged_rows import in_kinds

if TYPE_CHECKING:
    import pyarrow as pa

    from limio_limitrail.landing.sql.model import PartSource
    from limio_limitrail.landing.sql.plan import LoadPlan


class TableStream:
    """The rows of tables, each asked for when a thread wants it.

    :ivar error: what ended the stream early; DuckDB would hide an error that is raised while it reads.
    """

    def __init__(self, tables: Iterator[pa.Table], *, schema: pa.Schema) -> None:
        self.error: Exception | None = None
        self._schema = schema
        self._batches = self._read(tables)

    def reader(self) -> pa.RecordBatchReader:
        """Return the stream, which can be read once."""
        import pyarrow as pa

        return pa.RecordBatchReader.from_batches(self._schema, self._batches)

    def close(self) -> None:
        """Let go of the part that is being read."""
        self._batches.close()

    def _read(self, tables: Iterator[pa.Table]) -> Generator[pa.RecordBatch, None, None]:
        try:
            for table in tables:
                yield from table.to_batches()
        except Exception as error:
            self.error = error
            raise


class PartStream(TableStream):
    """The rows of parts in the columns of a plan, each group decoded before a thread asks for it.

    :ivar rows: the rows of each part so far.
    """

    def __init__(self, plan: LoadPlan, *, parts: Sequence[PartSource]) -> None:
        import pyarrow as pa

        self.rows: list[int] = []
        # One, because memory holds each of them as a whole, and the one before until DuckDB lets go of it.
        self._groups = prefetch(self._decoded(plan, parts), ahead=1)
        super().__init__(self._groups, schema=pa.schema([(column.staged, arrow_type(column.kind)) for column in plan.columns]))

    def close(self) -> None:
        super().close()
        self._groups.close()

    def _decoded(self, plan: LoadPlan, parts: Sequence[PartSource]) -> Generator[pa.Table, None, None]:
        for part in parts:
            self.rows.append(0)
            for group in part.groups():
                self.rows[-1] += group.num_rows
                yield in_kinds(rows=group, part=part.name, plan=plan)
