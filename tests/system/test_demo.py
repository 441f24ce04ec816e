# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The demo, small: its runs, its tables, its questions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.exhaustive
def test_the_demo_runs_and_says_what_it_did(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environment |= {"DEMO_HOME": str(tmp_path), "DEMO_SUBSCRIPTIONS": "400", "DEMO_BASKETS": "80"}
    command = [sys.executable, str(ROOT / "dags_examples" / "demo" / "run.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    rows = [line.split() for line in done.stdout.splitlines() if re.match(r"   subscriptions  ", line)]
    [first, second] = rows
    # table, rows, pages, requests, tokens, seconds, inserted, updated, watermark
    assert first[1:5] == ["400", "1", "1", "1"]
    assert first[6:8] == ["400", "0"]
    assert second[1:5] == ["600", "1", "1", "1"]
    assert second[6] == "200"
    # A change that only moves a record's time back to what it was is none: at most as many updates as changes were made.
    assert 0 < int(second[7].replace(",", "")) <= 500
    commits = [line.split() for line in re.findall(r"rows  committed .*\n .*\n(.*)", done.stdout)]
    # rows, committed, denied, rejected, rejected before, parked, requests, tokens, seconds
    [once, again] = [[int(cell.replace(",", "")) for cell in row[:7]] for row in commits]
    assert once[0] == once[1] + once[2] + once[3] + 1 > 5
    assert once[3] > 0
    # Of the request without an answer nothing is known.
    assert (once[5], once[6]) == (1, once[0] - 1)
    # The list has settled the row whose answer was lost.
    assert again == [once[0], once[1] + 1, once[2], 0, once[3], 0, 0]
    for question in (
        "What became of the usage",
        "Active subscriptions by offer",
        "Baskets lost in the last week",
        "Orders a day",
        "Subscriptions that the list no longer has",
        "The history of a subscription that has changed",
        "Where LimitRail's list and the ledger did not agree",
        "LimitRail's list and the ledger in the end",
    ):
        answer = done.stdout.split(f"== {question}")[1].split("==")[0].strip().splitlines()
        assert len(answer) > 3, question
    [found] = [line.split() for line in done.stdout.splitlines() if "  uncertain_there  " in line]
    assert (found[2], *found[-2:]) == ("parked", "committed", "FEE_CALCULATED"), found
    last = done.stdout.rsplit("==", 1)[1]
    totals = {line.split()[2]: [int(cell) for cell in line.split()[3:5]] for line in last.splitlines() if "usage.commit" in line}
    assert totals == {"equal": [once[1] + 1] * 2, "absent": [once[2] + once[3], 0]}
    [[ours, theirs]] = [line.split()[5:] for line in last.splitlines() if "  equal  " in line]
    assert ours == theirs
    assert float(ours) > 0
    with duckdb.connect(str(tmp_path / "warehouse.duckdb"), read_only=True) as warehouse:
        tables = {name for (name,) in warehouse.execute("SELECT table_name FROM information_schema.tables").fetchall()}
        assert tables == {
            "subscriptions", "customers", "orders", "events", "offers", "products", "campaigns", "abandoned_baskets",
            "usage_of_day", "usage_denied", "usage_at_limitrail", "limitrail_usage_ledger",
            "limitrail_usage_differences", "limitrail_usage_totals",
            "current_subscriptions", "current_customers", "_limio_scopes", "_limio_whole_pulls",
            "subscription_versions", "subscription_versions__runs", "subscription_versions__seen",
        }  # fmt: skip
        assert warehouse.execute("SELECT count(*), count(DISTINCT id) FROM subscriptions").fetchall() == [(600, 600)]
        gone = "SELECT count(*) FROM current_subscriptions WHERE _deleted_at IS NOT NULL"
        closed = "SELECT id FROM subscription_versions GROUP BY id HAVING count(*) FILTER (_valid_to IS NULL) = 0"
        assert warehouse.execute(gone).fetchall() == [(40,)]
        assert warehouse.execute(f"SELECT count(*) FROM ({closed})").fetchall() == [(40,)]
        columns = {name for (name, *_) in warehouse.execute("DESCRIBE abandoned_baskets").fetchall()}
        assert "recoveryLink" not in columns
    assert "README.txt" in {path.name for path in tmp_path.iterdir()}
