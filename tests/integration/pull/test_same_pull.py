# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A retry goes on where the last try stopped only with the same pull: the same source, list, shape and code."""

from __future__ import annotations

import json
import textwrap
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.landed import duck_rows, records_of, rows_of

pytestmark = pytest.mark.needs_state_store

LIST = "/api/objects/limio/subscriptions"
PAGES = 12
FINISHED = 6
SIGKILL = -9
DAG = """
import functools, operator, threading
from dataclasses import replace
from limio_limitrail.limio.resources import RESOURCES
{before}
LimioToObjectStorageOperator(
    task_id="land", destination="file://{out}", **dict(dict(resource="subscriptions", page_size=17, part_rows=34), {more})
)
"""
MARK = "def transform(frame):\n    return frame.assign(mark={mark})"
HELPER = "MARK = {mark}\ndef helper(frame):\n    return frame.assign(mark=MARK)\ndef transform(frame):\n    return helper(frame)"
CLOSURE = "def make(mark):\n    return lambda frame: frame.assign(mark=mark)\ntransform = make({mark})"
UNKNOWN = "LOCK = threading.Lock()\ndef transform(frame):\n    with LOCK:\n        return frame.assign(mark=2)"
OWN = "own = replace(RESOURCES['subscriptions'], {fields})"


def marked(before, after=None):
    """Two tries with another mark each, or another function."""
    return (before.format(mark=1), "transform=transform"), ((after or before).format(mark=2), "transform=transform")


OTHER = {
    "two lambdas": (("", "transform=lambda frame: frame.assign(mark=1)"), ("", "transform=lambda frame: frame.assign(mark=2)")),
    "a changed helper's constant": marked(HELPER),
    "a changed closure": marked(CLOSURE),
    "a function that is gone": ((MARK.format(mark=1), "transform=transform"), ("", "")),
    "code that cannot be known": ((UNKNOWN, "transform=transform"), (UNKNOWN, "transform=transform")),
    "dropped columns": (("", ""), ("", "drop_columns=['data']")),
    "another format": (("", ""), ("", "format='parquet'")),
    "another path": (("", ""), (OWN.format(fields="path='/objects/zuora/subscriptions'"), "resource=own")),
    "another paging": (
        ("", ""),
        (
            "from limio_limitrail.api.pagination import CursorString\nclass Mine(CursorString):\n"
            "    def next_cursor(self, meta):\n        return super().next_cursor(meta)\n" + OWN.format(fields="paging=Mine()"),
            "resource=own",
        ),
    ),
}
SAME = {
    "how fast it goes": (("", ""), ("", "page_size=50, part_rows=100, retries=3, execution_timeout=timedelta(hours=1)")),
    "comments and docstrings": (
        (MARK.format(mark=2), "transform=transform"),
        (
            "# Which.\n\n\ndef transform(frame):\n    '''Mark it.'''\n    # as agreed\n    return frame.assign(mark=2)",
            "transform=transform",
        ),
    ),
    "words that only explain": (("", ""), (OWN.format(fields="assumed=('nothing',), scope=None"), "resource=own")),
    "the order of names": (
        ("", "drop_columns=['x', 'y'], nested_columns={'a': 'data.a', 'b': 'data.b'}, transform=operator.methodcaller('copy')"),
        (
            "",
            (
                "drop_columns=['y', 'x'], nested_columns={'b': ['data', 'b'], 'a': 'data.a'}, "
                "transform=operator.methodcaller('copy')"
            ),
        ),
    ),
    "a default that is said": (("", ""), ("", "path_params={'service': 'limio'}")),
}  # fmt: skip


def asked(emulator):
    return sum(entry["path"].endswith("/subscriptions") for entry in emulator.counters.log)


def two_tries(home, emulator, out, tries):
    """Kill the first try after half of the pages; give the second one's result, and how many pages it asked for."""
    (first, more), (second, then) = tries
    emulator.put_records("objects/zuora/subscriptions", emulator.tenant.rows_of("subscriptions"), style="objects")
    home.write_dag(DAG.format(before=first, more=more, out=out))
    assert home.attempt("land", kill=["after state", 3]).code == SIGKILL
    home.write_dag(DAG.format(before=second, more=then, out=out))
    emulator.counters.reset()
    task = home.attempt("land").task("land")
    assert task["state"] == "success", home.output()[-4000:]
    folder = task["xcom"]["folder"]
    return records_of(folder) or rows_of(folder), asked(emulator)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("case", OTHER)
