# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Any order of runs, kills, lost and doubled answers, refusals of known keys, ends of windows, rotated clients, changed types and
people who settle rows: no row is billed twice, none is committed that was not, none is forgotten.

LIMIO_LIMITRAIL_TEST_EXAMPLES says how many examples, which are then other ones each time; --hypothesis-seed makes them the same.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.support.databases import fresh_postgres
from tests.support.journal import CODE, FATES, KNOWN, JournalServer
from tests.support.journal_runs import Billing
from tests.support.strategies import SEARCH
from tests.support.usage import SIGKILL, Database

NAMES = ("a", "b", "c", "d")
HOUR = 3600.0

LIKELY = (
    *("answer",) * 3, *("lost after",) * 4, *("half", "504 after") * 2, "lost before", "500 after", "503 before", "408", "429",
    "deny", "refuse 400", "refuse 404", "refuse 409", "refuse 409 exists", "refuse 422", "gateway 404", "401", "403", "407",
    "html", "html of a gateway", "empty", "204", "no decision", "two decisions", "error beside", "errors instead", "another word",
    *("twice at once", "twice soon", "twice with the next") * 2,
)  # fmt: skip
FORMS = {"number": int, "text": str, "decimal": lambda value: Decimal(f"{value}.00")}
"""What a key column's type may become. Numbers are one form to the key."""

fates = st.lists(st.sampled_from(LIKELY), max_size=3)
endings = st.one_of(
    st.none(),
    st.tuples(st.just("moment"), st.sampled_from(["received", "done", "answered"]), st.integers(1, 5)),
    st.tuples(
        st.just("step"),
        st.sampled_from(
            [
                *("before claiming", "after claiming", "before claim", "after claim", "before sending", "after sending"),
                *("before recording", "after recording", "before record", "after record", "after taking", "after release"),
            ]
        ),
        st.integers(1, 3),
    ),
)
some = st.just(list(NAMES)) | st.lists(st.sampled_from(NAMES), min_size=1, unique=True)


