# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Every recipe of docs/how-to/recipes.md does what the page says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from limio_limitrail.emulator import EmulatorServer, Fault
from tests.support.clock import wait_for_another_second
from tests.support.landed import duck, duck_rows
from tests.support.pages import blocks

if TYPE_CHECKING:
    from tests.support.airflow_home import AirflowHome

RECIPES = Path(__file__).resolve().parents[2] / "dags_examples" / "recipes"
START = datetime(2026, 3, 1, tzinfo=UTC)
RUN_HERE = {
    "first_backfill", "hourly_sync", "subscription_history", "mapped_pulls", "usage_with_replay",
}  # fmt: skip
RUN_ELSEWHERE = {
    "by_way_of_s3": "tests/packaging/check_s3.py",
    "to_bigquery": "tests/packaging/check_bulk_loads.py",
    "to_redshift": "tests/packaging/check_bulk_loads.py",
    "to_snowflake": "tests/packaging/check_bulk_loads.py",
}


def test_no_recipe_is_forgotten() -> None:
    assert {path.stem for path in RECIPES.glob("*.py")} == RUN_HERE | set(RUN_ELSEWHERE)


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    return tmp_path / "recipes.duckdb"


@pytest.fixture
def recipe_home(
    make_home: Callable[..., AirflowHome], limio_emulator: EmulatorServer, warehouse: Path
) -> Callable[..., AirflowHome]:
    """Make an Airflow home with recipes in it."""

    def make(*names: str) -> AirflowHome:
        home = make_home(limio_emulator, warehouse={"conn_type": "duckdb", "host": str(warehouse)})
        for name in names:
            # What fails here is to fail at once, and not after a pause of minutes.
            text = re.sub(r'"retries": \d', '"retries": 0', (RECIPES / f"{name}.py").read_text())
            (home.path / "dags" / f"{name}.py").write_text(text)
        return home

    return make


def use(emulator: EmulatorServer, first: int, last: int) -> None:
    """Let there be usage at LimitRail: one an hour, for some days of March."""
    emulator.limitrail.add_usage(
        [
            {"id": f"u{day}-{hour}", "committedAt": (START + timedelta(days=day, hours=hour)).isoformat(), "amount": "1.50"}
            for day in range(first, last)
            for hour in range(24)
        ]
    )


def tasks(outcome: Any) -> dict[str, str]:
    return {name: task["state"] for name, task in outcome.result["tasks"].items()}


def ids_in(path: Path, table: str) -> set[str]:
    return {identity for (identity,) in duck(path, f"SELECT id FROM {table}")}


@pytest.mark.exhaustive
@pytest.mark.needs_state_store
def test_a_backfill_that_breaks_goes_on_and_the_hourly_sync_goes_on_from_it(
    recipe_home: Callable[..., AirflowHome], limio_emulator: EmulatorServer, warehouse: Path
) -> None:
    home = recipe_home("first_backfill", "hourly_sync")
    use(limio_emulator, 0, 6)
    killed = home.attempt("usage", dag_id="first_backfill", kill=["after state", 100])
    assert killed.code == -9
    before = len(limio_emulator.counters.log)
    again = home.attempt("usage", dag_id="first_backfill")
    assert again.task("usage")["state"] == "success", home.output()[-4000:]
    summary = again.task("usage")["xcom"]
    assert summary["since"] == "2026-01-01T00:00:00+00:00"
    assert summary["rows"] == 6 * 24
    days = (datetime.fromisoformat(summary["until"]) - datetime.fromisoformat(summary["since"])) / timedelta(days=1)
    asked = [entry for entry in limio_emulator.counters.log[before:] if entry["path"] == "/v1/usage"]
    assert days - 101 < len(asked) < days - 97, "it began again in the place of going on"
    assert home.attempt("orders", dag_id="first_backfill").task("orders")["state"] == "success"
    assert ids_in(warehouse, "orders") == set(limio_emulator.tenant.ids("orders"))

    use(limio_emulator, 6, 7)
    hourly = home.run("hourly_sync", logical_date="2026-11-01T00:00:00+00:00")
    assert set(tasks(hourly).values()) == {"success"}, home.output()[-4000:]
    newest = START + timedelta(days=5, hours=23)
    assert hourly.task("usage")["xcom"]["since"] == (newest - timedelta(hours=1)).isoformat()
    assert hourly.task("usage")["xcom"]["inserted"] == 24
    assert ids_in(warehouse, "usage") == {f"u{day}-{hour}" for day in range(7) for hour in range(24)}


