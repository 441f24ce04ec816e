# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Both sides of a reconciliation and their differences, on disk: memory is bounded whatever their size."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.usage.ledger.kept_members import KeptHash, as_json, coarse_hash
from limio_limitrail.usage.reconciliation.model import Finding, Record, Row

MAX_GROUP = 1000
"""Rows or records with the same values: with more, ``match`` does not identify rows at all."""

_BATCH = 1000
_ENCODER = msgspec.msgpack.Encoder()
_ROWS = msgspec.msgpack.Decoder(Row)
_RECORDS = msgspec.msgpack.Decoder(Record)
_FINDINGS = msgspec.msgpack.Decoder(Finding)


class Identity(NamedTuple):
    """What a record of the list is known by.

    :param name: is equal for a record whenever it is read, even if it has changed; without an id, for records with one content.
    :param content: is equal for a record that is repeated unchanged; None if nothing tells it from another one.
    """

    name: bytes
    content: bytes | None = None


def match_key(values: Sequence[Any], *, salt: str) -> str | None:
    """Return a text that is equal for all rows and records that may match; None if a value is missing."""
    if any(value is None for value in values):
        return None
    return " ".join(coarse_hash(value, salt=salt) for value in values)


def dump_values(values: Mapping[str, Any]) -> str:
    """Return values as `kept_members.read_kept` reads them."""
    from limio_limitrail.usage.ledger.changes import by_value

    plain = {name: as_json(value) if isinstance(value, KeptHash) else by_value(value) for name, value in values.items()}
    return msgspec.json.encode(plain).decode()


