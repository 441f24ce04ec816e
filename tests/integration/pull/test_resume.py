# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A retry goes on after the last finished part, and starts over where that would not be right."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from limio_limitrail.emulator import Fault
from tests.support.landed import duck_rows, manifest_of, records_of

LIST = "/api/objects/limio/subscriptions"


def asked(emulator, path=LIST):
    return sum(entry["path"] == path for entry in emulator.counters.log)


@pytest.fixture
def landing(home, limio_emulator, place):
    """A task of 12 pages in parts of two, killed once the third part is finished."""
    home.write_dag(
        f"""
        LimioToObjectStorageOperator(
            task_id="land", resource="subscriptions", destination="{place.url}", page_size=17, part_rows=34,
        )
        """
    )
    return home


@pytest.mark.exhaustive
@pytest.mark.needs_state_store
def test_what_makes_a_retry_start_over(landing, limio_emulator, place):
    expected = list(limio_emulator.tenant.rows_of("subscriptions"))

    def again(run_id):
        limio_emulator.counters.reset()
        task = landing.attempt("land", run_id=run_id).task("land")
        assert task["state"] == "success"
        assert records_of(place.here(task["xcom"]["folder"])) == expected
        return asked(limio_emulator)

    def killed(run_id):
        assert landing.attempt("land", run_id=run_id, kill=["after state", 3]).code == -9
        [(_, text)] = landing.do("state_of", "pull", run_id=run_id).result["task"]
        [part] = place.names(f"/{run_id}/part-00001.")
        return json.loads(text), part

    killed("as-it-was")
    assert again("as-it-was") == 6

    _, part = killed("missing")
    place.remove(part)
    assert again("missing") == 12

    _, part = killed("changed")
    content = place.read(part)
    place.write(part, content[:-1] + bytes([content[-1] ^ 1]))
    assert again("changed") == 12

    state, _ = killed("old")
    late = datetime.now(UTC) - timedelta(hours=6, minutes=1)
    landing.do("put_state", "pull", run_id="old", value={**state, "saved_at": late.isoformat()})
    assert again("old") == 12

    state, _ = killed("not-that-old")
    late = datetime.now(UTC) - timedelta(hours=5, minutes=59)
    landing.do("put_state", "pull", run_id="not-that-old", value={**state, "saved_at": late.isoformat()})
    assert again("not-that-old") == 6

    state, _ = killed("broken")
    landing.do("put_state", "pull", run_id="broken", value={"format_version": 1, "signature": state["signature"]})
    assert again("broken") == 12

    killed("expired")
    limio_emulator.expire_cursors()
    assert again("expired") == 13  # the refused one, and all of the window

    killed("other-parameters")
    text = (landing.path / "dags" / "dag_file.py").read_text()
    (landing.path / "dags" / "dag_file.py").write_text(text.replace("part_rows=34", "part_rows=34, drop_columns=['nothing']"))
    assert again("other-parameters") == 12


@pytest.mark.needs_state_store
def test_the_catalog_is_never_resumed_wrongly(make_home, limio_emulator_factory, tmp_path):
    emulator = limio_emulator_factory()
    emulator.put_records(
        "offers", [{"id": f"o{n}", "path": f"/o/{n}", "data": {"modified": "2026-10-01T00:00:00Z"}} for n in range(60)]
    )
    home = make_home(emulator)
    home.write_dag(
        """
        LimioToSqlOperator(task_id="load", resource="offers", sql_conn_id="duck", table="offers", page_size=5, part_rows=10)
        """
    )
    # Also between two parts, with nothing fetched since: nobody can know that.
    for number, (step, count) in enumerate([("after state", 2), ("after request", 5), ("after part", 4)]):
        assert home.attempt("load", run_id=f"r{number}", kill=[step, count]).code == -9
        emulator.counters.reset()
        task = home.attempt("load", run_id=f"r{number}").task("load")
        assert task["state"] == "success"
        assert task["xcom"]["rows"] == 60
        assert sorted(row["id"] for row in duck_rows(tmp_path / "warehouse.duckdb", "offers")) == sorted(
            f"o{n}" for n in range(60)
        )
        assert asked(emulator, "/api/offers") == 12
    assert home.output().count("no retry can resume from there") == 3


