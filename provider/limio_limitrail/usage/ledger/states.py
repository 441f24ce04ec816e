# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The states of a row, what becomes of one in doubt, and the errors of a usage task: what its parameters are made of."""

from __future__ import annotations

from enum import StrEnum

from limio_limitrail.troubleshooting import ExplainedError

RESEND_WITHIN = 20 * 3600.0
"""Seconds for which an API is assumed to remember a key: many keep keys for a day."""


class PermanentUsageError(ExplainedError):
    """An error of a usage task that no retry can mend."""

    permanent = True


class LedgerError(PermanentUsageError):
    """The ledger cannot be used as it is. The message says why and what to do; nothing was sent without an entry."""


class StoppedError(ExplainedError):
    """The task was told to stop. Outcomes of requests that had an answer are written."""


class State(StrEnum):
    """The state of a row."""

    SENDING = "sending"
    """A worker has claimed it: its request may have been sent."""
    COMMITTED = "committed"
    """The API has carried it out."""
    DENIED = "denied"
    """The API has decided against it: a decision, not an error."""
    REJECTED = "rejected"
    """The API has refused the request, and will refuse it again as it is."""
    UNKNOWN = "unknown"
    """Whether the API has carried it out is not known; it is sent again under the same key."""
    PARKED = "parked"
    """Whether the API has carried it out is not known; it waits for a person."""
    GIVEN_UP = "given_up"
    """A person has decided that it will not be sent. Only a settlement sets this state."""
    FREE = "free"
    """It has certainly not been carried out: the next task that has it sends it. Only a settlement sets this state."""


IN_DOUBT = frozenset({State.SENDING, State.UNKNOWN, State.PARKED})
"""States of rows that may have been carried out."""


class Keep(StrEnum):
    """How the ledger keeps a member of a request's body."""

    PLAIN = "plain"
    HASH = "hash"


class OnUnknown(StrEnum):
    """What becomes of a row when nobody knows whether the API has carried it out."""

    RESEND = "resend"
    """Send it again under the same key: right where the API honours idempotency keys, and a double commit where it does not."""
    PARK = "park"
    """Leave it to a person."""

    @property
    def in_doubt(self) -> State:
        """The state of such a row."""
        return State.UNKNOWN if self is OnUnknown.RESEND else State.PARKED
