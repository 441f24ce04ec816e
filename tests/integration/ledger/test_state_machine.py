# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Any order of claims, requests of any fate, crashes, tries, runs and replays: no row is carried out twice or forgotten."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from limio_limitrail.usage.ledger.rules import Policy
from limio_limitrail.usage.ledger.states import OnUnknown, State
from tests.support.ledgers import PARK, REPLAY_PARKED, REPLAY_REJECTED, RESEND, make_row
from tests.support.strategies import examples
from tests.support.usage_world import FATES, NAMES, Ways, World

BODIES = (b"{}", b"{}", b"{}", b"[]")
# Most often in doubt, because an answer ends a row's story.
LIKELY = (*FATES, *("answer lost", "undecided", "504 after") * 3, *("refused",) * 2)
fates = st.lists(st.sampled_from(LIKELY), min_size=1, max_size=3)
names = st.just(list(NAMES)) | st.lists(st.sampled_from(NAMES), min_size=1, unique=True)
HOUR = 3600.0
ways = st.sampled_from(
    [
        Ways(),
        Ways(honours=False),
        Ways(window=24 * HOUR),
        *(Ways(refuses=status, window=window) for status in (400, 409, 422) for window in (24 * HOUR, float("inf"))),
        Ways(refuses=409, mapped=True, window=24 * HOUR),
    ]
)
policies = st.sampled_from([PARK, RESEND, RESEND, REPLAY_PARKED, REPLAY_PARKED, REPLAY_REJECTED])


