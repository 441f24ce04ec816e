# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A watermark belongs to one tenant's list: of another one, an incremental pull reads everything."""

from __future__ import annotations

import json

import pytest

from tests.support.landed import duck, records_of

pytestmark = pytest.mark.needs_state_store

BASKETS = "checkout/abandoned"
SIGKILL = -9
COMMON = 'resource="abandoned_baskets", incremental=True, since="2026-01-01", outlets=[Asset("{name}")], {more}'
MERGE = 'LimioToSqlOperator(task_id="load", sql_conn_id="duck", table="merged", ' + COMMON.format(name="m", more="{more}") + ")"
DAG = (
    MERGE.format(more="")
    + """
LimioToSqlOperator(task_id="add", sql_conn_id="duck", table="added", mode="append", {add})
LimioToObjectStorageOperator(task_id="files", destination="file://{out}", {files})
"""
)
OWN = """
from dataclasses import replace
from limio_limitrail.limio.resources import RESOURCES
own = replace(RESOURCES["abandoned_baskets"], {fields})
LimioToSqlOperator(
    task_id="load", sql_conn_id="duck", table="merged", resource=own, incremental=True, since="2026-01-01", outlets=[Asset("m")]
)
"""


def baskets(name, *days):
    times = {day: f"2026-03-{day:02}T09:00:00Z" for day in days}
    return [{"id": f"{name}{day}", "created": at, "changed": at, "order": {"total": 1}} for day, at in times.items()]


def attempt(home, task, run_id, **more):
    found = home.attempt(task, run_id=run_id, **more).task(task)
    assert found["state"] == "success", home.output()[-3000:]
    return found["xcom"]


def ids(tmp_path, table):
    return [id_ for (id_,) in duck(tmp_path / "warehouse.duckdb", f"SELECT id FROM {table} ORDER BY id")]


def asked(emulator):
    log = [entry["query"] for entry in emulator.counters.log if "createdAfter=" in entry["query"]]
    emulator.counters.reset()
    return [query.split("createdAfter=")[1].split("&")[0][:10] for query in log]


def other_host(home, emulator, factory):
    other = factory()
    home.connect({"limio_default": json.loads(other.airflow_connection_json())})
    return other


def other_client(home, emulator, factory):
    emulator.configure(client_id="another-client", client_secret="another-secret-0123456789")
    home.connect({"limio_default": json.loads(emulator.airflow_connection_json())})
    emulator.counters.reset()
    return emulator


@pytest.fixture
def pulls(home, tmp_path):
    add, files = (COMMON.format(name=name, more="") for name in ("a", "f"))
    home.write_dag(DAG.format(add=add, files=files, out=tmp_path / "out"))
    return home


