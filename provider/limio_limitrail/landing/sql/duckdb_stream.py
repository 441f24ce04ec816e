# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Parts as one stream of Arrow batches that DuckDB's threads take turns to read from."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import arrow_type
from limio_limitrail.landing.sql.staged_rows import in_kinds

if TYPE_CHECKING:
    import pyarrow as pa

    from limio_limitrail.landing.sql.model import PartSource
    from limio_limitrail.landing.sql.plan import LoadPlan


class PartStream:
    """The rows of parts in the columns of a plan, each group decoded when a thread asks for it.

    :ivar rows: the rows of each part so far.
    :ivar error: what ended the stream early; DuckDB would hide an error that is raised while it reads.
    """

    def __init__(self, plan: LoadPlan, *, parts: Sequence[PartSource]) -> None:
        self._plan = plan
        self._parts = parts
        self.rows: list[int] = []
        self.error: Exception | None = None
        self._batches = self._read()

    def reader(self) -> pa.RecordBatchReader:
        """Return the stream, which can be read once."""
        import pyarrow as pa

        schema = pa.schema([(column.staged, arrow_type(column.kind)) for column in self._plan.columns])
        return pa.RecordBatchReader.from_batches(schema, self._batches)

    def close(self) -> None:
        """Let go of the part that is being read."""
        self._batches.close()

    def _read(self) -> Generator[pa.RecordBatch, None, None]:
        try:
            for part in self._parts:
                self.rows.append(0)
                for group in part.groups():
                    self.rows[-1] += group.num_rows
                    yield from in_kinds(rows=group, part=part.name, plan=self._plan).to_batches()
        except Exception as error:
            self.error = error
            raise
