# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Compare the rows and the records with the same match: pure functions, without a database.

Nothing is guessed: of two candidates none is taken, and what the list cannot tell stays as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from limio_limitrail.usage.ledger.kept_members import read_kept, same_kept
from limio_limitrail.usage.ledger.states import State
from limio_limitrail.usage.reconciliation.model import NOT_BILLED, Finding, Kind, Record, Row

_DECISION = "(decision)"
"""In the list of members: what the record says about its decision."""

_MOST_PAIRS = 10_000
"""Pairs of different values that are compared one by one; with more, all of them count as one."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """What the list can tell. All times are in milliseconds since 1970.

    :param since: rows and records from here on are compared.
    :param until: rows and records before this are compared.
    :param listed_before: what was sent before this is certainly in the list; None if that is not known.
    :param read_at: when reading the list began.
    :param kept_from: what was carried out before this may be forgotten; None for a list that forgets nothing.
    :param margin: how far the times of a row and its record may lie apart.
    """

    since: int
    until: int
    read_at: int
    listed_before: int | None = None
    kept_from: int | None = None
    margin: int = 0

    def holds(self, at: int | None) -> bool:
        """Return whether a time lies in the range; one that is unknown counts as if it did."""
        return at is None or self.since <= at < self.until

    def forgets(self, at: int | None) -> bool:
        """Return whether the list may have forgotten what was carried out then."""
        return self.kept_from is not None and at is not None and at < self.kept_from


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How rows and records are compared.

    :param match: the record's members that all of ``matched`` stands for, in order.
    :param compare: the record's members that must be equal.
    :param salt: that of the kept hashes.
    :param by_key: whether idempotency keys decide what belongs together.
    """

    range: Range
    match: Sequence[str]
    compare: Sequence[str]
    salt: str = field(repr=False)
    by_key: bool = False

    def classify(self, rows: Sequence[Row], records: Sequence[Record]) -> Iterator[Finding]:
        """Yield what is found about rows and records that may have the same values: each of them once.

        Their values have the same coarse form; `kept_members.same_kept` decides which are the same.
        """
        if len(rows) == 1 and len(records) == 1:
            parts = [(rows, records)] if self._match(rows[0], records[0]) else [(rows, ()), ((), records)]
        else:
            parts = list(self._components(rows, records))
        for some_rows, some_records in parts:
            yield from self._compare(some_rows, some_records)

    def _components(self, rows: Sequence[Row], records: Sequence[Record]) -> Iterator[tuple[Sequence[Row], Sequence[Record]]]:
        """Separate rows and records that are connected by equal values from others with the same coarse form."""
        ours: defaultdict[str, list[Row]] = defaultdict(list)
        theirs: defaultdict[str, list[Record]] = defaultdict(list)
        for row in rows:
            ours[str(row.matched)].append(row)
        for record in records:
            theirs[str(record.matched)].append(record)
        if len(ours) * len(theirs) > _MOST_PAIRS:
            yield rows, records
            return
        left = dict(theirs)
        components: list[tuple[list[str], list[str]]] = []
        for form, some in ours.items():
            near = [other for other, those in theirs.items() if self._match(some[0], those[0])]
            joined, components_left = ([form], near), []
            for one in components:
                if set(one[1]) & set(joined[1]):
                    joined = (one[0] + joined[0], list(dict.fromkeys(one[1] + joined[1])))
                else:
                    components_left.append(one)
            components = [*components_left, joined]
        for forms, others in components:
            for other in others:
                left.pop(other, None)
            yield [row for form in forms for row in ours[form]], [record for other in others for record in theirs[other]]
        for some_records in left.values():
            yield [], some_records

    def _match(self, row: Row, record: Record) -> bool:
        if row.matched == record.matched:
            return True
        ours, theirs = read_kept(row.matched), read_kept(record.matched)
        return all(same_kept(ours.get(name), theirs.get(name), salt=self.salt) for name in self.match)

    def _compare(self, rows: Sequence[Row], records: Sequence[Record]) -> Iterator[Finding]:
        if not any(map(self.range.holds, [*(row.at for row in rows), *(record.at for record in records)])):
            # They were read only because clocks differ; another range has them.
            yield from (Finding(kind=Kind.OUTSIDE, row=row) for row in rows)
            yield from (Finding(kind=Kind.OUTSIDE, record=record) for record in records)
        elif not rows:
            for record in records:
                yield self.only_theirs(record)
        elif not records:
            for row in rows:
                yield self._missing(row)
        elif len(rows) > 1:
            reason = f"{len(rows)} rows and {len(records)} records have the same values: match needs more members"
            yield from (Finding(kind=Kind.AMBIGUOUS, row=row, reason=reason) for row in rows)
            yield from (Finding(kind=Kind.AMBIGUOUS, record=record, reason=reason) for record in records)
        else:
            billed = [record for record in records if record.stands != State.DENIED] or records[:1]
            if len(billed) == 1:
                yield self._pair(rows[0], billed[0])
            else:
                reason = f"the list has {len(billed)} records of this row, which is {rows[0].state}"
                yield from (Finding(kind=Kind.TWICE_THERE, row=rows[0], record=record, reason=reason) for record in billed)

    def only_theirs(self, record: Record, *, reason: str | None = None) -> Finding:
        """Return what is found about a record without a row."""
        if not self.range.holds(record.at):
            return Finding(kind=Kind.OUTSIDE, record=record)
        return Finding(kind=Kind.ONLY_THEIRS, record=record, reason=reason or "the ledger has no such row")

    def not_compared(self, row: Row) -> Finding:
        """Return what is found about a row that lacks a value to match it by."""
        if row.is_alive:
            return Finding(kind=Kind.IN_FLIGHT, row=row)
        if not self.range.holds(row.at):
            return Finding(kind=Kind.OUTSIDE, row=row)
        return Finding(kind=Kind.NOT_COMPARED, row=row, reason="the ledger lacks a value that match= needs; see kept_members=")

    def _missing(self, row: Row) -> Finding:
        """Return what is found about a row that is not in the list."""
        if row.is_alive:
            return Finding(kind=Kind.IN_FLIGHT, row=row)
        if row.state in NOT_BILLED and not row.in_doubt:
            return Finding(kind=Kind.ABSENT, row=row)
        if not self.range.holds(row.at) or self.range.forgets(row.at):
            return Finding(kind=Kind.OUTSIDE, row=row)
        if row.is_uncertain:
            proposal, reason = self._may_be_sent(row)
            return Finding(kind=Kind.UNCERTAIN_MISSING, row=row, reason=reason, proposal=proposal)
        shown_before = self.range.read_at if self.range.listed_before is None else self.range.listed_before
        if row.last_at is not None and row.last_at >= shown_before:
            return Finding(kind=Kind.NOT_LISTED_YET, row=row)
        again = f"; it was sent {row.attempts} times, and may stand before the range" if row.attempts > 1 else ""
        return Finding(kind=Kind.ONLY_OURS, row=row, reason=f"the list does not have it{again}")

    def _may_be_sent(self, row: Row) -> tuple[str | None, str]:
        """Return whether an uncertain row that is not in the list may be sent again, as far as the row itself decides."""
        if row.state not in set(State) or row.at is None or row.at_latest is None or row.last_at is None:
            return None, "the list does not have it, and the ledger does not say when it was sent"
        if self.range.listed_before is None:
            return None, "the list does not have it; listed_after= does not say when it would"
        if row.last_at >= self.range.listed_before:
            return None, "the list does not have it, and need not show it yet"
        if row.at_latest >= self.range.until:
            return None, "the list does not have it; it was sent again after the range"
        return "send", "the list does not have it"

    def _pair(self, row: Row, record: Record) -> Finding:
        """Return what is found about a row and its only record."""
        if row.is_alive:
            return Finding(kind=Kind.IN_FLIGHT, row=row, record=record)
        denied = record.stands == State.DENIED
        differing, lacking = self._differing(row, record)
        if row.state in NOT_BILLED and not row.in_doubt:
            if denied:
                return Finding(kind=Kind.EQUAL, row=row, record=record)
            reason = f"the list has it, although it is {row.state} in the ledger"
            found = Finding(kind=Kind.UNEXPECTED_THERE, row=row, record=record, reason=reason)
            # The next task would send it once more.
            is_certain = row.state == State.FREE and record.stands in (None, State.COMMITTED) and not differing and not lacking
            return self._settled_as(State.COMMITTED, found) if is_certain else found
        if record.stands not in (None, State.COMMITTED, State.DENIED) or (denied and not row.is_uncertain):
            differing = [*differing, _DECISION]
        if differing:
            return Finding(kind=Kind.DIFFERENT, row=row, record=record, members=tuple(differing))
        if lacking:
            reason = f"the ledger does not keep what {', '.join(lacking)} is compared with; see kept_members="
            return Finding(kind=Kind.NOT_COMPARED, row=row, record=record, reason=reason)
        if row.is_uncertain:
            found = Finding(kind=Kind.UNCERTAIN_THERE, row=row, record=record, reason="the list has it")
            return self._settled_as(State.DENIED if denied else State.COMMITTED, found)
        return Finding(kind=Kind.EQUAL, row=row, record=record)

    def _settled_as(self, state: State, found: Finding) -> Finding:
        row, record = found.row, found.record
        if not self.by_key and row is not None and record is not None and row.is_older(record, margin=self.range.margin):
            reason = "a record with the same values is older than the row, and may be another's; see time_of= and margin="
            return msgspec.structs.replace(found, reason=reason)
        return msgspec.structs.replace(found, proposal=state.value)

    def _differing(self, row: Row, record: Record) -> tuple[list[str], list[str]]:
        """Return the members that differ, and those that the ledger does not keep."""
        if not self.compare or row.compared == record.compared:
            return [], []
        ours: Mapping[str, Any] = read_kept(row.compared)
        theirs = read_kept(record.compared)
        lacking = [name for name in self.compare if name not in ours]
        return [
            name for name in self.compare if name in ours and not same_kept(ours[name], theirs.get(name), salt=self.salt)
        ], lacking