def test_another_pull_starts_over(home, limio_emulator, tmp_path, case):
    records, pages = two_tries(home, limio_emulator, tmp_path / "out", OTHER[case])
    assert pages >= PAGES
    assert [row["id"] for row in records] == [row["id"] for row in limio_emulator.tenant.rows_of("subscriptions")]
    marks = {row.get("mark") for row in records}
    assert marks == ({2} if "mark=2" in "".join(OTHER[case][1]) or "MARK = 2" in OTHER[case][1][0] else marks - {1})
    known = "cannot" not in case
    assert ("What differs: " in home.output()) or not known
    if not known:
        assert (
            "The code of transform cannot be compared, so a retry of the task starts the pull over: it refers to 'LOCK'"
            in home.output()
        )


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", SAME)
def test_the_same_pull_goes_on(home, limio_emulator, tmp_path, case):
    records, pages = two_tries(home, limio_emulator, tmp_path / "out", SAME[case])
    assert pages == PAGES - FINISHED
    assert [row["id"] for row in records] == [row["id"] for row in limio_emulator.tenant.rows_of("subscriptions")]
    assert "starts over" not in home.output()


def other_host(home, emulator, factory):
    other = factory()
    other.put_records("objects/limio/subscriptions", [{"id": f"theirs-{n}"} for n in range(90)])
    home.connect({"limio_default": json.loads(other.airflow_connection_json())})
    return other


def other_client(home, emulator, factory):
    emulator.configure(client_id="another-client", client_secret="another-secret-0123456789")
    emulator.put_records("objects/limio/subscriptions", [{"id": f"theirs-{n}"} for n in range(90)])
    home.connect({"limio_default": json.loads(emulator.airflow_connection_json())})
    return emulator


@pytest.mark.sampled(2)
@pytest.mark.parametrize("finished", [3, 6])
@pytest.mark.parametrize("repoint", [other_host, other_client])
def test_a_repointed_connection_mixes_no_tenants(home, limio_emulator, limio_emulator_factory, tmp_path, repoint, finished):
    home.write_dag(
        """
        LimioToSqlOperator(task_id="load", resource="subscriptions", sql_conn_id="duck", table="subs", page_size=17, part_rows=34)
        """
    )
    assert home.attempt("load", kill=["after state", finished]).code == SIGKILL
    other = repoint(home, limio_emulator, limio_emulator_factory)
    other.counters.reset()
    task = home.attempt("load").task("load")
    assert task["state"] == "success", home.output()[-4000:]
    rows = duck_rows(tmp_path / "warehouse.duckdb", "subs")
    assert sorted(row["id"] for row in rows) == sorted(f"theirs-{n}" for n in range(90))
    assert asked(other) == 6
    assert "this one starts over. What differs: the API's URLs or client." in home.output()


def test_another_length_of_slices_is_another_pull(home, limitrail_emulator, tmp_path):
    rows = [{"id": f"u{hour}", "committedAt": f"2026-03-01T{hour:02}:00:00Z"} for hour in range(24)]
    limitrail_emulator.limitrail.add_usage(rows, tenant="demo")
    dag = """
    LimitRailToSqlOperator(
        task_id="load", resource="usage", sql_conn_id="duck", table="usage", since="2026-03-01", until="2026-03-02",
        slice_size=timedelta(hours={hours}),
    )
    """
    home.write_dag(dag.format(hours=6))
    assert home.attempt("load", kill=["after state", 2]).code == SIGKILL
    home.write_dag(dag.format(hours=4))
    assert home.attempt("load").task("load")["state"] == "success", home.output()[-4000:]
    ids = sorted(row["id"] for row in duck_rows(tmp_path / "warehouse.duckdb", "usage"))
    assert ids == sorted(row["id"] for row in rows)
    assert "What differs: time range." in home.output()