class JournalMachine(RuleBasedStateMachine):
    """One Dag's runs, one after another, at the same few rows.

    A subclass says how an API and a database are made anew.
    """

    billing_of: Callable[..., tuple[Billing, Callable[[], None]]]

    @initialize(
        known=st.sampled_from([*KNOWN, "keeps no keys"]), window=st.sampled_from([None, 24 * HOUR]), declared=st.booleans()
    )
    def begin(self, known, window, declared):
        self.billing, self.close = type(self).billing_of(known=known, window=window)
        exists = {"status": 409, "error_code": CODE}
        self.response = {"already_committed": [exists]} if declared and known == "409 exists" else None
        self.clear = known not in ("keeps no keys", "200 duplicate")
        self.runs = {}
        self.forms = {}
        self.amounts = dict.fromkeys(NAMES, 1)
        self.client, self.form = "acme", "number"

    def teardown(self):
        if hasattr(self, "billing"):
            try:
                self.finish()
            finally:
                self.close()

    # -- runs --------------------------------------------------------------------------------------------------------

    def row(self, name, *, form=None):
        number = NAMES.index(name) + 1
        return {"account": name, "k": FORMS[form or self.form](number), "amount": self.amounts[name]}

    def variant(self):
        return self.client, "text" if self.form == "text" else "number"

    def entries(self, name):
        number = str(NAMES.index(name) + 1)
        return [
            entry for entry in self.billing.ledger().values() if str(json.loads(entry["row_key"])["k"]).split(".")[0] == number
        ]

    def stands_under_another_key(self, names):
        """Whether a row of these stands in the ledger, and not under the key that it has now."""
        for name in names:
            found = self.entries(name)
            own = [entry for entry in found if self.forms[entry["idempotency_key"]] == self.variant()]
            if not own and any(entry["state"] != "rejected" or entry["in_doubt_since"] is not None for entry in found):
                return True
        return False

    def send(self, run, *, ending=None, plan=(), may_fail=True):
        names, parameters = self.runs[run]
        billing = self.billing
        billing.server.fates = {name: [FATES[fate] for fate in fates] for name, fates in zip(names, plan, strict=False)}
        if billing.server.known == "409 exists":
            # Whoever says that this refusal means known has an API that says so of nothing else.
            for fates in billing.server.fates.values():
                fates[:] = [fate for fate in fates if fate is not FATES["refuse 409 exists"]]
        kill = None
        if ending is not None and ending[0] == "moment":
            billing.kill_at(ending[2], ending[1])
        elif ending is not None:
            kill = list(ending[1:])
        rekeyed = self.stands_under_another_key(names)
        seen, before = len(billing.server.calls), set(billing.ledger())
        ended = billing.attempt(
            run,
            rows=[self.row(name) for name in names],
            kill=kill,
            client=self.client,
            response=self.response,
            concurrency=1,
            **parameters,
        )
        for key in set(billing.ledger()) - before:
            self.forms[key] = self.variant()
        billing.check()
        if ended.code == SIGKILL:
            # Where nothing proves that a worker is dead, its lease has to end.
            billing.wait(120)
        if rekeyed:
            assert len(billing.server.calls) == seen, "sent, and it stands there under another key"
            assert ended.code == SIGKILL or ended.state == "failed", ended.log[-3000:]
        elif ended.code == 0 and ended.summary and ended.summary["not_tried"] == 0:
            counted = ended.summary["parked"] + ended.summary["unknown"] + ended.summary["left_in_doubt"]
            assert counted == billing.uncertain(), f"{counted} counted: {ended.summary}\n{ended.log[-3000:]}"
        return ended

    def new_run(self, names, **parameters):
        run = f"run-{len(self.runs) + 1}"
        self.runs[run] = (list(names), {"max_parked": "100%", "max_rejected": "100%", "max_changed": "100%", **parameters})
        return run

    def policy(self, resend):
        return "resend" if resend and self.billing.server.known != "keeps no keys" else "park"

    @rule(names=some, resend=st.booleans(), plan=st.lists(fates, min_size=4, max_size=4), ending=endings)
    def a_run(self, names, resend, plan, ending):
        self.send(self.new_run(names, on_unknown=self.policy(resend)), ending=ending, plan=plan)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), plan=st.lists(fates, min_size=4, max_size=4), ending=endings)
    def another_try(self, data, plan, ending):
        run = data.draw(st.sampled_from(list(self.runs)))
        self.send(run, ending=ending, plan=plan)

    @rule(names=some, resend=st.booleans(), plan=st.lists(fates, min_size=4, max_size=4), ending=endings)
    def rejected_rows_are_replayed(self, names, resend, plan, ending):
        self.send(self.new_run(names, on_unknown=self.policy(resend), replay="rejected"), ending=ending, plan=plan)

    @rule(resend=st.booleans(), plan=st.lists(fates, min_size=4, max_size=4), ending=endings)
    def parked_rows_are_looked_up_and_replayed(self, resend, plan, ending):
        self.look_up()
        self.send(self.new_run(NAMES, on_unknown=self.policy(resend), replay="parked"), ending=ending, plan=plan)

    # -- people and time ---------------------------------------------------------------------------------------------

    def look_up(self):
        """Settle all parked rows that have been carried out."""
        done = {entry.key for entry in self.billing.server.journal}
        for key, entry in self.billing.ledger().items():
            if entry["state"] == "parked" and key in done:
                self.billing.set(f"idempotency_key = '{key}'", state="committed", in_doubt_since=None)

    @precondition(lambda self: any(entry["state"] == "parked" for entry in self.billing.ledger().values()))
    @rule(becomes=st.sampled_from(["rejected", "given_up", "parked"]))
    def a_person_settles_what_is_parked(self, becomes):
        self.look_up()
        for key, entry in self.billing.ledger().items():
            if entry["state"] == "parked" and becomes == "rejected":
                self.billing.set(f"idempotency_key = '{key}'", state="rejected", in_doubt_since=None, attempts=1)
            elif entry["state"] == "parked":
                self.billing.set(f"idempotency_key = '{key}'", state=becomes)

    @precondition(lambda self: self.runs)
    @rule(hours=st.sampled_from([0.1, 19.0, 21.0, 25.0]))
    def time_passes(self, hours):
        self.billing.wait(hours * HOUR)

    @precondition(lambda self: self.runs)
    @rule(name=st.sampled_from(NAMES), amount=st.sampled_from([1, Decimal("1.00"), 2]))
    def an_amount_is_corrected(self, name, amount):
        self.amounts[name] = amount

    @precondition(lambda self: self.runs)
    @rule(client=st.sampled_from(["acme", "acme-2"]))
    def the_client_is_rotated(self, client):
        self.client = client

    @precondition(lambda self: self.runs)
    @rule(form=st.sampled_from(list(FORMS)))
    def the_key_changes_its_type(self, form):
        self.form = form

    # -- in the end --------------------------------------------------------------------------------------------------

    def finish(self):
        """Have people settle what is in doubt, and everything sent that was not: then each row is billed once, or given up."""
        self.billing.wait(HOUR)
        for _ in range(5):
            self.look_up()
            self.free_what_is_parked()
            for variant, names in self.by_variant().items():
                self.client, self.form = variant
                self.send(self.new_run(names, on_unknown=self.policy(self.clear), replay="rejected"))
        for name in NAMES:
            states = {entry["state"] for entry in self.entries(name)}
            assert states & {"committed", "given_up", "denied"}, states
            assert states <= {"committed", "given_up", "denied", "rejected"}, states
            if "committed" in states:
                assert self.billing.server.times()[name] == 1

    def by_variant(self):
        """The rows that are not done, by what their keys have been made of so far."""
        found = defaultdict(list)
        for name in NAMES:
            entries = self.entries(name)
            if not {entry["state"] for entry in entries} & {"committed", "given_up", "denied"}:
                open_ = [entry for entry in entries if entry["state"] != "rejected"]
                found[self.forms[open_[0]["idempotency_key"]] if open_ else self.variant()].append(name)
        return found

    def free_what_is_parked(self):
        self.billing.set("state = 'parked'", state="rejected", in_doubt_since=None, attempts=1)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("conn_id", "share"), [("lite", 1.0), ("pg", 0.2)])
def test_any_order(runner, request, conn_id, share):
    def billing_of(**options):
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            if conn_id == "pg":
                connection = stack.enter_context(fresh_postgres(request.getfixturevalue("postgres_server")))
            else:
                connection = {"conn_type": "sqlite", "host": str(folder / "warehouse.sqlite")}
            server = stack.enter_context(JournalServer(**options))
            billing = Billing(server=server, database=Database(conn_id, connection), runner=runner, folder=folder)
            return billing, stack.pop_all().close

    machine = type("Machine", (JournalMachine,), {"billing_of": staticmethod(billing_of)})
    examples = max(1, int(share * int(SEARCH or 10)))
    ways = settings(
        max_examples=examples, stateful_step_count=10, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine, settings=ways)
