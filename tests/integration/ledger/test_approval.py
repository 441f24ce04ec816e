# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The task that asks a person, on a real ledger: what it shows, how it waits, and what its answer does an hour later."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.providers.standard.operators import hitl
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from msgspec import structs

from limio_limitrail.hooks import databases
from limio_limitrail.operators.limitrail_approve import LimitRailApproveUsageOperator
from limio_limitrail.usage.approval import AnswerError
from limio_limitrail.usage.decision_lists import decisions
from limio_limitrail.usage.ledger.model import Outcome
from limio_limitrail.usage.ledger.settlement import Decision, RowDecision
from limio_limitrail.usage.ledger.states import State
from limio_limitrail.usage.settling import open_settlements
from tests.support.ledgers import PARK, make_rows
from tests.support.settlements import states

ROWS = make_rows(5)
OUTCOMES = [State.COMMITTED, State.REJECTED, State.PARKED, State.PARKED, State.UNKNOWN]
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
ADA = {"id": "ada", "name": "ada"}

pytestmark = pytest.mark.filterwarnings("ignore:.*cannot be called outside")


class Asked:
    """A task's try: what it has shown, and how it is answered."""

    def __init__(self, monkeypatch, **parameters):
        self.forms = []
        self.xcoms = {}
        self.waits = None
        self._parameters = {"sql_conn_id": "warehouse", "ledger_table": "ledger", "changes_table": "changes", **parameters}
        monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **form: self.forms.append(form))
        ti = SimpleNamespace(id="1", map_index=-1, xcom_push=self._push, xcom_pull=self._pull)
        self.context = {"ti": ti, "task_instance": ti}

    def _push(self, *, key, value):
        self.xcoms[key] = json.dumps(value)

    def _pull(self, *, task_ids, key, map_indexes):
        assert (task_ids, map_indexes) == ("approve", -1)
        return json.loads(self.xcoms[key]) if key in self.xcoms else None

    def task(self):
        # Each time another process makes it out of the Dag file.
        return LimitRailApproveUsageOperator(task_id="approve", **self._parameters)

    def ask(self):
        """Run the task; return its form, or what it returns if it asks nobody."""
        task = self.task()
        try:
            return task.execute(self.context)
        except BaseException as waits:
            if type(waits).__name__ not in ("TaskAwaitingInput", "TaskDeferred"):
                raise
            self.waits = waits
            return self.forms[-1]

    def answer(self, *, option="Carry out", user=ADA, **fields):
        names = self.forms[-1]["params"]
        given = {next(name for name in names if name == key or name.startswith(f"{key}_")): fields[key] for key in fields}
        event = {"chosen_options": [option], "params_input": given, "responded_at": NOON, "responded_by_user": user}
        return self.task().execute_complete(self.context, event)


@pytest.fixture
def asked(monkeypatch):
    return lambda **parameters: Asked(monkeypatch, **parameters)


@pytest.fixture
def ledger(lite, ledger_in, monkeypatch):
    """One row of each kind; ROWS[0] was committed and has changed."""
    monkeypatch.setattr(databases, "find_database", lambda conn_id: lite.hook())
    ledger = ledger_in(lite, "monday")
    ledger.claim(ROWS, policy=PARK)
    words = {"detail": "no <b>account</b> | https://evil.example"}
    ledger.record({row.key: Outcome(state=state, http_status=422, **words) for row, state in zip(ROWS, OUTCOMES, strict=True)})
    ledger.list_changes([structs.replace(ROWS[0], digest="another", members='{"a": "1"}')], table="changes", with_bodies=False)
    return ledger


def settle(lite, found, *, run="two/settle"):
    read = decisions("decisions", found)
    with open_settlements(lite.hook(), ledger_table="ledger", changes_table="changes") as settlements:
        return settlements.settle(read.rows, by=read.by or "the task", settlement_id=run)


def test_an_answer_settles_what_was_shown(lite, ledger, asked):
    task = asked(notifiers=[lambda context: notified.append(context)])
    notified: list[object] = []
    form = task.ask()
    assert len(notified) == 1
    assert form["subject"] == "5 usage rows of ledger need a decision"
    assert (form["options"], form["defaults"]) == (["Carry out", "Leave all as they are"], ["Leave all as they are"])
    assert all(row.key in form["body"] for row in ROWS)
    assert {one["value"] for name, one in form["params"].items() if name != "note"} == {"leave", "as_group"}
    found = task.answer(group_1="send", row_1="committed")
    result = settle(lite, found)
    assert result.settled == {"send": 1, "committed": 1}
    assert {row[0] for row in lite.query("SELECT settled_by FROM ledger WHERE settled_by IS NOT NULL")} == {"ada"}
    assert settle(lite, found).already == 2