@pytest.mark.exhaustive
@pytest.mark.parametrize("change", ["client", "scope", "tenant"])
def test_another_client_of_limitrail_is_another_pull(home, limitrail_emulator, tmp_path, change):
    start = datetime(2026, 3, 1, tzinfo=UTC)
    for tenant in ("demo", "other"):
        rows = [{"id": f"{tenant}-{n}", "committedAt": (start + timedelta(hours=n)).isoformat()} for n in range(24)]
        limitrail_emulator.limitrail.add_usage(rows, tenant=tenant)
    home.write_dag(
        """
        LimitRailToSqlOperator(
            task_id="load", resource="usage", sql_conn_id="duck", table="usage", since="2026-03-01", until="2026-03-02",
            slice_size=timedelta(hours=6),
        )
        """
    )
    assert home.attempt("load", kill=["after state", 2]).code == SIGKILL
    connection = json.loads(limitrail_emulator.limitrail_connection_json(1 if change == "client" else 0))
    if change == "scope":
        connection["extra"]["scope"] = "limitrail.usage.read"
    if change == "tenant":
        connection["extra"]["tenant"] = "somebody"
    home.connect({"limitrail_default": connection})
    limitrail_emulator.counters.reset()
    task = home.attempt("load").task("load")
    assert task["state"] == "success", home.output()[-4000:]
    ids = {row["id"] for row in duck_rows(tmp_path / "warehouse.duckdb", "usage")}
    assert ids == {f"{'other' if change == 'client' else 'demo'}-{n}" for n in range(24)}
    assert sum(entry["path"] == "/v1/usage" for entry in limitrail_emulator.counters.log) == 4
    assert "What differs: the API's URLs or client." in home.output()


@pytest.mark.exhaustive
def test_a_rotated_secret_is_the_same_pull(home, limio_emulator, tmp_path):
    home.write_dag(DAG.format(before="", more="", out=tmp_path / "out"))
    first = limio_emulator.client_secret
    assert home.attempt("land", kill=["after state", 3]).code == SIGKILL
    limio_emulator.configure(client_secret="rotated-secret-0123456789")
    connection = json.loads(limio_emulator.airflow_connection_json())
    # The same host, spelled in another way.
    home.connect({"limio_default": {**connection, "host": f"{connection['host']}/"}})
    limio_emulator.counters.reset()
    assert home.attempt("land").task("land")["state"] == "success", home.output()[-4000:]
    assert asked(limio_emulator) == PAGES - FINISHED
    stored = json.dumps(home.do("state_of", "pull", run_id="one").result) + home.output()
    assert not [secret for secret in (first, "rotated-secret-0123456789") if secret in stored]


def test_an_unsafe_folder_fails_before_the_first_request(home, limio_emulator, tmp_path):
    home.write_dag(DAG.format(before="", more="retries=5", out=tmp_path / "out"))
    folder = home.attempt("land").task("land")["xcom"]["folder"].removeprefix("file://")
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "out" / "subscriptions" / "pull.land" / "two").symlink_to(folder)
    limio_emulator.counters.reset()
    task = home.attempt("land", run_id="two").task("land")
    assert task["state"] == "failed"
    assert asked(limio_emulator) == 0
    assert "two is a symbolic link" in home.output()
    assert len(records_of(folder)) == 200


def test_two_dags_have_two_folders(home, limio_emulator, tmp_path):
    land = 'LimioToObjectStorageOperator(task_id="{task}", resource="orders", destination="file://{out}", page_size=100)'
    names = [("sales.limio", "orders"), ("sales", "limio.orders"), ("Sales", "limio.orders"), ("s" * 130, "o" * 130)]
    folders = set()
    for number, (dag_id, task) in enumerate(names):
        home.write_dag(textwrap.dedent(land.format(task=task, out=tmp_path / "out")), dag_id=dag_id, name=f"dag_{number}")
        done = home.attempt(task, dag_id=dag_id, run_id="one").task(task)
        assert done["state"] == "success", home.output()[-4000:]
        folders.add(done["xcom"]["folder"])
    assert len({folder.lower() for folder in folders}) == len(names)
    assert {len(records_of(folder)) for folder in folders} == {len(list(limio_emulator.tenant.rows_of("orders")))}
