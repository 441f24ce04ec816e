# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What may be done with a row that has an entry: the whole table of cases."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import pytest
from msgspec import structs

from limio_limitrail.usage.ledger.model import Entry, Outcome
from limio_limitrail.usage.ledger.rules import (
    Action,
    Policy,
    is_alive,
    may_be_done,
    next_action,
    parking_reason,
    replay_refusal,
    resolve,
    settled_under_another_key,
)
from limio_limitrail.usage.ledger.states import OnUnknown, State
from tests.support.ledgers import PARK, REPLAY_PARKED, REPLAY_REJECTED, RESEND, make_worker

NOW = 361_000_000
ME = make_worker("mine", attempt=2)
OTHERS = {
    "me": ME,
    "my earlier try": make_worker("mine", attempt=1),
    "my later try": make_worker("mine", attempt=3),
    "another process of my try": make_worker("mine", attempt=2),
    "another run": make_worker("other", attempt=1),
    "another task": make_worker("mine", attempt=1, task="other"),
    "another dag": make_worker("mine", attempt=1, dag="other"),
    "another mapped copy": make_worker("mine", attempt=1, map_index=4),
}
STRANGERS = {"another run", "another task", "another dag", "another mapped copy"}
POLICIES = {
    "park": PARK,
    "resend": RESEND,
    "replay parked": REPLAY_PARKED,
    "replay rejected": REPLAY_REJECTED,
    "resend, replay parked": Policy(on_unknown=OnUnknown.RESEND, replay=State.PARKED),
}
HOUR = 3_600_000
AGES = {
    "fresh": (0, True),
    "19 h 59": (20 * HOUR - 60_000, True),
    "20 h": (20 * HOUR, True),
    "20 h and a moment": (20 * HOUR + 1, False),
    "not known": (NOW, False),
    "a little in the future": (-60_000, True),
    "far in the future": (-60_001, False),
}
"""How long a row has been in doubt, and whether it may be sent again."""


def entry_of(state, **more) -> Entry:
    usual = {
        "worker": OTHERS["another run"], "lease_until": NOW, "digest": "d", "attempts": 1, "in_doubt_since": None
    }  # fmt: skip
    return Entry(state=state, outcome=Outcome(state=state), **{**usual, **more})


def expected(state, who, *, alive, same_body, young, policy) -> Action:
    doubt = Action.CLAIM if policy.on_unknown is OnUnknown.RESEND and same_body and young else Action.PARK
    match state:
        case State.COMMITTED | State.DENIED | State.GIVEN_UP:
            return Action.KEEP
        case State.FREE:
            return Action.CLAIM
        case State.REJECTED | State.PARKED:
            return Action.CLAIM if policy.replay is state and who in STRANGERS else Action.KEEP
        case State.UNKNOWN:
            return doubt
        case State.SENDING:
            if who == "me":
                return Action.CLAIM
            return Action.WAIT if alive and who != "my earlier try" else doubt


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", POLICIES)
def test_every_case(state, name):
    for who, alive, same_body, (age, young) in product(OTHERS, (True, False), (True, False), AGES.values()):
        entry = entry_of(
            state,
            worker=OTHERS[who],
            lease_until=NOW + 1 if alive else NOW,
            digest="d" if same_body else "e",
            in_doubt_since=None if state is State.REJECTED else NOW - age,
        )
        action = next_action(entry, digest="d", me=ME, now=NOW, policy=POLICIES[name])
        case = {"alive": alive, "same_body": same_body, "young": young}
        assert action is expected(state, who, policy=POLICIES[name], **case), (who, case)


@pytest.mark.parametrize(
    ("within", "age", "action"),
    [(0, 0, "claim"), (0, 1, "park"), (60, 60_000, "claim"), (60, 60_001, "park"), (10**9, 10**11, "claim")],
)
def test_how_long_a_row_may_be_sent_again_is_the_users_choice(within, age, action):
    policy = Policy(on_unknown=OnUnknown.RESEND, resend_within=within)
    now = 10**12
    assert (
        next_action(entry_of(State.UNKNOWN, in_doubt_since=now - age), digest="d", me=ME, now=now, policy=policy).value == action
    )


KEPT = {
    "never in doubt": ({}, True),
    "rejected twice": ({"attempts": 2}, True),
    "its doubt is not cleared": ({"in_doubt_since": NOW}, False),
    "in doubt since nobody knows when": ({"in_doubt_since": 0}, False),
}


