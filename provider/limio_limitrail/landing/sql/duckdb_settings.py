# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How much memory, and how many threads, DuckDB may use at each step of a load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.duckdb_connect import free_settings

if TYPE_CHECKING:
    import pyarrow as pa

    from limio_limitrail.landing.sql.session import Session

MEMORY = 512
"""Megabytes that DuckDB may use for a load, unless the connection sets ``memory_limit``. Its default is most of the machine's."""

COPY_MEMORY = 64
"""Megabytes that DuckDB may use to copy parts into a new table, likewise; it needs no more for that."""

COPY_THREADS = 1
"""Threads that copy them. A second one would wait for the stream that they share, and cost a quarter more of the processor."""

COPY_COLUMN_MEMORY = 2
"""Megabytes for each column, if that is more: all columns are written at the same time."""

MERGE_MEMORY = 112
"""Megabytes that DuckDB may use for a merge into a table that exists, likewise. What is staged beyond that is on its disk."""

MERGE_COLUMN_MEMORY = 1
"""Megabytes for each column; a merge into a table with so many that it would need more may use `MEMORY`."""

LARGE_ROW = 16 * 1024
"""Bytes of a row from which a merge may use `MEMORY`, too, or what `_memory_for` returns."""

MOST_MEMORY = 2048
"""Megabytes that rows of any size may need, and a load that is run again because it needed more than it got."""

_VECTOR_ROWS = 2048
_COPIES = 4
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


class DuckSettings:
    """Settings of a session, where its connection leaves them free. Beyond its memory DuckDB uses its disk.

    :ivar changes: bytes that the transaction's updates keep in memory, beside what its statements may use.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._memory = MEMORY
        self._least_memory = 0
        self.changes = 0

    def restore(self) -> None:
        """Set the memory and threads of a load."""
        self.restore_order()
        self._set_memory(self._memory)

    def restore_order(self) -> None:
        """Set the threads of a load, and keep the order of rows. The memory limit stays."""
        self._set("preserve_insertion_order", "true")
        self._set("threads", None)

    def limit_copy(self, *, columns: int, rows: pa.Table | None = None) -> None:
        """Copy parts with little memory, and one thread, until the settings are restored.

        :param rows: the first of the rows, if they are at hand.
        """
        needed = 0 if rows is None else _memory_for(rows=rows.num_rows, size=rows.nbytes)
        self._limit(max(COPY_MEMORY, COPY_COLUMN_MEMORY * columns, needed, self._least_memory))
        self._set("threads", str(COPY_THREADS))
        # The rows of a new table need no order, others have a number, and keeping it costs time.
        self._set("preserve_insertion_order", "false")

    def limit_merge(self, *, columns: int) -> None:
        """Let DuckDB keep less of the staged rows in memory."""
        if columns * MERGE_COLUMN_MEMORY <= MERGE_MEMORY:
            self._set_memory(MERGE_MEMORY)

    def allow_update(self, size: int) -> None:
        """Let DuckDB keep in memory what an UPDATE writes, as it does until the transaction ends.

        :param size: bytes of the staged rows.
        """
        self._set_memory(max(self._memory, min(max(MEMORY, _COPIES * size >> 20), MOST_MEMORY)))

    def allow_join(self) -> None:
        """Let DuckDB hold the staged rows and the table's side by side."""
        self._set_memory(max(MEMORY, self._memory))

    def allow_rows(self, *, rows: int, size: int) -> None:
        """Let DuckDB hold as many of the rows as it reads at a time.

        :param size: their bytes.
        """
        if (needed := _memory_for(rows=rows, size=size)) > self._memory:
            self._set_memory(needed)

    def allow_changes(self, size: int) -> None:
        """Let DuckDB keep more changed rows in memory until the transaction ends.

        :param size: their bytes.
        """
        self.changes += size
        self._set_memory(self._memory)

    def take_more(self) -> None:
        """Never use less than `MOST_MEMORY` from here on."""
        self._least_memory = MOST_MEMORY
        self._set_memory(MOST_MEMORY)

    @contextmanager
    def allow_any_row(self) -> Iterator[None]:
        """Read rows whose size is not known; then restore the settings."""
        self._limit(MOST_MEMORY)
        yield
        self.restore()

    def _set_memory(self, megabytes: int) -> None:
        self._memory = max(megabytes, self._least_memory)
        self._limit(min(self._memory + (self.changes >> 20), MOST_MEMORY))

    def _limit(self, megabytes: int) -> None:
        # With more than there is, the system would end the process, and no message would say why.
        self._set("memory_limit", f"'{min(megabytes, self._half_of_machine)}MB'")

    def _set(self, name: str, value: str | None) -> None:
        """Change a setting, or reset it, unless the connection sets it."""
        if name in self._free:
            self._session.execute(f"RESET {name}" if value is None else f"SET {name} = {value}")

    @cached_property
    def _free(self) -> frozenset[str]:
        return free_settings(self._session.hook)

    @cached_property
    def _half_of_machine(self) -> int:
        """Half of the machine's memory in megabytes, or of what its container may use; the process needs some of its own.

        DuckDB's default is four fifths of it.
        """
        if "memory_limit" not in self._free:
            return MOST_MEMORY
        self._session.execute("RESET memory_limit")
        [(limit,)] = self._session.query("SELECT current_setting('memory_limit')")
        return _megabytes(str(limit)) * 5 // 8


def _memory_for(*, rows: int, size: int) -> int:
    """Return the megabytes that DuckDB needs for rows of a size in bytes; 0 if any limit will do.

    A thread holds two thousand rows at a time, and a few copies of them where it parses JSON.
    """
    if size <= LARGE_ROW * rows:
        return 0
    vector = size * min(rows, _VECTOR_ROWS) // rows
    return min(max(MEMORY, _COPIES * vector >> 20), MOST_MEMORY)


def _megabytes(limit: str) -> int:
    """Return a size as DuckDB writes it, such as ``18.8 GiB``, in megabytes."""
    number, _, unit = limit.partition(" ")
    return int(float(number) * _UNITS[unit]) // 10**6