class UsageMachine(RuleBasedStateMachine):
    """Workers of several Dag runs at the same few rows.

    Two runs that both replay parked rows are never retried in turns here: the ledger remembers the last one only.
    """

    @initialize(ways=ways)
    def begin(self, ways: Ways) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self._folder.name), ways=ways)
        self.replaying: str | None = None
        self.runs = 0

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.world.finish()
        finally:
            if hasattr(self, "world"):
                self.world.close()
                self._folder.cleanup()

    def busy(self) -> bool:
        return any(crew.claims for crew in self.world.crews)

    # -- workers come and go -----------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.world.crews) < 3 and self.runs < 9)
    @rule(policy=policies, names=names, body=st.sampled_from(BODIES))
    def another_run(self, policy, names, body) -> None:
        self.start_run(policy, names, body)

    def start_run(self, policy, names, body):
        if self.world.ways.honours and policy.replay is not None:
            policy = Policy(on_unknown=OnUnknown.RESEND, replay=policy.replay)
        if not self.world.ways.honours and policy.on_unknown is OnUnknown.RESEND:
            policy = PARK
        policy = replace(policy, requested_at=int(self.world.now * 1000))
        self.runs += 1
        run = f"run-{self.runs}"
        if policy.replay is State.PARKED:
            self.replaying = run
        return self.world.start(run, names=names, policy=policy, body=body)

    @precondition(lambda self: len(self.world.crews) < 3)
    @rule(
        data=st.data(),
        policy=policies,
        again=st.booleans(),
        plan=st.lists(fates, min_size=len(NAMES), max_size=len(NAMES)),
        ending=st.sampled_from(["end", "end", "die", "write and die", "stay"]),
    )
    def a_whole_try(self, data, policy, again, plan, ending) -> None:
        if again and self.ended_runs():
            run = data.draw(st.sampled_from(self.ended_runs()))
            crew = self.world.start(run, names=list(NAMES), policy=self.world.policies[run], body=b"{}")
        else:
            crew = self.start_run(policy, list(NAMES), b"{}")
        crew.claim_next(len(NAMES))
        for name, fate in zip(list(crew.claims), plan, strict=False):
            if not crew.ended:
                crew.send(name, fate)
        match ending:
            case "end":
                crew.end()
            case "die":
                crew.die()
            case "write and die":
                crew.write()
                crew.die()

    @precondition(lambda self: self.ended_runs())
    @rule(data=st.data(), names=names, body=st.sampled_from(BODIES))
    def next_try(self, data, names, body) -> None:
        run = data.draw(st.sampled_from(self.ended_runs()))
        self.world.start(run, names=names, policy=self.world.policies[run], body=body)

    def ended_runs(self) -> list[str]:
        alive = {crew.run for crew in self.world.crews}
        ended = [run for run, policy in self.world.policies.items() if run not in alive and policy.replay is not State.PARKED]
        # More often than others, because most can go wrong there.
        return ended if self.replaying is None or self.replaying in alive else [*ended, *[self.replaying] * (len(ended) + 1)]

    @precondition(lambda self: self.world.crews)
    @rule(data=st.data())
    def die(self, data) -> None:
        data.draw(st.sampled_from(self.world.crews)).die()

    @precondition(lambda self: self.world.crews)
    @rule(data=st.data(), under_way=st.booleans())
    def end(self, data, under_way) -> None:
        crew = data.draw(st.sampled_from(self.world.crews))
        crew.end(data.draw(st.sampled_from(sorted(crew.claims))) if under_way and crew.claims else None)

    # -- what workers do ---------------------------------------------------------------------------------------------

    @precondition(lambda self: any(crew.todo and not crew.ended for crew in self.world.crews))
    @rule(data=st.data(), count=st.integers(1, 4))
    def claim(self, data, count) -> None:
        data.draw(st.sampled_from([crew for crew in self.world.crews if crew.todo and not crew.ended])).claim_next(count)

    @precondition(lambda self: any(crew.claims and not crew.ended for crew in self.world.crews))
    @rule(data=st.data(), fates=fates, end_after=st.sampled_from([None, None, 1, 2]))
    def send(self, data, fates, end_after) -> None:
        crew = data.draw(st.sampled_from([crew for crew in self.world.crews if crew.claims and not crew.ended]))
        crew.send(data.draw(st.sampled_from(sorted(crew.claims))), fates, end_after=end_after)

    @precondition(lambda self: any(crew.claims and not crew.ended for crew in self.world.crews))
    @rule(data=st.data(), fates=fates)
    def die_while_sending(self, data, fates) -> None:
        crew = data.draw(st.sampled_from([crew for crew in self.world.crews if crew.claims and not crew.ended]))
        crew.send(data.draw(st.sampled_from(sorted(crew.claims))), fates, taken_in=False)
        crew.die()

    @precondition(lambda self: any(crew.answered for crew in self.world.crews))
    @rule(data=st.data())
    def write(self, data) -> None:
        data.draw(st.sampled_from([crew for crew in self.world.crews if crew.answered])).write()

    @precondition(lambda self: self.world.crews)
    @rule(data=st.data())
    def renew(self, data) -> None:
        crew = data.draw(st.sampled_from(self.world.crews))
        crew.ledger.renew(list(crew.claims))

    # -- what happens to them ----------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([10.0, 50.0, 61.0, 19 * HOUR, 25 * HOUR]))
    def time_passes(self, seconds) -> None:
        while seconds >= HOUR and self.world.api.late:
            # No request is on its way for hours.
            self.world.arrive()
        self.world.now += seconds

    @rule(name=st.sampled_from(NAMES))
    def a_person_looks_a_row_up(self, name) -> None:
        if make_row(name).key in self.world.entries():
            self.world.look_up(make_row(name).key)

    @precondition(lambda self: self.world.api.late)
    @rule()
    def a_late_request_arrives(self) -> None:
        self.world.arrive()

    @rule(kind=st.sampled_from(["early", "late", "unconfirmed"]))
    def the_database_fails_next_time(self, kind) -> None:
        self.world.database.failures = [kind]

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.world.check()


def test_no_row_is_carried_out_twice_or_forgotten(no_pauses):
    run_state_machine_as_test(UsageMachine, settings=settings(max_examples=examples(200), stateful_step_count=25))


def test_a_row_whose_answer_was_lost_is_parked_and_replayed_once(tmp_path, no_pauses):
    world = World(tmp_path, honours=False)
    key = make_row("a").key
    first = world.start("run-1", names=["a"], policy=PARK, body=b"{}")
    first.claim_next(1)
    first.send(key, ["answer lost"])
    first.end()
    assert world.entries()[key]["state"] == "parked"
    for run, sent in (("run-1", 1), ("run-2", 2), ("run-2", 2), ("run-3", 3)):
        again = world.start(run, names=["a"], policy=PARK if run == "run-1" else REPLAY_PARKED, body=b"{}")
        again.claim_next(1)
        for claimed in list(again.claims):
            again.send(claimed, ["answer lost"])
        again.end()
        assert world.api.carried_out[key] == sent
    world.close()


