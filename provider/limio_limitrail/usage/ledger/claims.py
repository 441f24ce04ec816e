# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A claim: what the ledger says to a worker that wants to send a row."""

from __future__ import annotations

from dataclasses import dataclass

from limio_limitrail.usage.ledger.model import Entry, UsageRow
from limio_limitrail.usage.ledger.rules import may_be_done
from limio_limitrail.usage.ledger.states import State


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The ledger's answer to a worker that wants to send a row.

    :param granted: whether this worker, and no other, may send it now.
    :param entry: its entry before the claim, if granted, else its entry now; None if it was new.
    :param left: whether it would have been granted but for the policy's limit.
    """

    row: UsageRow
    granted: bool
    entry: Entry | None
    left: bool = False

    @property
    def in_doubt(self) -> bool:
        """True if an earlier request of the row may have been carried out."""
        return self.entry is not None and may_be_done(self.entry)

    @property
    def waits(self) -> bool:
        """True if another worker is sending it."""
        return not (self.granted or self.left) and self.entry is not None and self.entry.state is State.SENDING
