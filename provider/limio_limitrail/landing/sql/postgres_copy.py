# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What goes to Postgres by COPY, a little at a time."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.sql.binary_copy import ROWS, binary_rows
from limio_limitrail.landing.sql.staged_rows import in_kinds

if TYPE_CHECKING:
    import pyarrow as pa

    from limio_limitrail.landing.sql.direct_load import DirectLoad
    from limio_limitrail.landing.sql.model import PartSource


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some rows of a part, as COPY takes them.

    :param part: the part's place.
    :param rows: how many there are.
    :param data: the rows.
    """

    part: int
    rows: int
    data: memoryview | bytes


def noted(pieces: Iterable[Piece], *, sent: list[int]) -> Iterator[memoryview | bytes]:
    """Give what is to be copied, and note how many rows it was."""
    for piece in pieces:
        sent.append(piece.rows)
        yield piece.data


def pieces_of(pour: DirectLoad, *, parts: Sequence[PartSource]) -> Iterator[Piece]:
    """Read parts, and write their rows as the new table takes them."""
    import pyarrow as pa

    for at, part in enumerate(parts):
        yield Piece(part=at, rows=0, data=b"")  # a part without rows is one too
        for group in part.groups():
            rows = in_kinds(rows=group, part=part.name, plan=pour.plan)
            for own in (pour.extracted_at, pour.run_id):
                rows = rows.append_column(str(rows.num_columns), pa.repeat(own, rows.num_rows))
            yield from (Piece(part=at, rows=some.num_rows, data=binary_rows(some)) for some in _slices(rows))
            # Arrow keeps what a group has used, thirty megabytes of it.
            pa.default_memory_pool().release_unused()


def binary_slices(rows: pa.Table) -> Iterator[memoryview]:
    """Write rows in COPY's binary format, some at a time."""
    return map(binary_rows, _slices(rows))


def _slices(rows: pa.Table) -> Iterator[pa.Table]:
    return (rows.slice(at, ROWS) for at in range(0, rows.num_rows, ROWS))


class ChunkFile(io.RawIOBase):
    """A file made of chunks, each written when it is asked for.

    :ivar error: what ended it early; raised while the driver reads, the driver would hide it.
    """

    def __init__(self, chunks: Iterator[memoryview | bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            try:
                chunk = next(self._chunks, None)
            except Exception as error:  # noqa: BLE001 - raised again once the driver is done
                self.error, chunk = error, None
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        taken = min(len(buffer), len(self._rest))
        buffer[:taken] = self._rest[:taken]
        self._rest = self._rest[taken:]
        return taken
