# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The types of a reconciliation: a row, a record, and what was found about them."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum

import msgspec

from limio_limitrail.usage.ledger.states import State


class Kind(StrEnum):
    """What was found about a row, a record, or both."""

    EQUAL = "equal"
    """In both, and equal."""
    ABSENT = "absent"
    """Not carried out, and not in the list."""
    DIFFERENT = "different"
    """In both, with members that differ."""
    ONLY_OURS = "only_ours"
    """Carried out by the ledger, and not in the list."""
    ONLY_THEIRS = "only_theirs"
    """In the list, and not in the ledger."""
    TWICE_THERE = "twice_there"
    """One row, and more than one record."""
    UNEXPECTED_THERE = "unexpected_there"
    """In the list, although the ledger says that it was not carried out."""
    AMBIGUOUS = "ambiguous"
    """Several rows have the same values, and there are records with them."""
    UNCERTAIN_THERE = "uncertain_there"
    """Uncertain in the ledger, and in the list."""
    UNCERTAIN_MISSING = "uncertain_missing"
    """Uncertain in the ledger, and not in the list."""
    NOT_COMPARED = "not_compared"
    """A row or a record lacks a value that it is matched or compared by."""
    NOT_LISTED_YET = "not_listed_yet"
    """Not in the list, which need not show it yet."""
    OUTSIDE = "outside"
    """Not in the list, which cannot tell: the row, or the record, lies outside of the range."""
    IN_FLIGHT = "in_flight"
    """A worker is sending it."""


AGREED = frozenset({Kind.EQUAL, Kind.ABSENT, Kind.OUTSIDE, Kind.NOT_LISTED_YET, Kind.IN_FLIGHT})
"""Kinds that are counted, and not listed."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the ledger.

    :param state: as it stands there; it may be mistyped.
    :param matched: the values that it is matched by, in the order of ``match``; None if one is missing.
    :param compared: the values that are compared, by the record's member; those that the ledger lacks are left out.
    :param at: the earliest time that it may have in the list, in milliseconds since 1970; None if unknown.
    :param at_latest: the latest one, likewise.
    :param last_at: when its last request may have been sent at the latest, likewise.
    :param in_doubt: whether it may have been carried out, although its state does not say so.
    :param is_alive: whether a worker may be sending it.
    :param amount: its amount; None if it is not known, or not asked for.
    :param has_faulty_amount: whether there is something else than a number.
    :param has_other_secret: whether a value is a hash that cannot be compared, as another secret has keyed it.
    """

    key: str
    operation: str
    row_key: str
    state: str
    version: str
    attempts: int = 1
    matched: str | None = None
    compared: str = "{}"
    at: int | None = None
    at_latest: int | None = None
    last_at: int | None = None
    in_doubt: bool = False
    is_alive: bool = False
    amount: Decimal | None = None
    has_faulty_amount: bool = False
    has_other_secret: bool = False

    def is_apart(self, record: Record, *, margin: int) -> bool:
        """Return whether a record's time is none that this row can have in the list.

        :param margin: how far both may lie apart, in milliseconds.
        """
        if record.at is None or self.at is None or self.at_latest is None:
            return False
        # When a row was carried out whose doubt is over may be when it was sent the first time, which is no longer known.
        return record.at > self.at_latest + margin or (self.attempts <= 1 and self.is_older(record, margin=margin))

    def is_older(self, record: Record, *, margin: int) -> bool:
        """Return whether a record is older than this row, as for `is_apart`."""
        return record.at is not None and self.at is not None and record.at < self.at - margin

    @property
    def is_uncertain(self) -> bool:
        """Whether nobody knows if it was carried out."""
        return self.in_doubt or self.state not in _CERTAIN


NOT_BILLED = frozenset({State.DENIED, State.REJECTED, State.GIVEN_UP, State.FREE})
"""States of rows that were not carried out, unless they are in doubt."""

_CERTAIN = NOT_BILLED | {State.COMMITTED}


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the list.

    :param id: what identifies it there; None if nothing does.
    :param at: its time, in milliseconds since 1970; None if it has none.
    :param stands: what its decision means: ``committed``, ``denied``, or another text; None if it has none.
    :param amount: as that of a row.
    :param has_faulty_amount: likewise.
    """

    id: str | None = None
    at: int | None = None
    matched: str | None = None
    compared: str = "{}"
    stands: str | None = None
    decision: str | None = None
    reservation_id: str | None = None
    trace_id: str | None = None
    amount: Decimal | None = None
    has_faulty_amount: bool = False


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What was found about a row, a record, or both.

    :param members: the record's members that differ.
    :param reason: why, or what to do; without values.
    :param proposal: what a settlement may make of an uncertain row: ``committed``, ``denied`` or ``send``.
    """

    kind: Kind
    row: Row | None = None
    record: Record | None = None
    members: tuple[str, ...] = ()
    reason: str | None = None
    proposal: str | None = None
