# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How many equal refusals between two successes are too many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.usage.ledger.model import Outcome
from limio_limitrail.usage.ledger.states import State
from limio_limitrail.usage.send_loop import RepeatedRefusals
from tests.support.ledgers import make_row

GOOD = Outcome(state=State.COMMITTED, http_status=200)
DENIED = Outcome(state=State.DENIED, http_status=200)
NO_ANSWER = Outcome(state=State.PARKED, detail="no answer")
UNDECIDED = Outcome(state=State.PARKED, http_status=200)
PAGE = Outcome(state=State.REJECTED, http_status=404, detail="NotFoundError")
SUSPENDED = Outcome(state=State.REJECTED, http_status=409, error_code="SUSPENDED", detail="tenant 5")
BAD_FIELD = Outcome(state=State.REJECTED, http_status=400, field="Amount")


def stops_after(outcomes, *, allowed=0):
    """How many outcomes it takes to stop; none where they all pass."""
    refusals = RepeatedRefusals(max_rejected=allowed, table="ledger", label="usage")
    for number, outcome in enumerate(outcomes, start=1):
        if refusals.add(make_row(number, number=number), outcome) is not None:
            return number
    return None


@pytest.mark.parametrize(
    ("outcomes", "allowed", "after"),
    [
        ([PAGE] * 30, 0, 20),
        ([PAGE] * 30, 1000, 20),
        ([PAGE] * 19, 0, None),
        ([*[PAGE] * 19, GOOD] * 10, 0, None),
        ([*[PAGE] * 19, DENIED] * 10, 0, None),
        ([*[PAGE] * 19, SUSPENDED] * 10, 0, 21),
        ([*[PAGE] * 10, NO_ANSWER, UNDECIDED, *[PAGE] * 30], 0, 22),
        # What each answer says may differ where nobody's words are known.
        ([Outcome(state=State.REJECTED, http_status=404, detail=f"x{chr(97 + n)}") for n in range(26)], 0, 20),
        ([PAGE, Outcome(state=State.REJECTED, http_status=405)] * 50, 0, 39),
        # In doubt before, and refused now because the API knows their keys: nothing is wrong with the other rows.
        ([Outcome(state=State.PARKED, http_status=409, detail="in doubt before")] * 300, 0, None),
        # Refused on this side of the wire.
        ([Outcome(state=State.REJECTED, detail="a path begins with one slash")] * 30, 0, 20),
        ([SUSPENDED] * 200, 0, 100),
        ([SUSPENDED] * 200, 150, 151),
        ([SUSPENDED] * 200, 200, None),
        ([Outcome(state=State.REJECTED, http_status=409, error_code="S", detail=f"tenant {n}") for n in range(200)], 0, 100),
        ([BAD_FIELD, SUSPENDED] * 200, 0, 199),
        ([GOOD, *[SUSPENDED] * 2000], 0, 1001),
        ([GOOD, *[SUSPENDED] * 2000], 1500, 1502),
        ([GOOD, *[PAGE] * 2000], 0, 21),
        ([NO_ANSWER, UNDECIDED] * 500, 0, None),
        ([Outcome(state=State.PARKED, http_status=503)] * 500, 0, None),
    ],
)
def test_when_it_stops(outcomes, allowed, after):
    assert stops_after(outcomes, allowed=allowed) == after


@given(st.lists(st.sampled_from([GOOD, DENIED, NO_ANSWER, UNDECIDED, PAGE, SUSPENDED, BAD_FIELD]), max_size=400))
def test_it_never_stops_without_twenty_equal_refusals_since_a_success(outcomes):
    after = stops_after(outcomes)
    if after is not None:
        seen = outcomes[:after]
        since = [at for at, outcome in enumerate(seen) if outcome in (GOOD, DENIED)]
        assert seen[since[-1] + 1 if since else 0 :].count(seen[-1]) >= 20


def test_the_message_says_what_where_and_what_to_do():
    refusals = RepeatedRefusals(max_rejected=0, table="book.ledger", label="usage.commit")
    errors = [refusals.add(make_row(n, number=n), PAGE) for n in range(1, 21)]
    text = str(errors[-1])
    for said in (
        "usage.commit: 20 rows in a row were refused in the same way, without one success: status 404",
        'for example row 1 {"id": "1"}',
        "a gateway, a proxy or a wrong path",
        "book.ledger",
        "replay='rejected'",
    ):
        assert said in text