@pytest.mark.parametrize("then", ["429", "refused", "401"])
@pytest.mark.parametrize("ends_waiting", [False, True])
def test_a_doubt_is_not_forgotten_for_what_comes_after_it(tmp_path, no_pauses, then, ends_waiting):
    world = World(tmp_path, honours=True)
    key = make_row("a").key
    first = world.start("run-1", names=["a"], policy=RESEND, body=b"{}")
    first.claim_next(1)
    first.send(key, ["answer lost", *[then] * 20], end_after=2 if ends_waiting else None)
    first.end()
    assert world.entries()[key]["state"] == "unknown"
    second = world.start("run-1", names=["a"], policy=RESEND, body=b"{}")
    second.claim_next(1)
    second.send(key, [])
    second.end()
    assert world.entries()[key]["state"] == "committed"
    assert world.api.carried_out[key] == 1
    world.close()


@pytest.mark.parametrize("status", [400, 409, 422])
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("found_by", ["the same try", "the next try", "the next run"])
def test_a_key_that_is_known_and_refused(tmp_path, no_pauses, status, mapped, found_by):
    world = World(tmp_path, ways=Ways(refuses=status, mapped=mapped))
    key = make_row("a").key
    crew = world.start("run-1", names=["a"], policy=RESEND, body=b"{}")
    crew.claim_next(1)
    crew.send(key, ["answer lost"], end_after=None if found_by == "the same try" else 1)
    crew.end()
    if found_by != "the same try":
        assert world.entries()[key]["state"] == "unknown"
        crew = world.start("run-1" if found_by == "the next try" else "run-2", names=["a"], policy=RESEND, body=b"{}")
        crew.claim_next(1)
        crew.send(key, [])
        crew.end()
    entry = world.entries()[key]
    assert entry["state"] == ("committed" if mapped else "parked")
    assert (entry["http_status"], entry["error_code"]) == (status, "KEY_KNOWN")
    assert "the key is known" in entry["detail"]
    replay = world.start("run-3", names=["a"], policy=REPLAY_REJECTED, body=b"{}")
    assert replay.todo == []
    assert world.api.carried_out[key] == 1
    world.check()
    world.close()


def test_a_row_that_a_person_has_looked_up_in_vain_is_sent_once_more(tmp_path, no_pauses):
    world = World(tmp_path, honours=False)
    key = make_row("a").key
    crew = world.start("run-1", names=["a"], policy=PARK, body=b"{}")
    crew.claim_next(1)
    crew.send(key, ["request lost"])
    crew.end()
    world.look_up(key)
    assert world.entries()[key]["state"] == "rejected"
    for run, policy, sent in (("run-2", PARK, 0), ("run-1", REPLAY_REJECTED, 0), ("run-3", REPLAY_REJECTED, 1)):
        again = world.start(run, names=["a"], policy=policy, body=b"{}")
        again.claim_next(1)
        for claimed in list(again.claims):
            again.send(claimed, ["reject"])
        again.end()
        assert world.attempts[run]
        assert world.entries()[key]["attempts"] == 1 + sent
    # Never in doubt since: the refusal counts.
    assert world.entries()[key]["state"] == "rejected"
    world.close()


def test_what_another_worker_left_in_doubt_is_not_forgotten_for_an_older_claim(tmp_path, no_pauses):
    """A worker stood still, and another one took its row, sent it, and got no answer."""
    world = World(tmp_path, honours=True)
    key = make_row("a").key
    still = world.start("run-1", names=["a"], policy=RESEND, body=b"{}")
    still.claim_next(1)
    world.now += 100
    other = world.start("run-2", names=["a"], policy=RESEND, body=b"{}")
    other.claim_next(1)
    other.send(key, ["answer lost"], end_after=1)
    other.end()
    assert world.entries()[key]["state"] == "unknown"
    # It finds its claim too old, and claims the row anew; then it is told to stop before it is sent.
    still.send(key, [])
    still.end()
    assert world.entries()[key]["state"] == "unknown"
    world.check()
    world.close()