def test_nobody_is_asked_about_nothing(lite, ledger, asked):
    task = asked(kinds=["damaged"])
    assert task.ask() == {"by": None, "decisions": []}
    assert task.forms == []
    assert json.loads(task.xcoms["return_value"]) == {"by": None, "decisions": []}


def test_an_answer_is_kept_whatever_the_task_returns(lite, ledger, asked):
    task = asked(do_xcom_push=False, response_timeout=None, execution_timeout=timedelta(minutes=5))
    task.ask()
    assert task.task().execution_timeout == timedelta(minutes=5)
    assert getattr(task.waits, "timeout", None) is None
    found = task.answer(group_1="send")
    assert json.loads(task.xcoms["return_value"]) == found


def test_rows_that_changed_while_the_form_waited_stay_as_they_are(lite, ledger, asked):
    task = asked(kinds="parked", response_timeout="PT1H")
    task.ask()
    # Somebody settles one of them, and a row that is parked meanwhile is in no form.
    with open_settlements(lite.hook(), ledger_table="ledger", changes_table="changes") as settlements:
        settlements.settle([RowDecision(key=ROWS[2].key, decision=Decision.COMMITTED)], by="bob")
    lite.execute(f"UPDATE ledger SET attempts = 9 WHERE idempotency_key = '{ROWS[3].key}'")
    lite.execute(f"UPDATE ledger SET state = 'parked' WHERE idempotency_key = '{ROWS[4].key}'")
    result = settle(lite, task.answer(group_1="give_up"))
    assert (dict(result.settled), result.stale, result.contradicted) == ({}, 1, 1)
    found = states(lite)
    assert [found[row.key] for row in ROWS[2:]] == ["committed", "parked", "parked"]


def test_nobody_answers(lite, ledger, asked):
    task = asked()
    task.ask()
    before = states(lite)
    found = task.answer(option="Leave all as they are", user=None, group_1="leave")
    assert found == {"by": None, "decisions": []}
    assert settle(lite, found).count == 0
    assert states(lite) == before


def test_an_answer_without_what_was_shown_decides_nothing(lite, ledger, asked):
    task = asked()
    task.ask()
    task.xcoms.clear()
    with pytest.raises(AnswerError, match="clear the task, and it asks again"):
        task.answer(group_1="send")


def test_a_retry_asks_about_what_is_there_then(lite, ledger, asked):
    task = asked(kinds=["parked"])
    old = task.ask()
    lite.execute(f"UPDATE ledger SET state = 'committed' WHERE idempotency_key = '{ROWS[2].key}'")
    task.ask()
    event = {"chosen_options": ["Carry out"], "responded_at": NOON, "responded_by_user": ADA}
    answer = {name: "send" if "enum" in one["schema"] else None for name, one in old["params"].items()}
    with pytest.raises(AnswerError, match="another form"):
        task.task().execute_complete(task.context, {**event, "params_input": answer})
    assert [one["key"] for one in task.answer(group_1="send")["decisions"]] == [ROWS[3].key]


def test_more_rows_than_a_form_is_about(lite, ledger, asked):
    task = asked(max_rows=2, listed_rows=1)
    form = task.ask()
    assert "3 younger rows are not in this form" in form["body"]
    fields = {name: "send" if "send" in one["schema"].get("enum", ()) else "leave" for name, one in form["params"].items()}
    found = task.answer(**{name: word for name, word in fields.items() if name.startswith("group")})
    assert len(found["decisions"]) <= 2


def test_who_may_answer_and_how_long(lite, ledger, asked):
    task = asked(assigned_users=["ada", {"id": "7", "name": "Bob"}], response_timeout=90, subject="Month end")
    form = task.ask()
    assert form["assigned_users"] == [{"id": "ada", "name": "ada"}, {"id": "7", "name": "Bob"}]
    assert form["subject"] == "Month end"
    assert task.waits.timeout in (timedelta(seconds=90), None)


def test_an_airflow_without_awaiting_input(lite, ledger, asked, monkeypatch):
    """Before 3.3 the triggerer waits: whatever it is given can be stored, and it reads the answer as we do."""
    monkeypatch.setattr(hitl, "AIRFLOW_V_3_3_PLUS", False, raising=False)
    task = asked()
    form = task.ask()
    assert isinstance(task.waits, TaskDeferred)
    path, arguments = task.waits.trigger.serialize()
    assert path.endswith("HITLTrigger")
    assert set(arguments["params"]) == set(form["params"])
    assert arguments["defaults"] == ["Leave all as they are"]
    assert 23 < (arguments["timeout_datetime"] - datetime.now(tz=UTC)).total_seconds() / 3600 < 24.1
    hitl.HITLTrigger(**json.loads(json.dumps(arguments, default=str)))


def test_no_ledger_fails_once(lite, ledger, asked):
    with pytest.raises(AirflowFailException, match="there is no table elsewhere"):
        asked(ledger_table="elsewhere").ask()
