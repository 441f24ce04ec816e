# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Any decisions upon any rows, with and without versions, again and by several people, between claims and answers: as a small
model has it. No row that the API has carried out is ever sent because of a decision upon what is no longer so."""

from __future__ import annotations

import json
import tempfile
from contextlib import closing, suppress
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from limio_limitrail.usage.ledger.model import Outcome
from limio_limitrail.usage.ledger.settlement import Decision, RowDecision, SettlementError, Settlements
from limio_limitrail.usage.ledger.states import State
from tests.support.databases import make_database
from tests.support.ledgers import PARK, FailingDatabase, make_ledger, make_rows, make_worker
from tests.support.settlements import columns
from tests.support.strategies import examples

ROWS = make_rows(4)
KEYS = [row.key for row in ROWS]
WORDS = [Decision.SEND, Decision.SEND, *(one for one in Decision if one is not Decision.ACCEPT)]
LEADS_TO = {"committed": "committed", "denied": "denied", "send": "free", "give_up": "given_up"}
FATES = [State.COMMITTED, State.DENIED, State.REJECTED, State.PARKED, State.UNKNOWN]

decisions = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(WORDS), st.sampled_from(["now", "seen", "none"])), min_size=2, max_size=6
)
settling = st.tuples(st.just("settle"), st.sampled_from(["ada", "bob"]), decisions)
sending = st.tuples(st.just("send"), st.lists(st.sampled_from([*FATES, State.PARKED, None]), min_size=4, max_size=4))
steps = st.one_of(settling, settling, sending, st.tuples(st.just("again")), st.tuples(st.just("look")))


class Model:
    """What the ledger must hold: states, and of each row the last settlement as decision, version and id."""

    def __init__(self) -> None:
        self.states = dict.fromkeys(KEYS, "parked")
        self.last: dict[str, tuple[str, str, str]] = {}

    def settle(self, wanted, versions, *, number):
        """Return the counts, or None where the decisions do not fit; versions are the rows' at this moment."""
        counts = dict.fromkeys(("settled", "already", "left", "stale", "contradicted"), 0)
        changes, fits = {}, True
        for one in wanted:
            state, last = self.states[one.key], self.last.get(one.key)
            is_same = (
                last is not None
                and last[0] == one.decision
                and (last[2] == number if one.version is None else last[1] == one.version)
            )
            if one.decision is Decision.LEAVE:
                counts["left"] += 1
            elif is_same or state == LEADS_TO[one.decision]:
                counts["already"] += 1
            elif one.version is not None and one.version != versions[one.key]:
                counts["contradicted" if last is not None and last[1] == one.version else "stale"] += 1
            elif state in ("committed", "denied"):
                fits = False
            else:
                counts["settled"] += 1
                changes[one.key] = (LEADS_TO[one.decision], (one.decision.value, versions[one.key], number))
        if not fits:
            return None
        for key, (state, last) in changes.items():
            self.states[key], self.last[key] = state, last
        return counts


def current(settlements):
    """Return the versions of all rows, those too that are not listed."""
    from limio_limitrail.usage.ledger.open_rows import ledger_row, read_rows

    with settlements.database.reading() as session:
        rows = read_rows(settlements._statements(session), KEYS, changes_table="changes")
    return {key: ledger_row(row).version for key, row in rows.items()}


@settings(max_examples=examples(300))
@given(plan=st.lists(steps, min_size=5, max_size=12))
def test_any_decisions_upon_any_rows(plan):
    with tempfile.TemporaryDirectory() as folder:
        database = make_database("sqlite", folder=Path(folder))
        with closing(FailingDatabase(database.hook())) as held:
            ledger = make_ledger(held, make_worker("first"))
            ledger.prepare()
            ledger.claim(ROWS, policy=PARK)
            ledger.record({key: Outcome(state=State.PARKED) for key in KEYS})
            settlements = Settlements(database=held, table="ledger", changes_table="changes")
            run(plan, settlements, database, held)


def run(plan, settlements, database, held):
    model, seen, done = Model(), current(settlements), []
    for number, (step, *how) in enumerate(plan):
        match step:
            case "look":
                seen = current(settlements)
            case "settle":
                by, wanted = how
                now = current(settlements)
                of = {"now": now, "seen": seen, "none": dict.fromkeys(KEYS)}
                unique = {
                    KEYS[row]: RowDecision(key=KEYS[row], decision=word, version=of[version][KEYS[row]])
                    for row, word, version in wanted
                }
                done.append((list(unique.values()), by, f"run-{number}"))
                settle(settlements, model, *done[-1])
            case "again" if done:
                settle(settlements, model, *done[-1])
            case "send":
                # A task that has all rows: it claims those that are free, and no others.
                worker = make_ledger(held, make_worker(f"run-{number}"))
                granted = [claim for claim in worker.claim(ROWS, policy=PARK) if claim.granted]
                assert {claim.row.key for claim in granted} == {key for key, state in model.states.items() if state == "free"}
                fates = dict(zip(KEYS, how[0], strict=True))
                # Without a fate, it was not sent, and is released.
                worker.release([claim for claim in granted if fates[claim.row.key] is None])
                answered = {claim.row.key: fates[claim.row.key] for claim in granted if fates[claim.row.key] is not None}
                worker.record({key: Outcome(state=state) for key, state in answered.items()})
                model.states |= {key: state.value for key, state in answered.items()}
                if any(state is State.UNKNOWN for state in answered.values()):
                    parking = make_ledger(held, make_worker(f"later-{number}"))
                    parking.release(parking.claim(ROWS, policy=PARK))
                    model.states |= {key: "parked" for key, state in model.states.items() if state == "unknown"}
        found = columns(database, "state", "settlement", "in_doubt_since")
        assert {key: state for key, (state, _, _) in found.items()} == model.states
        for key, (state, text, since) in found.items():
            assert (text is None) == (key not in model.last)
            if text is not None:
                record = json.loads(text)
                assert (record["decision"], record["version"], record["id"]) == model.last[key]
            assert state != "free" or since is None


def settle(settlements, model, wanted, by, number):
    expected = model.settle(wanted, current(settlements), number=number)
    found = None
    with suppress(SettlementError):
        result = settlements.settle(wanted, by=by, settlement_id=number)
        found = {
            "settled": result.count,
            "already": result.already,
            "left": result.left,
            "stale": result.stale,
            "contradicted": result.contradicted,
        }
    assert found == expected
