# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Reconcile a list with the ledger: read both, compare them, write the differences, and settle what is certain."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from limio_limitrail.usage.degraded import OK
from limio_limitrail.usage.ledger.decisions import Decision, RowDecision
from limio_limitrail.usage.ledger.ledger_scan import ScanFilter
from limio_limitrail.usage.ledger.states import PermanentUsageError
from limio_limitrail.usage.parameters import ErrorBudget
from limio_limitrail.usage.reconciliation.amounts import AmountTotals, name_faults
from limio_limitrail.usage.reconciliation.comparison import Comparison, Range
from limio_limitrail.usage.reconciliation.model import AGREED, Finding, Kind
from limio_limitrail.usage.reconciliation.reasons import Reasons
from limio_limitrail.usage.reconciliation.scratch import Scratch
from limio_limitrail.usage.reconciliation.tables import Totals
from limio_limitrail.usage.settling import settle

if TYPE_CHECKING:
    from limio_limitrail.usage.ledger.settlement import Settlements
    from limio_limitrail.usage.reconciliation.sides import Sides
    from limio_limitrail.usage.reconciliation.summary import UsageReconciliationSummary
    from limio_limitrail.usage.reconciliation.tables import ReconciliationTables

log = logging.getLogger(__name__)


class ListRecords(Protocol):
    """The records of a time range of the list."""

    def __iter__(self) -> Iterator[Mapping[str, Any]]: ...

    @property
    def server_time(self) -> datetime | None:
        """The time of the first response, by the API's clock; None before it has come, or if it does not say."""


ReadList = Callable[[int, int], ListRecords]
"""Reads the list from its beginning, for a time range in milliseconds since 1970, and `Reconciliation.margin` on both sides."""

_PAIRED = frozenset({Kind.EQUAL, Kind.DIFFERENT, Kind.UNCERTAIN_THERE})

_PARTS = 4
"""Requests of the second reading, at least: a list that is cut off after a number of records is not cut off in each of them."""


_CLOCKS_AGREE = 60_000
"""Milliseconds that two clocks may lie apart before it is worth a line in the log."""


class HashSecretError(PermanentUsageError):
    """Hashes that the ledger keeps are those of another secret: the comparison would find nothing."""


@dataclass(kw_only=True)
class ReadingTime:
    """When reading the list began, by two clocks: one that has jumped must not let a row be billed twice.

    :param ledger: by the ledger's clock, which its rows' times are of, in milliseconds since 1970.
    :param api: by the API's clock, likewise; None if it has not said so.
    """

    ledger: int
    api: int | None = None

    def note(self, server_time: datetime | None) -> None:
        """Take the time of the first response."""
        if self.api is not None or server_time is None:
            return
        # HTTP's dates have whole seconds, and this is the end of one.
        self.api = round(server_time.timestamp() * 1000) + 999
        if abs(self.api - self.ledger) > _CLOCKS_AGREE:
            log.warning(
                "The clocks of the API (%s) and of the ledger's database (%s) differ. Correct the wrong one. Until then, the "
                "earlier time decides which rows the list must have (listed_after=), and the later one which it may have "
                "forgotten (retention=).",
                server_time.isoformat(),
                datetime.fromtimestamp(self.ledger / 1000, tz=UTC).isoformat(timespec="seconds"),
            )

    @property
    def earliest(self) -> int:
        return self.ledger if self.api is None else min(self.ledger, self.api)

    @property
    def latest(self) -> int:
        return self.ledger if self.api is None else max(self.ledger, self.api)