@pytest.mark.parametrize("name", KEPT)
def test_rejected_rows_that_were_in_doubt_are_not_replayed(name):
    more, taken = KEPT[name]
    entry = entry_of(State.REJECTED, **more)
    action = next_action(entry, digest="other", me=ME, now=NOW, policy=REPLAY_REJECTED)
    assert action is (Action.CLAIM if taken else Action.KEEP)
    assert (replay_refusal(entry, policy=REPLAY_REJECTED) is None) == taken
    assert replay_refusal(entry, policy=PARK) is None


@pytest.mark.parametrize(
    ("parked_at", "asked", "taken"),
    [(NOW - 1, NOW, True), (NOW, NOW, True), (NOW + 1, NOW, False), (None, NOW, True), (NOW, None, True)],
)
def test_rows_that_were_parked_after_the_run_was_asked_for_are_not_replayed(parked_at, asked, taken):
    policy = replace(REPLAY_PARKED, requested_at=asked)
    entry = entry_of(State.PARKED, in_doubt_since=1, finished_at=parked_at)
    assert (next_action(entry, digest="d", me=ME, now=NOW, policy=policy) is Action.CLAIM) == taken


def test_an_outcome_by_what_was_known_before():
    for state, in_doubt in product(State, (True, False)):
        outcome = Outcome(state=state, http_status=409, error_code="KEY_REUSED", trace_id="t", detail="already exists")
        found = resolve(outcome, in_doubt=in_doubt)
        if state is State.REJECTED and in_doubt:
            assert found == structs.replace(
                outcome, state=State.PARKED, detail="already exists; an earlier request of this row may have been carried out"
            )
            assert resolve(found, in_doubt=True) == found
        else:
            assert found is outcome


@pytest.mark.parametrize("state", State)
def test_which_rows_may_have_been_carried_out(state):
    assert may_be_done(entry_of(state)) == (state in (State.SENDING, State.UNKNOWN, State.PARKED))


@pytest.mark.parametrize(
    ("more", "policy", "says"),
    [
        ({"digest": "e"}, RESEND, "it was sent with another body"),
        ({"state": State.SENDING}, PARK, "the worker that sent it ended without writing down an answer$"),
        ({"state": State.SENDING, "said": "no account"}, PARK, "without writing down an answer; before that: no account$"),
        ({"said": "no answer"}, PARK, "^no answer$"),
        ({}, PARK, "^no answer was written down$"),
        ({"said": "no answer", "in_doubt_since": 1_700_000_000_000}, RESEND,
         r"^no answer; it is in doubt since 2023-11-14 22:13:20 UTC, for 62\.5 h: .* \(resend_within is 20\.0 h\)$"),
        ({"in_doubt_since": 0}, RESEND, "since when it is in doubt is not known"),
        ({"in_doubt_since": 1_800_000_000_000}, RESEND, "since 2027-01-15 08:00:00 UTC, which is in the future: a clock"),
        ({"in_doubt_since": 1 << 60}, RESEND, "which is in the future"),
    ],
)  # fmt: skip
def test_what_is_said_of_a_row_that_is_parked(more, policy, says):
    state, said = more.pop("state", State.UNKNOWN), more.pop("said", None)
    entry = replace(entry_of(state, **more), outcome=Outcome(state=state, detail=said))
    now = 1_700_000_000_000 + int(62.5 * HOUR)
    assert re.search(says, parking_reason(entry, digest="d", now=now, policy=policy))


def test_a_worker_lives_until_its_lease_ends_or_its_next_try_begins():
    entry = Entry(state=State.SENDING, worker=ME, lease_until=NOW, digest="", attempts=1, outcome=Outcome(state=State.SENDING))
    stranger = make_worker("other")
    assert is_alive(entry, me=stranger, now=NOW - 1)
    assert not is_alive(entry, me=stranger, now=NOW)
    assert not is_alive(entry, me=replace(ME, try_number=3), now=NOW - 1)
    assert is_alive(entry, me=replace(ME, try_number=1), now=NOW - 1)


def test_no_two_workers_have_one_mark():
    assert len({make_worker().claim_id for _ in range(1000)}) == 1000


@pytest.mark.parametrize("state", [one for one in State if one is not State.PARKED])
def test_an_entry_under_another_key_never_lets_a_row_be_forgotten(state):
    """A row that is free under another key is not sent under this one, and is no success."""
    found = settled_under_another_key(entry_of(state))
    becomes = State.PARKED if state in (State.SENDING, State.UNKNOWN, State.FREE) else state
    assert (found.state, found.outcome.state) == (becomes, becomes)
    assert ("free to be sent" in (found.outcome.detail or "")) is (state is State.FREE)
