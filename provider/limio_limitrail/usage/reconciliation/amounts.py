# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Sums of amounts on both sides of a reconciliation: exact, and unknown rather than wrong."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Context, Decimal, Inexact
from typing import Any

import msgspec

from limio_limitrail.usage.ledger.kept_members import MISSING, KeptHash
from limio_limitrail.usage.ledger.row_identity import plain_number
from limio_limitrail.usage.ledger.states import State
from limio_limitrail.usage.reconciliation.model import AGREED, NOT_BILLED, Finding, Kind

_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?\s*")
_MOST_DIGITS = 400
# Wide enough for any sum of numbers that `read_amount` accepts.
_EXACT = Context(prec=2_000, traps=[Inexact])

_NOT_SUMMED = frozenset({Kind.OUTSIDE, Kind.NOT_LISTED_YET, Kind.IN_FLIGHT, Kind.UNCERTAIN_MISSING})
_BECOMES_NOT_COMPARED = frozenset({Kind.EQUAL, Kind.UNCERTAIN_THERE})


def read_amount(value: Any) -> tuple[Decimal | None, bool]:
    """Return an amount, and whether it is something else than a number.

    :param value: a number, or a text with one. Nothing, `MISSING` and a hash are unknown amounts.
    """
    if value is None or value is MISSING or isinstance(value, KeptHash):
        return None, False
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return None, True
        number = Decimal(value.strip())
    elif isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None, True
    else:
        number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite() or abs(number.adjusted()) > _MOST_DIGITS or len(number.as_tuple().digits) > _MOST_DIGITS:
        return None, True
    return number, False


def name_faults(finding: Finding, *, member: str) -> Finding:
    """Return a finding that says which side's amount is no number. Rows that are equal otherwise are not compared then.

    :param member: the list's name for the amount.
    """
    row, record = finding.row, finding.record
    sides = ["the ledger's"] if row is not None and row.has_faulty_amount else []
    sides += ["the list's"] if record is not None and record.has_faulty_amount else []
    if not sides or (finding.kind in AGREED and finding.kind is not Kind.EQUAL):
        return finding
    reason = f"{' and '.join(sides)} {member} is no number"
    if finding.kind in _BECOMES_NOT_COMPARED:
        return msgspec.structs.replace(finding, kind=Kind.NOT_COMPARED, proposal=None, reason=reason)
    return msgspec.structs.replace(finding, reason=f"{finding.reason}; {reason}" if finding.reason else reason)


@dataclass(kw_only=True)
class Amounts:
    """The sums of some rows and records.

    :param unknown: how many amounts are not known. The sum of their side is then not known either.
    """

    ledger: Decimal | None = field(default=Decimal(0))
    listed: Decimal | None = field(default=Decimal(0))
    unknown: int = 0

    def add(self, finding: Finding, *, counts_row: bool) -> None:
        """Add what was carried out, and what the list has of it."""
        row, record = finding.row, finding.record
        is_denied_there = record is not None and record.stands == State.DENIED
        if row is not None and counts_row and not (is_denied_there and row.is_uncertain):
            is_billed = row.in_doubt or row.state not in NOT_BILLED
            self.ledger = self._sum(self.ledger, row.amount if is_billed else Decimal(0))
        if record is not None:
            self.listed = self._sum(self.listed, Decimal(0) if is_denied_there else record.amount)

    def _sum(self, sum_: Decimal | None, amount: Decimal | None) -> Decimal | None:
        self.unknown += amount is None
        return None if sum_ is None or amount is None else _EXACT.add(sum_, amount)

    def texts(self) -> tuple[str | None, str | None]:
        """Return both sums as texts."""
        return _text(self.ledger), _text(self.listed)


class AmountTotals:
    """Sums amounts by day and kind."""

    def __init__(self) -> None:
        self.groups: defaultdict[tuple[str, str], Amounts] = defaultdict(Amounts)

    def add(self, group: tuple[str, str], finding: Finding, *, counts_row: bool) -> None:
        """Add a finding to its group."""
        self.groups[group].add(finding, counts_row=counts_row)

    def total(self) -> Amounts:
        """Return the sums of all that must agree: without what the list cannot tell, and what it shows not to be carried out."""
        found = Amounts()
        for (_, kind), amounts in self.groups.items():
            if kind not in _NOT_SUMMED:
                found.ledger = _plus(found.ledger, amounts.ledger)
                found.listed = _plus(found.listed, amounts.listed)
                found.unknown += amounts.unknown
        return found


def _plus(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return None if one is None or other is None else _EXACT.add(one, other)


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else plain_number(amount)