class Scratch:
    """Rows and records in an unnamed file, which only this process can read and which ends with it."""

    def __init__(self) -> None:
        # An empty name is a private database on disk, which SQLite deletes.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; "
            "CREATE TABLE our (k TEXT, v BLOB); "
            "CREATE TABLE their (k TEXT, v BLOB, name BLOB, content BLOB UNIQUE, at INTEGER, pass INTEGER); "
            "CREATE INDEX their_name ON their (name); CREATE TABLE found (v BLOB); BEGIN"
        )
        self._rows: list[tuple[str | None, bytes]] = []
        self._records: list[tuple[str | None, bytes, bytes, bytes | None, int | None, int]] = []
        self._findings: list[tuple[bytes]] = []
        self._pass = 1
        self._again: tuple[int, int] | None = None
        self._vanished = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()

    def add_row(self, key: str | None, row: Row) -> None:
        """Add a row, with its `match_key`."""
        self._rows.append((key, _ENCODER.encode(row)))
        if len(self._rows) == _BATCH:
            self._flush()

    def add_record(self, identity: Identity, key: str | None, record: Record) -> None:
        """Add a record, with its `match_key`; one that the list repeats unchanged, as pages that shift do, counts once."""
        self._records.append((key, _ENCODER.encode(record), identity.name, identity.content, record.at, self._pass))
        if len(self._records) == _BATCH:
            self._flush()

    def read_again(self, *, since: int, until: int) -> None:
        """Keep the records, and add those of the list when a part of it is read once more; the rows are to be added anew.

        :param since: from when on the list is read again, in milliseconds since 1970.
        :param until: until when, likewise.
        """
        self._flush()
        self._database.execute("DELETE FROM our")
        self._pass += 1
        self._again = since, until

    def end_reading(self) -> None:
        """Count the records that the last reading should have had; what it says of a record replaces what an earlier one said."""
        self._flush()
        if self._again is None:
            return
        # A record without a name counts as often as a reading has it; one that is unchanged has been replaced already.
        self._vanished = self._count(
            "SELECT coalesce(sum(max(earlier - later, 0)), 0) FROM (SELECT "
            "sum(pass < ?1 AND coalesce(at >= ?2 AND at < ?3, TRUE)) AS earlier, sum(pass = ?1) AS later, "
            "count(content) > 0 AS named FROM their GROUP BY name) WHERE NOT named OR later = 0",
            self._pass,
            *self._again,
        )
        same = "SELECT name FROM their WHERE pass = ?1"
        self._database.execute(f"DELETE FROM their WHERE pass < ?1 AND name IN ({same})", (self._pass,))  # nosec B608 # noqa: S608

    def vanished(self) -> int:
        """Return how many records an earlier reading of the list had, and the last one should have had and had not."""
        return self._vanished

    @property
    def has_nameless(self) -> bool:
        """Whether there are records without an id."""
        self._flush()
        return self._count("SELECT EXISTS (SELECT 1 FROM their WHERE content IS NULL)") > 0

    @property
    def rows(self) -> int:
        """The number of rows."""
        self._flush()
        return self._count("SELECT count(*) FROM our")

    @property
    def records(self) -> int:
        """The number of records."""
        self._flush()
        return self._count("SELECT count(*) FROM their")

    @property
    def oldest(self) -> int | None:
        """The time of the oldest record, in milliseconds since 1970; None if there is none."""
        self._flush()
        [(at,)] = self._database.execute("SELECT min(at) FROM their")
        return None if at is None else int(at)

    def groups(self) -> Iterator[tuple[list[Row], list[Record]]]:
        """Yield the rows and records with the same `match_key`, all of them once.

        :raises ParameterError: too many have the same values.
        """
        self._index()
        ours = self._grouped("SELECT k, v FROM our WHERE k IS NOT NULL ORDER BY k")
        theirs = self._grouped("SELECT k, v FROM their WHERE k IS NOT NULL ORDER BY k")
        one, other = next(ours, None), next(theirs, None)
        while one is not None or other is not None:
            if other is None or (one is not None and one[0] < other[0]):
                assert one is not None
                yield [_ROWS.decode(row) for row in one[1]], []
                one = next(ours, None)
            elif one is None or other[0] < one[0]:
                yield [], [_RECORDS.decode(record) for record in other[1]]
                other = next(theirs, None)
            else:
                yield [_ROWS.decode(row) for row in one[1]], [_RECORDS.decode(record) for record in other[1]]
                one, other = next(ours, None), next(theirs, None)

    def add_finding(self, finding: Finding) -> None:
        """Add what a comparison has found."""
        self._findings.append((_ENCODER.encode(finding),))
        if len(self._findings) == _BATCH:
            self._flush()

    def findings(self) -> Iterator[Finding]:
        """Yield what the last comparison has found, in the order in which it was added."""
        self._flush()
        for (finding,) in self._database.execute("SELECT v FROM found ORDER BY rowid"):
            yield _FINDINGS.decode(finding)

    def forget_findings(self) -> None:
        """Forget what an earlier comparison has found."""
        self._findings.clear()
        self._database.execute("DELETE FROM found")

    def unmatched_rows(self) -> Iterator[Row]:
        """Yield the rows that lack a value to match them by."""
        self._flush()
        for (row,) in self._database.execute("SELECT v FROM our WHERE k IS NULL"):
            yield _ROWS.decode(row)

    def unmatched_records(self) -> Iterator[Record]:
        """Yield the records that lack a value to match them by."""
        self._flush()
        for (record,) in self._database.execute("SELECT v FROM their WHERE k IS NULL"):
            yield _RECORDS.decode(record)

    def _grouped(self, sql: str) -> Iterator[tuple[str, list[bytes]]]:
        for key, items in groupby(self._database.execute(sql), key=itemgetter(0)):
            found = []
            for _, item in items:
                found.append(item)
                if len(found) > MAX_GROUP:
                    raise ParameterError(
                        f"match identifies no rows: more than {MAX_GROUP:,} have the same values. Add members to match, such as "
                        "the one that holds the idempotency key"
                    )
            yield key, found

    def _index(self) -> None:
        self._flush()
        for table in ("our", "their"):
            self._database.execute(f"CREATE INDEX IF NOT EXISTS {table}_k ON {table} (k)")

    def _flush(self) -> None:
        self._database.executemany("INSERT INTO our VALUES (?, ?)", self._rows)
        self._database.executemany("INSERT OR REPLACE INTO their VALUES (?, ?, ?, ?, ?, ?)", self._records)
        self._database.executemany("INSERT INTO found VALUES (?)", self._findings)
        for batch in (self._rows, self._records, self._findings):
            batch.clear()

    def _count(self, sql: str, *values: object) -> int:
        [(count,)] = self._database.execute(sql, values)
        return int(count)
