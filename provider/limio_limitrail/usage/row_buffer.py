# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A buffer on disk for all rows of a task, which are checked against each other before the first one is sent."""

from __future__ import annotations

import struct
import tempfile
import uuid
from array import array
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

import msgspec

from limio_limitrail.usage.ledger.changes import BY_VALUE
from limio_limitrail.usage.ledger.model import UsageRow
from limio_limitrail.usage.ledger.states import PermanentUsageError

if TYPE_CHECKING:
    import numpy as np

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(UsageRow)
_KEY = struct.Struct(">QQ")
_NO_IDENTITY = bytes(16)


class ClashError(PermanentUsageError, ValueError):
    """Two rows have the same key and different bodies."""

    def __init__(self, one: UsageRow, other: UsageRow, *, clashes: int) -> None:
        more = f" ({clashes:,} such rows in all)" if clashes > 1 else ""
        super().__init__(
            f"{one} and {other} have the same key and different bodies{more}: one of them would never be sent. Nothing was sent. "
            "Make the key columns tell them apart, or add such rows up"
        )


class RowBuffer:
    """Rows in an unnamed file, which only this process can read and which ends with it; about 60 bytes per row are in memory."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(buffering=1 << 20)  # noqa: SIM115 - closed in __exit__
        self._marks = array("Q")
        self._identities = bytearray()
        self._keys: frozenset[bytes] | None = None
        self._offsets = array("Q")
        self._end = 0
        self._skipped: frozenset[int] = frozenset()
        self._repetition: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def add(self, row: UsageRow) -> None:
        """Append a row."""
        data = _ENCODER.encode(row)
        self._file.write(data)
        key = bytes.fromhex(row.key.replace("-", ""))
        self._marks.extend((*_KEY.unpack(key), int(row.digest.removeprefix(BY_VALUE)[:16], 16)))
        self._identities += bytes.fromhex(row.identity) if row.identity else _NO_IDENTITY
        self._offsets.append(self._end)
        self._end += len(data)

    @property
    def total(self) -> int:
        """The number of rows, duplicates included."""
        return len(self._offsets)

    @property
    def duplicates(self) -> int:
        """The number of rows that repeat an earlier one exactly."""
        return len(self._skipped)

    @property
    def repetition(self) -> tuple[UsageRow, UsageRow] | None:
        """A row and the first one that repeats it; None if there are no duplicates."""
        if self._repetition is None:
            return None
        first, again = self._repetition
        return self.row(first), self.row(again)

    def check(self) -> None:
        """Find duplicates.

        :raises ClashError: two rows have the same key and different bodies.
        """
        import numpy as np

        marks = np.frombuffer(self._marks, dtype=np.uint64).reshape(-1, 3)
        if len(marks) < 2:
            return
        # By key, and within a key in the order of the input.
        order = np.lexsort((marks[:, 1], marks[:, 0]))
        ordered = marks[order]
        repeats = (ordered[1:, 0] == ordered[:-1, 0]) & (ordered[1:, 1] == ordered[:-1, 1])
        clashes = repeats & (ordered[1:, 2] != ordered[:-1, 2])
        if clashes.any():
            one, other = _first_pair(order, clashes)
            raise ClashError(self.row(one), self.row(other), clashes=int(clashes.sum()))
        self._skipped = frozenset(int(index) for index in order[1:][repeats])
        self._repetition = _first_pair(order, repeats) if self._skipped else None

    def rows(self) -> Iterator[UsageRow]:
        """Yield each row once, in the order of the input."""
        for index in range(self.total):
            if index not in self._skipped:
                yield self.row(index)

    def among(self, keys: Sequence[str]) -> frozenset[str]:
        """Return which of some keys are keys of rows here."""
        import numpy as np

        wanted = {words: key for key in keys if (words := _words(key)) is not None}
        marks = np.frombuffer(self._marks, dtype=np.uint64).reshape(-1, 3)
        if not wanted or not len(marks):
            return frozenset()
        near = np.isin(marks[:, 0], np.array([first for first, _ in wanted], dtype=np.uint64))
        here = {(int(first), int(second)) for first, second in marks[near][:, :2]}
        return frozenset(key for words, key in wanted.items() if words in here)

    def identities(self, *, at_once: int) -> Iterator[list[tuple[int, str, str]]]:
        """Yield index, key and identity of each row that has one, so many at a time."""
        found: list[tuple[int, str, str]] = []
        for index in range(self.total):
            identity = self._identities[16 * index : 16 * (index + 1)]
            if index not in self._skipped and identity != _NO_IDENTITY:
                key = self._key(index).hex()
                found.append((index, f"{key[:8]}-{key[8:12]}-{key[12:16]}-{key[16:20]}-{key[20:]}", identity.hex()))
            if len(found) == at_once:
                yield found
                found = []
        if found:
            yield found

    def alike(self) -> Iterator[tuple[UsageRow, UsageRow]]:
        """Yield pairs of rows with the same identity and different keys."""
        import numpy as np

        identities = np.frombuffer(bytes(self._identities), dtype=np.uint64).reshape(-1, 2)
        order = np.lexsort((identities[:, 1], identities[:, 0]))
        order = order[~np.isin(order, list(self._skipped))]
        ordered = identities[order]
        repeats = (ordered[1:] == ordered[:-1]).all(axis=1) & ordered[1:].any(axis=1)
        for at in np.flatnonzero(repeats):
            first, second = int(order[at]), int(order[at + 1])
            if self._key(first) != self._key(second):
                yield self.row(first), self.row(second)

    def has_key(self, key: str) -> bool:
        """Return whether one of the rows has a key."""
        if self._keys is None:
            self._keys = frozenset(self._key(index) for index in range(self.total))
        try:
            return uuid.UUID(key).bytes in self._keys
        except ValueError:
            return False

    def _key(self, index: int) -> bytes:
        return _KEY.pack(*self._marks[3 * index : 3 * index + 2])

    def row(self, index: int) -> UsageRow:
        """Return one row by its index, from 0."""
        end = self._offsets[index + 1] if index + 1 < len(self._offsets) else self._end
        self._file.seek(self._offsets[index])
        return _DECODER.decode(self._file.read(end - self._offsets[index]))


def _first_pair(order: np.ndarray, marked: np.ndarray) -> tuple[int, int]:
    """Return the first row in the order of the input that is marked as related to the row before it in the order of keys."""
    first = int(order[1:][marked].min())
    return int(order[int((order == first).argmax()) - 1]), first


def _words(key: str) -> tuple[int, int] | None:
    """Split a key as the marks hold it; None if it is no UUID."""
    try:
        found = bytes.fromhex(key.replace("-", ""))
    except ValueError:
        return None
    if len(found) != _KEY.size:
        return None
    first, second = _KEY.unpack(found)
    return first, second
