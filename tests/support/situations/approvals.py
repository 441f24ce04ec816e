# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Commit, reconcile, approve, settle: what the list cannot settle becomes a form, which is answered, answered
late, answered wrongly, and not answered."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb

from limio_limitrail.emulator import EmulatorServer, Fault
from tests.support.airflow_whole import WholeAirflow

DAG = "limitrail_usage_approve"
COMMIT = "/v1/usage/commit"


class Approvals:
    """The example in a whole Airflow, and what became of its rows."""

    def __init__(self, airflow: WholeAirflow, emulator: EmulatorServer, warehouse: Path) -> None:
        self.airflow, self.emulator, self.warehouse = airflow, emulator, warehouse

    def write(self, *changes: tuple[str, str], dag_id: str = DAG) -> None:
        by_hand = ('schedule="@daily"', "schedule=None")
        self.airflow.write_example(f"{DAG}.py", by_hand, (DAG, dag_id), *changes, dag_file=f"{dag_id}.py")
        self.airflow.unpause(dag_id)

    def ledger(self, *columns: str) -> dict[str, tuple[Any, ...]]:
        with closing(duckdb.connect(str(self.warehouse), read_only=True)) as database:
            query = f"SELECT idempotency_key, {', '.join(columns)} FROM limitrail_usage_ledger"
            return {key: tuple(values) for key, *values in database.execute(query).fetchall()}

    def states(self) -> dict[str, str]:
        return {key: state for key, (state,) in self.ledger("state").items()}

    def execute(self, *statements: str) -> None:
        with closing(duckdb.connect(str(self.warehouse))) as database:
            for statement in statements:
                database.execute(statement)

    def end(self, run: str, *, dag_id: str = DAG, state: str = "success") -> Any:
        ended = {"success", "failed"}
        self.airflow.wait_for(lambda: self.airflow.run(dag_id, run).state in ended, f"{run} has ended")
        found = self.airflow.run(dag_id, run)
        errors = [line for line in self.airflow.task_log(run, "*").splitlines() if '"level":"error"' in line]
        assert found.state == state, errors
        return found

    def field(self, form: dict[str, Any], name: str) -> str:
        [found] = [one for one in form["params"] if one == name or one.startswith(f"{name}_")]
        return found


