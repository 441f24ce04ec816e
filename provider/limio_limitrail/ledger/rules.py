# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a worker may do with a row that the ledger knows already: plain rules, without any database."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from limio_limitrail.ledger.model import Entry, OnUnknown, State, Worker


class Move(Enum):
    """What to do with a row that has an entry."""

    LEAVE = "leave"
    """Its outcome stands."""
    TAKE = "take"
    """Claim it and send it."""
    PARK = "park"
    """Nobody knows whether it was carried out, and it may not be sent again."""
    WAIT = "wait"
    """Another worker is sending it."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the user wants done with rows that have an entry.

    :param on_unknown: what becomes of rows whose outcome is not known.
    :param replay: the state whose rows are sent again, once a Dag run; none for ordinary runs.
    """

    on_unknown: OnUnknown
    replay: State | None = None


def next_move(entry: Entry, *, digest: str, me: Worker, now: int, policy: Policy) -> Move:
    """Say what to do with a row.

    :param entry: what the ledger holds of it.
    :param digest: of the body that would be sent.
    :param me: who asks.
    :param now: the ledger's time, in milliseconds since 1970.
    """
    match entry.state:
        case State.COMMITTED | State.DENIED | State.GIVEN_UP:
            return Move.LEAVE
        case State.REJECTED | State.PARKED:
            # A retry of the run that replayed a row must not replay it again: whoever asked for it asked for one more request.
            again = entry.state is policy.replay and not entry.worker.same_task_run(me)
            return Move.TAKE if again else Move.LEAVE
        case State.UNKNOWN:
            return _uncertain(entry, digest=digest, policy=policy)
        case State.SENDING:
            if entry.worker.claim_id == me.claim_id:
                return Move.TAKE
            if is_alive(entry, me=me, now=now):
                return Move.WAIT
            return _uncertain(entry, digest=digest, policy=policy)


def is_alive(entry: Entry, *, me: Worker, now: int) -> bool:
    """Tell whether the worker that has claimed a row may still send it."""
    if entry.worker.same_task_run(me) and entry.worker.try_number < me.try_number:
        # Airflow ends a try before it begins the next, unless only the process is gone that watched it: then this one parks what
        # the older one is sending, or sends it under the same key.
        return False
    return now < entry.lease_until


def _uncertain(entry: Entry, *, digest: str, policy: Policy) -> Move:
    # Under the same key, another body would be taken for the first one: that the first was carried out cannot be told any more.
    if policy.on_unknown is OnUnknown.RESEND and entry.digest == digest:
        return Move.TAKE
    return Move.PARK


def settled_under_another_key(entry: Entry) -> Entry:
    """Return what an entry means for a row that stands there under another key, and is not sent: a doubt stays a doubt."""
    if entry.state not in (State.SENDING, State.UNKNOWN):
        return entry
    detail = "it stands in the ledger under another key, and whether it was carried out is not known"
    return replace(entry, state=State.PARKED, outcome=replace(entry.outcome, state=State.PARKED, detail=detail))
