# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a worker may do with a row that the ledger knows: pure functions, without a database."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum

import msgspec

from limio_limitrail.usage.ledger.model import Entry, Outcome, Worker
from limio_limitrail.usage.ledger.states import IN_DOUBT, RESEND_WITHIN, OnUnknown, State

_CLOCKS_APART = 60_000
"""Milliseconds by which the clocks of two machines may differ."""

_NO_ANSWER_KEPT = "the worker that sent it ended without writing down an answer"
_CHANGED = "it was sent with another body, and whether that was carried out is not known"
_REFUSED_IN_DOUBT = "an earlier request of this row may have been carried out"


class Action(Enum):
    """What to do with a row that has an entry."""

    KEEP = "keep"
    """Its outcome is final."""
    CLAIM = "claim"
    """Claim it and send it."""
    PARK = "park"
    """Nobody knows whether it was carried out, and it may not be sent again."""
    WAIT = "wait"
    """Another worker is sending it."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the user wants done with rows that have an entry.

    :param replay: the state whose rows are sent again, once a Dag run; none for ordinary runs.
    :param resend_within: seconds after its first request in which a row in doubt may be sent again under its key.
    :param requested_at: when the run was requested, in milliseconds since 1970: rows that were parked later are not replayed,
        since nobody can have looked them up. None if unknown.
    :param limit: how many rows the task may send in a Dag run, all tries and mapped copies together; None: any number.
    """

    on_unknown: OnUnknown
    replay: State | None = None
    resend_within: float = RESEND_WITHIN
    requested_at: int | None = None
    limit: int | None = None


def next_action(entry: Entry, *, digest: str, me: Worker, now: int, policy: Policy, alive: bool | None = None) -> Action:
    """Return what to do with a row; `alive` is whether the worker that has claimed it may still send it, None: by its lease."""
    match entry.state:
        case State.COMMITTED | State.DENIED | State.GIVEN_UP:
            return Action.KEEP
        case State.FREE:
            return Action.CLAIM
        case State.REJECTED | State.PARKED:
            # A retry of the run that replayed a row must not replay it again: one more request was asked for.
            again = (
                entry.state is policy.replay
                and not entry.worker.same_task_run(me)
                and replay_refusal(entry, policy=policy) is None
            )
            return Action.CLAIM if again else Action.KEEP
        case State.UNKNOWN:
            return _uncertain(entry, digest=digest, now=now, policy=policy)
        case State.SENDING:
            if entry.worker.claim_id == me.claim_id:
                return Action.CLAIM
            if is_alive(entry, me=me, now=now) if alive is None else alive:
                return Action.WAIT
            return _uncertain(entry, digest=digest, now=now, policy=policy)


def is_alive(entry: Entry, *, me: Worker, now: int) -> bool:
    """Return whether the worker that has claimed a row may still send it, by its lease."""
    return not is_superseded(entry, me=me) and now < entry.lease_until


def is_superseded(entry: Entry, *, me: Worker) -> bool:
    """Return whether the worker that has claimed a row is an earlier try of the same task.

    Airflow ends a try before it begins the next, unless only the process is gone that watched it: then this one parks what the
    older one is sending, or sends it under the same key.
    """
    return entry.worker.same_task_run(me) and entry.worker.try_number < me.try_number


def may_be_done(entry: Entry) -> bool:
    """Return whether a row may have been carried out, by its entry."""
    return entry.state in IN_DOUBT or (entry.state is State.REJECTED and entry.in_doubt_since is not None)


def replay_refusal(entry: Entry, *, policy: Policy) -> str | None:
    """Return why a replay does not send a row in the state that it asks for; None if it sends it."""
    if entry.state is not policy.replay:
        return None
    if entry.state is State.REJECTED and may_be_done(entry):
        return "it was in doubt before it was rejected, so that it may have been carried out"
    if entry.state is State.PARKED and policy.requested_at is not None and (entry.finished_at or 0) > policy.requested_at:
        return "it was parked after this run was asked for, so that nobody can have looked it up"
    return None


def resolve(outcome: Outcome, *, in_doubt: bool) -> Outcome:
    """Return the outcome of a row after an answer, by what was known of it before.

    A refusal settles a row only if it is certain that no earlier request was carried out: an API that knows the key refuses the
    row as well. Whatever else an answer says stands.

    :param in_doubt: whether an earlier request of the row may have been carried out.
    """
    if outcome.state is not State.REJECTED or not in_doubt:
        return outcome
    prefix = f"{outcome.detail}; " if outcome.detail else ""
    return msgspec.structs.replace(outcome, state=State.PARKED, detail=f"{prefix}{_REFUSED_IN_DOUBT}")


def parking_reason(entry: Entry, *, digest: str, now: int, policy: Policy) -> str:
    """Return why a row in doubt is parked instead of sent."""
    if entry.digest != digest:
        return _CHANGED
    before = entry.outcome.detail
    if entry.state is State.SENDING:
        # What the entry says of earlier requests is not about the one that broke off.
        before = _NO_ANSWER_KEPT if before is None else f"{_NO_ANSWER_KEPT}; before that: {before}"
    before = before or "no answer was written down"
    if policy.on_unknown is not OnUnknown.RESEND:
        return before
    if not entry.in_doubt_since:
        why = "since when it is in doubt is not known"
    elif now < entry.in_doubt_since:
        why = f"it is in doubt since {_utc(entry.in_doubt_since)}, which is in the future: a clock was wrong"
    else:
        age = _span((now - entry.in_doubt_since) / 1000)
        why = f"it is in doubt since {_utc(entry.in_doubt_since)}, for {age}: the API may not know its key any more"
    return f"{before}; {why} (resend_within is {_span(policy.resend_within)})"


def _uncertain(entry: Entry, *, digest: str, now: int, policy: Policy) -> Action:
    # Under the same key, another body would be taken for the first one: that the first was carried out cannot be told any more.
    if policy.on_unknown is OnUnknown.RESEND and entry.digest == digest and _is_key_remembered(entry, now=now, policy=policy):
        return Action.CLAIM
    return Action.PARK


def _is_key_remembered(entry: Entry, *, now: int, policy: Policy) -> bool:
    age = now - (entry.in_doubt_since or 0)
    return -_CLOCKS_APART <= age <= policy.resend_within * 1000


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _utc(milliseconds: int) -> str:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return str(milliseconds)


def settled_under_another_key(entry: Entry) -> Entry:
    """Return what an entry under another key means for a row that is not sent: a doubt stays a doubt."""
    if entry.state not in (State.SENDING, State.UNKNOWN, State.FREE):
        return entry
    doubt = "it is free to be sent" if entry.state is State.FREE else "whether it was carried out is not known"
    detail = f"it stands in the ledger under another key, and {doubt}"
    parked = msgspec.structs.replace(entry.outcome, state=State.PARKED, detail=detail)
    return replace(entry, state=State.PARKED, outcome=parked)