@pytest.mark.exhaustive
@pytest.mark.needs_state_store
def test_the_hourly_sync_asks_for_what_is_new(
    recipe_home: Callable[..., AirflowHome], limio_emulator: EmulatorServer, warehouse: Path
) -> None:
    home = recipe_home("hourly_sync")
    use(limio_emulator, 0, 2)
    first = home.run("hourly_sync", logical_date="2026-11-01T00:00:00+00:00")
    assert set(tasks(first).values()) == {"success"}, home.output()[-4000:]
    assert first.task("offers")["xcom"]["since"] is None
    assert first.task("abandoned_baskets")["xcom"]["since"] == "2020-01-01T00:00:00+00:00"
    marks = {name: datetime.fromisoformat(task["xcom"]["watermark"]) for name, task in first.result["tasks"].items()}

    limio_emulator.advance(3600, catalog_modified=8, baskets_added=5, baskets_completed=3)
    use(limio_emulator, 2, 3)
    second = home.run("hourly_sync", logical_date="2026-11-01T01:00:00+00:00")
    assert set(tasks(second).values()) == {"success"}, home.output()[-4000:]
    overlaps = {"offers": timedelta(minutes=5), "abandoned_baskets": timedelta(days=14), "usage": timedelta(hours=1)}
    for name, overlap in overlaps.items():
        assert second.task(name)["xcom"]["since"] == (marks[name] - overlap).isoformat()
    assert 0 < second.task("offers")["xcom"]["rows"] < 30
    assert second.task("abandoned_baskets")["xcom"]["inserted"] == 5
    assert second.task("usage")["xcom"]["inserted"] == 24

    tenant = limio_emulator.tenant
    found = {row["id"]: row for row in duck_rows(warehouse, "abandoned_baskets")}
    assert set(found) == set(tenant.ids("baskets"))
    fortnight = marks["abandoned_baskets"] - timedelta(days=14)
    recent = [identity for identity, row in found.items() if row["created"] >= fortnight]
    assert {found[one]["completed"] for one in recent} == {True, False}
    assert all(found[one]["completed"] == tenant.record("baskets", one)["completed"] for one in recent)
    assert "recoveryLink" not in next(iter(found.values()))
    assert ids_in(warehouse, "usage") == {f"u{day}-{hour}" for day in range(3) for hour in range(24)}


class Tenant:
    """Three subscriptions that change from day to day, and what their history is."""

    def __init__(self, emulator: EmulatorServer) -> None:
        self.emulator = emulator

    def show(self, **statuses: str) -> None:
        """Let the list be these subscriptions."""
        records = [
            {
                "id": name,
                "status": status,
                "created": "2026-01-01T00:00:00Z",
                "updated": "2026-01-01T00:00:00Z",
                "data": {"name": "Digital", "price": {"amount": 5}},
            }
            for name, status in statuses.items()
        ]
        self.emulator.put_records("objects/limio/subscriptions", records)


@pytest.mark.exhaustive
def test_the_history_of_subscriptions(
    recipe_home: Callable[..., AirflowHome], limio_emulator: EmulatorServer, warehouse: Path
) -> None:
    home, tenant = recipe_home("subscription_history"), Tenant(limio_emulator)

    def newest() -> datetime:
        [(found,)] = duck(warehouse, "SELECT max(_extracted_at) FROM subscription_snapshots")
        return found

    def take(run_id: str) -> datetime:
        wait_for_another_second()
        outcome = home.attempt("snapshot", dag_id="subscription_history", run_id=run_id)
        assert outcome.task("snapshot")["state"] == "success", home.output()[-4000:]
        return newest()

    def history() -> set[tuple[Any, ...]]:
        return set(duck(warehouse, "SELECT id, status, valid_from, valid_to FROM subscription_history"))

    tenant.show(stays="active", leaves="active", returns="active")
    first = take("day-1")
    tenant.show(stays="active", leaves="active", returns="cancelled")
    take("day-2")
    # The day is run again, and says what is true by then.
    tenant.show(stays="active", leaves="cancelled")
    second = take("day-2")
    tenant.show(stays="active", leaves="cancelled", returns="active")
    third = take("day-3")
    assert len(duck_rows(warehouse, "subscription_snapshots")) == 3 + 2 + 3

    # A run more on the same day, by hand, is a snapshot more: it changes nothing where nothing is new.
    wait_for_another_second()
    outcome = home.run("subscription_history", logical_date="2026-11-03T00:00:00+00:00")
    assert set(tasks(outcome).values()) == {"success"}, home.output()[-4000:]
    assert newest() > third
    expected = {
        ("stays", "active", first, None),
        ("leaves", "active", first, second),
        ("leaves", "cancelled", second, None),
        ("returns", "active", first, second),
        ("returns", "active", third, None),
    }
    assert history() == expected
    [query] = blocks("docs/how-to/recipes.md", section="Slowly changing history", language="sql")
    with duckdb.connect(str(warehouse), read_only=True) as database:
        database.execute("SET VARIABLE day = ?::TIMESTAMPTZ", [second])
        now_and_then = [set(database.execute(one).fetchall()) for one in query.text.split(";") if one.strip()]
    assert now_and_then == [
        {("active", 2), ("cancelled", 1)},
        {("stays", "active"), ("leaves", "cancelled")},
    ]