@pytest.mark.exhaustive
@pytest.mark.needs_state_store
@pytest.mark.parametrize("ids", ["stay", "change"])
def test_a_list_whose_place_the_api_keeps_is_never_resumed_in_its_middle(make_home, limio_emulator_factory, tmp_path, ids):
    emulator = limio_emulator_factory(object_cursor="scroll", scroll_ids=ids)
    home = make_home(emulator)
    home.write_dag(
        """
        LimioToSqlOperator(task_id="load", resource="subscriptions", sql_conn_id="duck", table="subs", mode="replace",
            page_size=17, part_rows=34)
        """
    )
    truth = sorted(emulator.tenant.ids("subscriptions"))

    def check(run_id, *, requests):
        emulator.counters.reset()
        task = home.attempt("load", run_id=run_id).task("load")
        assert (task["state"], task["xcom"]["rows"]) == ("success", len(truth))
        assert sorted(row["id"] for row in duck_rows(tmp_path / "warehouse.duckdb", "subs")) == truth
        assert asked(emulator) == requests

    # 12 pages, and one of nothing at the end. Nothing is asked for before it is needed.
    assert home.attempt("load", run_id="killed", kill=["before request", 6]).code == -9
    assert asked(emulator) == 5
    check("killed", requests=13)
    assert home.output().count("no retry can resume from there") == 1

    # A page whose answer is lost is gone, and the list begins again within the same try, at most twice.
    emulator.faults.add(Fault("status_after", match=LIST, after=4, status=504))
    emulator.faults.add(Fault("reset_after", match=LIST, after=7))
    check("lost", requests=5 + 4 + 13)
    assert "the page may be gone" in home.output()

    # Smaller pages do not count: 17, 8, 4, 2.
    for after in (2, 3, 4):
        emulator.faults.add(Fault("status_after", match=LIST, after=after, status=413))
    emulator.faults.add(Fault("truncated", match=LIST, after=5))
    emulator.counters.reset()
    task = home.attempt("load", run_id="large").task("load")
    assert (task["state"], task["xcom"]["rows"]) == ("success", len(truth))
    emulator.faults.clear()

    emulator.faults.add(Fault("status_after", match=LIST, after=2, status=503, times=None))
    assert home.attempt("load", run_id="never").task("load")["state"] == "failed"
    emulator.faults.clear()
    assert sorted(row["id"] for row in duck_rows(tmp_path / "warehouse.duckdb", "subs")) == truth


def test_data_that_change_between_tries_are_right_in_the_table(home, limio_emulator, tmp_path):
    home.write_dag(
        """
        LimioToSqlOperator(task_id="load", resource="subscriptions", sql_conn_id="duck", table="subs", page_size=17, part_rows=34)
        """
    )
    assert home.attempt("load", kill=["before request", 8]).code == -9
    limio_emulator.advance(60, changed=40, added=25)
    assert home.attempt("load").task("load")["state"] == "success"
    home.attempt("load", run_id="two")
    rows = {row["id"]: row for row in duck_rows(tmp_path / "warehouse.duckdb", "subs")}
    truth = {row["id"]: row for row in limio_emulator.tenant.rows_of("subscriptions")}
    assert rows.keys() == truth.keys()
    assert all(json.loads(rows[key]["data"]) == truth[key]["data"] for key in truth)


def runs_in(place):
    """Give all files but the one that says how many records the last run had."""
    return {name: content for name, content in place.everything().items() if "/_last_run-" not in name}


def test_a_run_made_again_replaces_its_own_folder_and_no_other(landing, limio_emulator, place):
    first = landing.attempt("land", run_id="first").task("land")["xcom"]["folder"]
    own = runs_in(place)
    second = landing.attempt("land", run_id="second").task("land")["xcom"]["folder"]
    both = runs_in(place)
    stray = f"{place.inside(first)}/part-00099.jsonl.zst"
    place.write(stray, b"left over")
    assert landing.attempt("land", run_id="first").task("land")["xcom"]["folder"] == first
    again = runs_in(place)
    assert again.keys() == both.keys()
    # When the pull began is all that differs.
    assert {name for name in both if again[name] != both[name]} == {f"{place.inside(first)}/manifest.json"} < own.keys()
    limio_emulator.advance(60, added=30)
    landing.attempt("land", run_id="first")
    assert len(records_of(place.here(first))) == 230
    assert {name: place.read(name) for name in place.names(f"{place.inside(second)}/")} == {
        name: content for name, content in both.items() if name not in own
    }


def test_a_folder_without_a_manifest_is_unfinished(landing, place):
    landing.attempt("land", run_id="first")
    landing.attempt("land", run_id="first", kill=["after part", 1])
    assert place.names("manifest.json") == []
    manifest = manifest_of(place.here(landing.attempt("land", run_id="first").task("land")["xcom"]["folder"]))
    assert manifest["rows"] == 200
    assert [part["rows"] for part in manifest["parts"]] == [34, 34, 34, 34, 34, 30]