@dataclass(frozen=True, kw_only=True)
class Reconciliation:
    """One comparison of a list and a ledger.

    :param since: rows and records from here on are compared, in milliseconds since 1970.
    :param until: rows and records before this are compared, likewise.
    :param wanted: the rows of the ledger to read.
    :param listed_after: milliseconds after which the list certainly shows what was carried out; None if that is not known.
    :param retention: milliseconds for which the list certainly keeps a record; None if that is not known.
    :param max_sent: how many rows may become free to be sent again; with more, none does.
    :param margin: milliseconds by which the times of a row and its record may lie apart.
    """

    settlements: Settlements
    sides: Sides
    read_list: ReadList
    wanted: ScanFilter
    since: int
    until: int
    listed_after: int | None
    retention: int | None
    max_sent: int | str
    margin: int = 0

    def run(
        self,
        *,
        tables: ReconciliationTables,
        settles: bool,
        by: str,
        settlement_id: str | None = None,
        on_compared: Callable[[ComparisonResult], None] | None = None,
    ) -> UsageReconciliationSummary:
        """Compare, write the tables, settle if asked, and return the summary; see `LimitRailReconcileUsageOperator`.

        :param by: who settles.
        :param settlement_id: as for `Settlements.settle`.
        :param on_compared: is called before anything is settled. Nothing is, if it raises.
        """
        began = time.monotonic()
        with Scratch() as scratch:
            read_at = ReadingTime(ledger=self.settlements.now())
            result = self._compare(scratch, read_at=read_at, parts=[(self.since, self.until)])
            if settles and not result.blockers and (span := result.span_to_send) is not None:
                # What a page has missed, or a list has cut off, a second reading of less finds.
                since, until = max(self.since, span[0] - self.margin), min(self.until, span[1] + self.margin + 1)
                # Parts overlap: what they both have must be known again.
                parts = [(since, until)] if scratch.has_nameless else _cut(since, until)
                scratch.read_again(since=since, until=until)
                result = self._compare(scratch, read_at=read_at, parts=parts)
            tables.write(result.differences(), result.totals, now=self.settlements.now())
            if on_compared is not None:
                on_compared(result)
            decisions = result.decisions()
            settlement = None
            if settles:
                settlement = settle(self.settlements, decisions, by=by, settlement_id=settlement_id)
            counts = {kind.value: result.counts[kind] for kind in Kind}
            amounts = None if result.totals.amounts is None else result.totals.amounts.total()
            ledger_amount, list_amount = (None, None) if amounts is None else amounts.texts()
            return {
                "status": OK,
                "warnings": [],
                "table": self.settlements.table,
                "differences_table": tables.differences_table,
                "totals_table": tables.totals_table,
                "operation": self.wanted.operation,
                "resource": self.sides.resource.name,
                "since": tables.range[0],
                "until": tables.range[1],
                "ledger_rows": scratch.rows,
                "list_records": scratch.records,
                "ledger_amount": ledger_amount,
                "list_amount": list_amount,
                "unknown_amounts": 0 if amounts is None else amounts.unknown,
                **counts,  # type: ignore[typeddict-item]
                "reasons": result.reasons.texts(),
                "proposed": dict(Counter(one.decision.value for one in decisions)),
                "free_there": result.free_there,
                "not_sent_because": list(result.blockers),
                "settlement": settlement,
                "differences_query": tables.query,
                "seconds": time.monotonic() - began,
            }

    def _compare(self, scratch: Scratch, *, read_at: ReadingTime, parts: Iterable[tuple[int, int]]) -> ComparisonResult:
        """Read both sides, the list first: each of its records has an entry in the ledger by then.

        :param read_at: when the first reading began: what was sent later need not be in all of them.
        :param parts: the time ranges that the list is read for.
        """
        for since, until in parts:
            records = self.read_list(since, until)
            for item in records:
                scratch.add_record(*self.sides.record(item))
            read_at.note(records.server_time)
        scratch.end_reading()
        for scanned in self.settlements.scan(self.wanted):
            scratch.add_row(*self.sides.row(scanned))
        comparison = Comparison(
            range=Range(
                since=self.since,
                until=self.until,
                read_at=read_at.earliest,
                listed_before=None if self.listed_after is None else read_at.earliest - self.listed_after,
                kept_from=None if self.retention is None else read_at.latest - self.retention,
                margin=self.margin,
            ),
            match=tuple(self.sides.match),
            compare=tuple(self.sides.compare),
            salt=self.sides.salt,
            by_key=any(field.column == "idempotency_key" for field in self.sides.match.values()),
        )
        result = ComparisonResult(
            scratch=scratch,
            comparison=comparison,
            operation=self.wanted.operation,
            needs_evidence=self.retention is None,
            amount=None if self.sides.amount is None else self.sides.amount[0],
        )
        result.count(max_sent=self.max_sent)
        return result