@pytest.mark.exhaustive
def test_mapped_pulls(recipe_home: Callable[..., AirflowHome], limio_emulator: EmulatorServer, warehouse: Path) -> None:
    home = recipe_home("mapped_pulls")
    use(limio_emulator, 0, 31)
    outcome = home.run("mapped_pulls", logical_date="2026-11-01T00:00:00+00:00")
    states = tasks(outcome)
    assert set(states.values()) == {"success"}, home.output()[-4000:]
    assert {name for name in states if name.startswith("usage")} == {f"usage[{week}]" for week in range(5)}
    for table in ("customers", "events"):
        assert ids_in(warehouse, table) == set(limio_emulator.tenant.ids(table))
    [(products,)] = duck(warehouse, "SELECT count(DISTINCT path) FROM products")
    assert products == limio_emulator.tenant.count("catalog/product")
    assert ids_in(warehouse, "usage") == {f"u{day}-{hour}" for day in range(31) for hour in range(24)}
    windows = [outcome.task(f"usage[{week}]")["xcom"] for week in range(5)]
    assert [one["since"] for one in windows[1:]] == [one["until"] for one in windows[:-1]]
    assert sum(one["rows"] for one in windows) == 31 * 24


def put_usage(warehouse: Path, *accounts: str) -> None:
    with duckdb.connect(str(warehouse)) as database:
        database.execute("CREATE TABLE usage_rows (account VARCHAR, day DATE, operation VARCHAR, amount DECIMAL(9, 2))")
        database.executemany("INSERT INTO usage_rows VALUES (?, '2026-03-01', 'PAYMENT', 5)", [[one] for one in accounts])


def test_a_parked_row_is_looked_at_and_settled(
    recipe_home: Callable[..., AirflowHome], limio_emulator: EmulatorServer, warehouse: Path
) -> None:
    home, limitrail = recipe_home("usage_with_replay"), limio_emulator.limitrail
    limitrail.add_accounts(["known"])
    put_usage(warehouse, "known")
    limio_emulator.faults.add(Fault("reset_after", match="/v1/usage/commit", times=1))
    parked = home.run("usage_with_replay", logical_date="2026-11-01T00:00:00+00:00").task("commit_usage")
    assert (parked["state"], parked["xcom"]["parked"]) == ("failed", 1)
    [look, settle, _] = blocks("docs/how-to/settle-usage.md", section="Parked rows in SQL", language="sql")
    [carried_out] = limitrail.journal
    [(key, *_)] = duck(warehouse, look.text)
    assert key == carried_out.key
    assert settle.text.count("'...'") == 1
    with duckdb.connect(str(warehouse)) as database:
        database.execute(settle.text.replace("...", key))
    again = home.run("usage_with_replay", logical_date="2026-11-02T00:00:00+00:00").task("commit_usage")
    assert again["state"] == "success", home.output()[-4000:]
    assert len(limitrail.journal) == 1


def test_rejected_usage_is_replayed(
    recipe_home: Callable[..., AirflowHome], limio_emulator: EmulatorServer, warehouse: Path
) -> None:
    home, limitrail = recipe_home("usage_with_replay"), limio_emulator.limitrail
    limitrail.add_accounts(["known"])
    put_usage(warehouse, "known", "new")
    [conf] = blocks("docs/how-to/recipes.md", section="Replay rejected usage", language="json")
    [question] = blocks("docs/how-to/recipes.md", section="Replay rejected usage", language="sql")

    def commit(day: int, **how: Any) -> dict[str, Any]:
        found: dict[str, Any] = home.run("usage_with_replay", logical_date=f"2026-11-{day:02}T00:00:00+00:00", **how).task(
            "commit_usage"
        )
        return found

    def keys() -> list[str]:
        return [entry.body.decode().split('"externalAccount":"')[1].split('"')[0] for entry in limitrail.journal]

    first = commit(1)
    assert first["state"] == "failed"
    assert (first["xcom"]["committed"], first["xcom"]["rejected"]) == (1, 1)
    [(key, *_)] = duck(warehouse, question.text)
    assert json.loads(key)["account"] == "new"

    limitrail.add_accounts(["new"])
    commit(2)
    assert keys() == ["known"], "without replay nothing is sent again"
    replayed = commit(3, conf=json.loads(conf.text))
    assert replayed["state"] == "success", home.output()[-4000:]
    assert keys() == ["known", "new"]
    commit(4, conf=json.loads(conf.text))
    assert keys() == ["known", "new"]
