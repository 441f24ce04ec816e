# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What may be done with a row that has an entry: the whole table of cases."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from ledgers import PARK, REPLAY_PARKED, REPLAY_REJECTED, RESEND, make_worker

from limio_limitrail.ledger.model import Entry, OnUnknown, Outcome, State
from limio_limitrail.ledger.rules import Move, Policy, is_alive, next_move

NOW = 1_000_000
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


def expected(state, who, *, alive, same_body, policy) -> Move:
    doubt = Move.TAKE if policy.on_unknown is OnUnknown.RESEND and same_body else Move.PARK
    match state:
        case State.COMMITTED | State.DENIED:
            return Move.LEAVE
        case State.REJECTED | State.PARKED:
            return Move.TAKE if policy.replay is state and who in STRANGERS else Move.LEAVE
        case State.UNKNOWN:
            return doubt
        case State.SENDING:
            if who == "me":
                return Move.TAKE
            return Move.WAIT if alive and who != "my earlier try" else doubt


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", POLICIES)
def test_every_case(state, name):
    for who, alive, same_body in product(OTHERS, (True, False), (True, False)):
        entry = Entry(
            state=state,
            worker=OTHERS[who],
            lease_until=NOW + 1 if alive else NOW,
            digest="d" if same_body else "e",
            attempts=1,
            outcome=Outcome(state=state),
        )
        move = next_move(entry, digest="d", me=ME, now=NOW, policy=POLICIES[name])
        assert move is expected(state, who, alive=alive, same_body=same_body, policy=POLICIES[name]), (who, alive, same_body)


def test_a_worker_lives_until_its_lease_ends_or_its_next_try_begins():
    entry = Entry(state=State.SENDING, worker=ME, lease_until=NOW, digest="", attempts=1, outcome=Outcome(state=State.SENDING))
    stranger = make_worker("other")
    assert is_alive(entry, me=stranger, now=NOW - 1)
    assert not is_alive(entry, me=stranger, now=NOW)
    assert not is_alive(entry, me=replace(ME, try_number=3), now=NOW - 1)
    assert is_alive(entry, me=replace(ME, try_number=1), now=NOW - 1)


def test_no_two_workers_have_one_mark():
    assert len({make_worker().claim_id for _ in range(1000)}) == 1000