def _cut(since: int, until: int) -> list[tuple[int, int]]:
    """Return the parts of a time range."""
    ends = [since + (until - since) * number // _PARTS for number in range(_PARTS + 1)]
    return [(start, end) for start, end in pairwise(ends) if start < end]


class ComparisonResult:
    """What a comparison has found, counted; what differs is kept on disk.

    :param needs_evidence: whether the list must show that it reaches back to a row.
    :param amount: the list's name for the amount; None: amounts are not summed.
    """

    def __init__(
        self, *, scratch: Scratch, comparison: Comparison, operation: str, needs_evidence: bool, amount: str | None = None
    ) -> None:
        self._scratch, self._comparison = scratch, comparison
        self._needs_evidence = needs_evidence
        self._oldest = scratch.oldest
        self.counts: Counter[Kind] = Counter()
        self.proposed: Counter[str] = Counter()
        self._amount = amount
        self.totals = Totals(operation, amounts=None if amount is None else AmountTotals())
        self.reasons = Reasons()
        self.blockers: list[str] = []
        self.span_to_send: tuple[int, int] | None = None
        """From when to when the rows were sent that would be sent again, in milliseconds since 1970."""
        self.free_there = 0
        """Rows that are free, and will be committed, because the list has them."""
        self._apart = 0
        self._doubtful_match: str | None = None

    def count(self, *, max_sent: int | str) -> None:
        """Count all findings, and find out whether the list proves that a row was not carried out.

        :raises HashSecretError: hashes of the ledger cannot be compared.
        """
        previous: str | None = None
        other_secret = 0
        self._scratch.forget_findings()
        for finding in self._findings():
            if (row := finding.row) is not None and row.has_other_secret:
                other_secret += self._comparison.range.holds(row.at)
            key = None if finding.row is None else finding.row.key
            is_new = key is None or key != previous
            previous = key
            self.totals.add(finding, counts_row=is_new)
            if is_new and not (finding.kind is Kind.AMBIGUOUS and finding.row is None):
                self.counts[finding.kind] += 1
                if finding.kind not in AGREED:
                    self.reasons.add(finding)
            if finding.proposal is not None:
                self.proposed[finding.proposal] += 1
                self.free_there += finding.kind is Kind.UNEXPECTED_THERE
            self._note_times(finding)
            if finding.kind not in AGREED:
                self._scratch.add_finding(finding)
        if other_secret:
            raise HashSecretError(
                f"{other_secret:,} rows keep hashes that were made with another secret than that of mask_conn_id=, or without "
                "one, so that no record would be theirs. Nothing was compared, written or settled: name the connection that the "
                "task which sends the rows names, with its former password; or reconcile a range that begins after the change"
            )
        if self.counts[Kind.NOT_COMPARED] and not self._comparison.by_key:
            self._doubtful_match = "the record may be that of a row which cannot be compared"
        if self.proposed[Decision.SEND]:
            self.blockers = list(self._find_blockers(max_sent=max_sent))

    def _note_times(self, finding: Finding) -> None:
        row, record = finding.row, finding.record
        if row is None:
            return
        if record is not None:
            self._apart += finding.kind in _PAIRED and row.is_apart(record, margin=self._comparison.range.margin)
        elif finding.proposal == Decision.SEND and row.at is not None and row.at_latest is not None:
            since, until = self.span_to_send or (row.at, row.at_latest)
            self.span_to_send = min(since, row.at), max(until, row.at_latest)

    def _find_blockers(self, *, max_sent: int | str) -> Iterator[str]:
        """Yield why the list does not prove that rows were not carried out."""
        if missing := self.counts[Kind.ONLY_OURS]:
            yield f"the list lacks {missing:,} rows that were carried out, so it may lack others that were"
        if not self.counts[Kind.EQUAL]:
            yield "the list has none of the rows that were carried out: nothing shows that it is the right one, and whole"
        if self._apart:
            yield (
                f"the times of {self._apart:,} records lie further than margin= from those of their rows, so that others may lie "
                "outside of the range: see time_of= and margin="
            )
        nameless = list(map(self._comparison.range.holds, (one.at for one in self._scratch.unmatched_records())))
        if nameless:
            yield f"{len(nameless):,} records have no value for match=, and may be of these rows"
        if not self._comparison.by_key and (theirs := self.counts[Kind.ONLY_THEIRS] - sum(nameless)) > 0:
            yield f"{theirs:,} records are not in the ledger, and may be of these rows: match= does not name the idempotency key"
        if vanished := self._scratch.vanished():
            yield f"the list has lost {vanished:,} records while it was read twice"
        sent = self.proposed[Decision.SEND]
        budget = ErrorBudget(name="max_sent", most=max_sent)
        if budget.exceeded_by(sent, of=self._scratch.rows):
            yield f"{sent:,} rows would be ({budget})"

    def _findings(self) -> Iterator[Finding]:
        if self._amount is None:
            return self._compared()
        return (name_faults(finding, member=self._amount) for finding in self._compared())

    def _compared(self) -> Iterator[Finding]:
        for rows, records in self._scratch.groups():
            yield from map(self._with_evidence, self._comparison.classify(rows, records))
        yield from map(self._comparison.not_compared, self._scratch.unmatched_rows())
        for record in self._scratch.unmatched_records():
            yield self._comparison.only_theirs(record, reason="it has no value for match=")

    def _with_evidence(self, finding: Finding) -> Finding:
        row = finding.row
        if finding.proposal != Decision.SEND or not self._needs_evidence or row is None or row.at is None:
            return finding
        if self._oldest is not None and self._oldest <= row.at:
            return finding
        reason = "the list does not have it, and shows nothing older: it may have forgotten it; see retention="
        return msgspec.structs.replace(finding, proposal=None, reason=reason)

    def _decided(self, finding: Finding) -> Finding:
        """Return a finding without a proposal that must not be carried out."""
        if finding.proposal == Decision.SEND and self.blockers:
            return msgspec.structs.replace(finding, proposal=None, reason=f"the list does not have it; {self.blockers[0]}")
        if finding.record is not None and finding.proposal is not None and self._doubtful_match is not None:
            return msgspec.structs.replace(finding, proposal=None, reason=self._doubtful_match)
        return finding

    def differences(self) -> Iterator[Finding]:
        """Yield what the table lists."""
        return map(self._decided, self._scratch.findings())

    def decisions(self) -> list[RowDecision]:
        """Return what a settlement is to carry out."""
        found = []
        for finding in self.differences():
            row, record = finding.row, finding.record
            if finding.proposal is None or row is None:
                continue
            decision = RowDecision(
                key=row.key, decision=Decision(finding.proposal), version=row.version, note=f"reconciliation: {finding.reason}"
            )
            if record is not None:
                decision = replace(
                    decision,
                    api_decision=record.decision,
                    reservation_id=record.reservation_id,
                    trace_id=record.trace_id,
                )
            found.append(decision)
        return found