def check_approvals(airflow: WholeAirflow, emulator: EmulatorServer, folder: Path) -> None:
    """:param emulator: honours no idempotency keys."""
    emulator.limitrail.add_accounts(f"acme-{number}" for number in range(5))
    # The list shows nothing yet, so that it settles nothing.
    emulator.configure_limitrail(list_lag_seconds=3600)
    emulator.faults.add(Fault("reset_after", COMMIT, times=3))
    emulator.faults.add(Fault("status", COMMIT, status=500, after=3, times=4))
    warehouse = folder / "approvals.duckdb"
    airflow.add_connection("limitrail_default", emulator.limitrail_connection_json())
    airflow.add_connection("warehouse", json.dumps({"conn_type": "duckdb", "host": str(warehouse)}))
    approvals = Approvals(airflow, emulator, warehouse)
    approvals.write()

    # Nobody answers within the time: the rows stay as they are, and the run succeeds. In less time than a busy scheduler needs to
    # see that the task has begun to wait, Airflow would take the task that goes on for one that was lost.
    approvals.write(("timedelta(hours=20)", "timedelta(seconds=25)"), dag_id="in_time")
    run = airflow.trigger("in_time")
    found = approvals.end(run, dag_id="in_time")
    assert found.tasks["approve_usage"].xcom == {"by": None, "decisions": []}
    parked = {key for key, state in approvals.states().items() if state == "parked"}
    assert len(parked) >= 6

    # Two forms about the same rows, as two people see them; the journal says what is true.
    done = {entry.key for entry in emulator.limitrail.journal}
    assert 0 < len(parked & done) < len(parked)
    first = airflow.trigger(DAG)
    form = airflow.form(DAG, first, "approve_usage")
    second = airflow.trigger(DAG)
    other = airflow.form(DAG, second, "approve_usage")
    assert form["subject"] == f"{len(parked)} usage rows of limitrail_usage_ledger need a decision"
    assert form["options"] == ["Carry out", "Leave all as they are"]
    secrets = [*emulator.limitrail.tokens, *(client.client_secret for client in emulator.limitrail.options.clients)]
    assert not [secret for secret in secrets if secret in json.dumps(form)]
    # Each row has a choice of its own; the body says which it is.
    lines = [line for line in form["body"].splitlines() if "subscription_id=" in line]
    keys = {number: line.split("|")[4].strip(" `") for number, line in enumerate(lines, start=1)}
    assert set(keys.values()) == parked
    choices = {approvals.field(form, f"row_{number}"): "committed" if key in done else "send" for number, key in keys.items()}
    airflow.answer(DAG, first, "approve_usage", option="Carry out", note="looked up", **choices)
    settled = approvals.end(first).tasks["settle_usage"].xcom
    assert settled["settled_as"] == {"committed": len(parked & done), "send": len(parked - done)}
    by, notes = zip(*(row for key, row in approvals.ledger("settled_by", "settlement").items() if key in parked), strict=True)
    assert len(set(by)) == 1
    assert by[0] not in (None, "")
    assert not by[0].startswith("task ")
    assert all("looked up" in note for note in notes)

    # The other person decides otherwise, an hour later: nothing is settled twice, and it is reported.
    wrong = {approvals.field(other, f"group_{number}"): "give_up" for number in (1,)}
    airflow.answer(DAG, second, "approve_usage", option="Carry out", **wrong)
    late = approvals.end(second, state="failed").tasks["settle_usage"].xcom
    assert (late["settled"], late["contradicted"] > 0) == (0, True)
    assert "settled these rows of limitrail_usage_ledger otherwise meanwhile" in airflow.task_log(second, "settle_usage")

    # The next run sends what is free, once; the list has caught up, and both sides agree; nobody is asked.
    emulator.faults.clear()
    emulator.configure_limitrail(list_lag_seconds=0)
    last = approvals.end(airflow.trigger(DAG))
    assert last.tasks["commit_usage"].xcom["sent"] == len(parked - done)
    assert last.tasks["reconcile_usage"].xcom["equal"] == 25
    assert last.tasks["approve_usage"].xcom == {"by": None, "decisions": []}
    assert set(approvals.states().values()) == {"committed"}
    assert len(emulator.limitrail.journal) == len(approvals.states()) == 25

    # What the list is certain about, nobody is asked about.
    park = "UPDATE limitrail_usage_ledger SET state = 'parked' WHERE row_key LIKE '%sub-7\"%'"
    approvals.execute(park)
    last = approvals.end(airflow.trigger(DAG))
    assert last.tasks["reconcile_usage"].xcom["settlement"]["settled_as"] == {"committed": 1}
    assert last.tasks["approve_usage"].xcom == {"by": None, "decisions": []}

    # Both sides differ, as the list has lost its records: the form is there all the same, and the run is red whatever the answer.
    day = "{0} INTERVAL 1 DAY"
    shift = f"UPDATE limitrail_usage_ledger SET claimed_at = claimed_at {day}, finished_at = finished_at {day}"
    approvals.execute(park, shift.format("-"))
    emulator.configure_limitrail(list_lag_seconds=3600)
    run = airflow.trigger(DAG)
    airflow.form(DAG, run, "approve_usage")
    airflow.answer(DAG, run, "approve_usage", option="Leave all as they are")
    found = approvals.end(run, state="failed")
    assert found.tasks["reconcile_usage"].xcom["only_ours"] == 24
    assert {name: found.tasks[name].state for name in ("reconcile_usage", "settle_usage", "both_agree")} == {
        "reconcile_usage": "failed",
        "settle_usage": "success",
        "both_agree": "upstream_failed",
    }
    approvals.execute(shift.format("+"))

    # An answer that the form does not offer settles nothing; the task is cleared, and asks anew.
    run = airflow.trigger(DAG)
    form = airflow.form(DAG, run, "approve_usage")
    airflow.answer(DAG, run, "approve_usage", option="Carry out", **{approvals.field(form, "group_1"): "perhaps"})
    approvals.end(run, state="failed")
    assert "must be one of leave, committed, denied, send, give_up, got 'perhaps'" in airflow.task_log(run, "approve_usage")
    airflow.clear(DAG, run, "approve_usage")
    form = airflow.form(DAG, run, "approve_usage")
    assert form["response_received"] is False
    airflow.answer(DAG, run, "approve_usage", option="Carry out", **{approvals.field(form, "group_1"): "committed"})
    assert approvals.end(run).tasks["settle_usage"].xcom["settled_as"] == {"committed": 1}

    # One form for each ledger.
    approvals.execute(park)
    approvals.execute("CREATE TABLE ledger_of_others AS SELECT * FROM limitrail_usage_ledger")
    approve, settle = "LimitRailApproveUsageOperator", "LimitRailSettleUsageOperator"
    each = "lambda found: {'decisions': found, 'ledger_table': 'ledger_of_others'}"
    approvals.write(
        (f"= {approve}(", f"= {approve}.partial("),
        ("timedelta(hours=20),\n    )", "1000).expand(ledger_table=['limitrail_usage_ledger', 'ledger_of_others'])"),
        (f"= {settle}(", f"= {settle}.partial("),
        (", decisions=approve_usage.output)", f").expand_kwargs(approve_usage.output.map({each}))"),
        dag_id="many",
    )
    run = airflow.trigger("many")
    forms = [airflow.form("many", run, "approve_usage", map_index=index) for index in (0, 1)]
    assert "ledger_of_others" in forms[1]["subject"]
    airflow.answer("many", run, "approve_usage", map_index=0, option="Leave all as they are")
    field = approvals.field(forms[1], "group_1")
    airflow.answer("many", run, "approve_usage", map_index=1, option="Carry out", **{field: "send"})
    found = approvals.end(run, dag_id="many")
    assert found.tasks["approve_usage[0]"].xcom["decisions"] == []
    assert found.tasks["settle_usage[1]"].xcom["settled_as"] == {"send": 1}