@pytest.mark.sampled(1)
@pytest.mark.parametrize("repoint", [other_host, other_client])
@pytest.mark.parametrize("task", ["load", "add", "files"])
def test_a_repointed_connection_is_read_from_the_start(pulls, limio_emulator, limio_emulator_factory, tmp_path, repoint, task):
    limio_emulator.put_records(BASKETS, baskets("ours", 8, 9))
    attempt(pulls, task, "1")
    other = repoint(pulls, limio_emulator, limio_emulator_factory)
    other.put_records(BASKETS, baskets("theirs", 1, 2))
    summary = attempt(pulls, task, "2")
    assert asked(other) == ["2026-01-01"]
    assert summary["watermark"] == "2026-03-02T09:00:00+00:00", "of this tenant"
    differs = f"(what differs: {'base URL' if repoint is other_host else 'client'}"
    assert differs in summary["reason"]
    assert differs in pulls.output()
    assert "remove the former ones from" in pulls.output()
    if task == "files":
        assert [record["id"] for record in records_of(summary["folder"])] == ["theirs1", "theirs2"]
    else:
        table = {"load": "merged", "add": "added"}[task]
        assert ids(tmp_path, table) == ["ours8", "ours9", "theirs1", "theirs2"]
    again = attempt(pulls, task, "3")
    assert asked(other) == ["2026-03-02"], "said once, and then it goes on"
    assert "differs" not in again["reason"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("repoint", [other_host, other_client])
def test_a_kill_after_the_load_loses_nothing(pulls, limio_emulator, limio_emulator_factory, tmp_path, repoint):
    limio_emulator.put_records(BASKETS, baskets("ours", 9))
    attempt(pulls, "add", "1")
    other = repoint(pulls, limio_emulator, limio_emulator_factory)
    other.put_records(BASKETS, baskets("theirs", 1, 2))
    assert pulls.attempt("add", run_id="2", kill=["before watermark", 1]).code == SIGKILL
    other.counters.reset()
    attempt(pulls, "add", "2")
    assert set(asked(other)) <= {"2026-01-01"}
    assert ids(tmp_path, "added") == ["ours9", "theirs1", "theirs2"]


def test_a_run_of_the_former_tenant_is_not_replaced_by_less(pulls, limio_emulator, limio_emulator_factory, tmp_path):
    """Made again, it would put the other tenant's records in the place of its own."""
    limio_emulator.put_records(BASKETS, baskets("ours", 8))
    attempt(pulls, "add", "1", times={"due": "2026-03-08T10:00:00+00:00"})
    other = other_host(pulls, limio_emulator, limio_emulator_factory)
    other.put_records(BASKETS, baskets("theirs", 1))
    attempt(pulls, "add", "2", times={"due": "2026-03-09T10:00:00+00:00"})
    again = pulls.attempt("add", run_id="1", times={"due": "2026-03-08T10:00:00+00:00"})
    assert again.task("add")["state"] == "failed"
    assert "because it was made of another list or tenant" in pulls.output()
    assert ids(tmp_path, "added") == ["ours8", "theirs1"]


def test_a_full_refresh_does_not_leave_the_former_watermark(home, limio_emulator, limio_emulator_factory, tmp_path):
    home.write_dag(MERGE.format(more="full_refresh=True"))
    limio_emulator.put_records(BASKETS, baskets("ours", 9))
    attempt(home, "load", "1")
    other = other_host(home, limio_emulator, limio_emulator_factory)
    other.put_records(BASKETS, baskets("theirs", 1, 2))
    assert attempt(home, "load", "2")["watermark"] == "2026-03-02T09:00:00+00:00"
    assert ids(tmp_path, "merged") == ["ours9", "theirs1", "theirs2"]


def test_what_may_change_for_the_same_tenant(pulls, limio_emulator):
    limio_emulator.put_records(BASKETS, baskets("ours", 9))
    attempt(pulls, "load", "1")
    asked(limio_emulator)
    limio_emulator.configure(client_secret="rotated-secret-0123456789")
    connection = json.loads(limio_emulator.airflow_connection_json())
    pulls.connect({"limio_default": {**connection, "host": f"{connection['host']}/"}})
    attempt(pulls, "load", "2")
    assert asked(limio_emulator) == ["2026-03-09"]
    assert "differs" not in pulls.output()
    stored = json.dumps(pulls.do("state_of", "pull", run_id="-").result)
    assert "rotated-secret" not in stored
    assert limio_emulator.client_id not in stored


def test_what_was_stored_without_a_source_is_taken_over(pulls, limio_emulator):
    limio_emulator.put_records(BASKETS, baskets("ours", 9))
    attempt(pulls, "load", "1")
    [(key, text)] = pulls.do("state_of", "pull", run_id="-").result["asset"]
    stored = json.loads(text)
    assert set(stored.pop("source")) == {"base URL", "client", "list", "time filter or time column"}
    pulls.do("put_asset_state", key, value=stored)
    asked(limio_emulator)
    attempt(pulls, "load", "2")
    assert asked(limio_emulator) == ["2026-03-09"]
    assert "source" in json.loads(pulls.do("state_of", "pull", run_id="-").result["asset"][0][1])


LISTS = {
    "the path": ("path='/checkout/other'", "list"),
    "the query": ("params={'state': 'lost'}", "list"),
    "the time filter": (
        "time_filter=replace(RESOURCES['abandoned_baskets'].time_filter, field='x', until='createdBefore')",
        "time",
    ),
    "the time column": ("time_column='changed'", "time"),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("case", LISTS)
def test_another_list_under_the_same_name(home, limio_emulator, case):
    fields, differs = LISTS[case]
    for path in (BASKETS, "checkout/other"):
        limio_emulator.put_records(path, baskets("ours", 9))
    home.write_dag(OWN.format(fields="assumed=()"))
    attempt(home, "load", "1")
    home.write_dag(OWN.format(fields=fields))
    asked(limio_emulator)
    summary = attempt(home, "load", "2")
    assert asked(limio_emulator) == ["2026-01-01"]
    assert f"(what differs: {differs}" in summary["reason"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("change", "goes_on"),
    [("scope", True), ("secret", True), ("named", True), ("client", False), ("tenant", False), ("client of a tenant", True)],
)
def test_tenants_of_limitrail(home, limitrail_emulator, tmp_path, change, goes_on):
    for tenant in ("demo", "other"):
        rows = [{"id": f"{tenant}-{n}", "committedAt": f"2026-03-0{n}T00:00:00Z"} for n in range(1, 9)]
        limitrail_emulator.limitrail.add_usage(rows, tenant=tenant)
    home.write_dag(
        """
        LimitRailToSqlOperator(
            task_id="load", resource="usage", sql_conn_id="duck", table="usage", incremental=True, since="2026-01-01",
            until="2026-04-01", outlets=[Asset("u")],
        )
        """
    )
    first = json.loads(limitrail_emulator.limitrail_connection_json(0))
    if change in {"tenant", "client of a tenant"}:
        first["extra"]["tenant"] = "acme"
    home.connect({"limitrail_default": first})
    attempt(home, "load", "1")
    second = json.loads(limitrail_emulator.limitrail_connection_json(1 if "client" in change else 0))
    second["extra"] |= {"tenant": {"tenant": "another"}, "named": {"tenant": "acme"}}.get(change, {})
    if change == "client of a tenant":
        second["extra"]["tenant"] = "acme"
    if change == "scope":
        second["extra"]["scope"] = "limitrail.usage.read"
    home.connect({"limitrail_default": second})
    summary = attempt(home, "load", "2")
    assert summary["since"][:10] == ("2026-03-07" if goes_on else "2026-01-01")
    assert ("differs" in summary["reason"]) is not goes_on
