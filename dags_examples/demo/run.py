# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The main jobs from end to end: emulated APIs, real Airflow, a DuckDB warehouse.

The sync twice, a usage commit twice, a list that loses records, with what a table and a history then say of them; and at last
LimitRail's own list beside the ledger.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import duckdb
import requests

from limio_limitrail.emulator import EmulatorServer, TenantSize

ROOT = Path(__file__).resolve().parent.parent.parent
HOME = Path(os.environ.get("DEMO_HOME", ROOT / ".demo"))
WAREHOUSE = HOME / "warehouse.duckdb"
SYNC = "limio_warehouse_sync"
COMMIT = "limitrail_usage_commit"
LISTS = ("limio_deletes", "limio_history")
SUBSCRIPTIONS = int(os.environ.get("DEMO_SUBSCRIPTIONS", "50000"))
BASKETS = int(os.environ.get("DEMO_BASKETS", "2000"))

QUESTIONS = {
    "Active subscriptions by offer": """
        SELECT plan AS offer, count(*) AS subscriptions, currency, CAST(avg(price) AS DOUBLE) AS price
        FROM subscriptions WHERE status = 'active' GROUP BY ALL ORDER BY subscriptions DESC, offer, currency LIMIT 8
    """,
    "Baskets lost in the last week, by campaign": """
        SELECT coalesce(campaign, '(none)') AS campaign, count(*) AS baskets,
            count(*) FILTER (customerDetails->>'email' IS NOT NULL) AS with_an_address
        FROM abandoned_baskets
        WHERE NOT completed AND created > (SELECT max(created) FROM abandoned_baskets) - INTERVAL 7 DAY
        GROUP BY 1 ORDER BY baskets DESC, campaign LIMIT 8
    """,
    "What became of the usage, by the ledger": """
        SELECT state, decision, error_code, count(*) AS rows
        FROM limitrail_usage_ledger GROUP BY ALL ORDER BY rows DESC, state, decision
    """,
    "Orders a day": """
        SELECT CAST(created AT TIME ZONE 'UTC' AS DATE) AS day, count(*) AS orders, count(DISTINCT country) AS countries
        FROM orders GROUP BY day ORDER BY day DESC LIMIT 8
    """,
    "Subscriptions that the list no longer has": """
        SELECT status, count(*) AS subscriptions, max(_deleted_at) AS gone_since
        FROM current_subscriptions WHERE _deleted_at IS NOT NULL GROUP BY status ORDER BY subscriptions DESC
    """,
    "The history of a subscription that has changed": """
        SELECT id, status, plan, price, _valid_from, _valid_to FROM subscription_versions
        WHERE id = (SELECT min(id) FROM (SELECT id FROM subscription_versions GROUP BY id HAVING count(*) > 1))
        ORDER BY _valid_from
    """,
    "Where LimitRail's list and the ledger did not agree, and how it was settled": """
        SELECT d.row_key->>'subscription_id' AS subscription, d.kind, d.state AS was, d.reason, l.state AS now, l.decision
        FROM limitrail_usage_differences AS d LEFT JOIN limitrail_usage_ledger AS l USING (idempotency_key)
        ORDER BY d.since, d.kind, subscription LIMIT 8
    """,
    "LimitRail's list and the ledger in the end": """
        SELECT operation, day, kind, ledger_rows, list_records, ledger_amount, list_amount
        FROM limitrail_usage_totals WHERE since = (SELECT max(since) FROM limitrail_usage_totals)
        ORDER BY operation, day, kind
    """,
}

_OF_INTEREST = re.compile(
    r"\[(info|warning|error)\s*\] (.*?)\s+\[(limio_limitrail|airflow\.task\.operators\.limio_limitrail)[\w.]*\]"
)
_DETAILS = ("::", "Loading ", "Loaded into ")
"""Lines that say what a summary says again, and the borders of groups, which a page of Airflow folds."""
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """A running emulator.

    :param url: where it listens.
    :param environment: what a process needs to find it as the connections ``limio_default`` and ``limitrail_default``.
    """

    url: str
    environment: dict[str, str]


def say(text: str = "") -> None:
    """Print at once."""
    print(text, flush=True)


def shown(path: Path) -> Path:
    """Give a path as a person at the project's root would type it."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


@contextlib.contextmanager
def emulator() -> Iterator[Emulator]:
    """Start the emulator in a process of its own, with credentials made up for this run."""
    limio, limitrail = ("demo", secrets.token_urlsafe(24)), ("lr_demo", secrets.token_urlsafe(24))
    command = [sys.executable, "-m", "limio_limitrail.emulator", "--port", "0"]
    # With equals signs, because a secret may begin with a dash.
    command += [f"--client-id={limio[0]}", f"--client-secret={limio[1]}"]
    command += [f"--limitrail-client-id={limitrail[0]}", f"--limitrail-client-secret={limitrail[1]}"]
    command += ["--subscriptions", str(SUBSCRIPTIONS), "--baskets", str(BASKETS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://\S+", line)
            if found is None:
                raise SystemExit(f"the emulator did not start: {line!r}")
            connections = {
                name: {"conn_type": conn_type, "host": found[0], "login": login, "password": password, "extra": extra}
                for name, conn_type, (login, password), extra in (
                    ("AIRFLOW_CONN_LIMIO_DEFAULT", "limio", limio, {}),
                    ("AIRFLOW_CONN_LIMITRAIL_DEFAULT", "limitrail", limitrail, {"scope": "limitrail.usage.write"}),
                )
            }
            yield Emulator(url=found[0], environment={name: json.dumps(value) for name, value in connections.items()})
        finally:
            process.terminate()


def environment(server: Emulator) -> dict[str, str]:
    """Give Airflow a home of its own below ``.demo``."""
    return {
        **os.environ,
        **server.environment,
        "AIRFLOW_HOME": str(HOME / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags_examples"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_WAREHOUSE": json.dumps({"conn_type": "duckdb", "host": str(WAREHOUSE)}),
        "PYTHONWARNINGS": "ignore",
    }


class Airflow:
    """One process that runs Dags, one after another, and keeps what it has imported.

    :param env: its environment.
    """

    def __init__(self, env: dict[str, str]) -> None:
        command = [sys.executable, str(Path(__file__).with_name("run_dag.py"))]
        self._process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *dag_ids: str, log: str, connections: Mapping[str, str] | None = None) -> str:
        """Run Dags once each, write all that is printed to a log, show what this provider says, and return the last run's id.

        :param connections: environment variables of connections that change.
        """
        began = time.monotonic()
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"dags": dag_ids, "environment": dict(connections or {})}) + "\n")
        stdin.flush()
        run_ids: list[str] = []
        with (HOME / log).open("w") as file:
            while len(run_ids) < len(dag_ids) and (line := stdout.readline()):
                file.write(line)
                if line.startswith("run_id="):
                    run_ids.append(line.strip().removeprefix("run_id="))
                found = _OF_INTEREST.search(_ANSI.sub("", line))
                if found and not found[2].startswith(_DETAILS):
                    say(f"   {time.monotonic() - began:5.1f} s  {found[2]}")
        if len(run_ids) < len(dag_ids) or not self._is_well(run_ids[-1]):
            raise SystemExit(f"{' and '.join(dag_ids)} failed; all it printed is in {shown(HOME / log)}")
        return run_ids[-1]

    def _is_well(self, run_id: str) -> bool:
        with contextlib.closing(sqlite3.connect(HOME / "airflow" / "airflow.db")) as database:
            return database.execute("SELECT state FROM dag_run WHERE run_id = ?", [run_id]).fetchall() == [("success",)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def migrate(env: dict[str, str]) -> None:
    """Make Airflow's metadata database, as a user does."""
    log = HOME / "migrate.log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "airflow", "db", "migrate"]
        if subprocess.run(command, env=env, stdout=file, stderr=subprocess.STDOUT, check=False).returncode:
            raise SystemExit(f"the migration failed; all it printed is in {shown(log)}")


def summaries(run_id: str) -> list[dict[str, Any]]:
    """Read what the tasks of a run put into XCom."""
    with contextlib.closing(sqlite3.connect(HOME / "airflow" / "airflow.db")) as database:
        rows = database.execute(
            "SELECT x.value FROM xcom x JOIN task_instance t USING (dag_id, task_id, run_id, map_index) "
            "WHERE x.key = 'return_value' AND x.run_id = ? ORDER BY t.task_id",
            [run_id],
        ).fetchall()
    return [value if isinstance(value := json.loads(text), dict) else json.loads(value) for (text,) in rows]


def table(rows: Sequence[Sequence[object]], headings: Sequence[str]) -> str:
    """Lay rows out in columns, numbers to the right."""

    def text(cell: object) -> str:
        return (
            f"{cell:,}"
            if isinstance(cell, int)
            else f"{cell:,.1f}"
            if isinstance(cell, float)
            else ""
            if cell is None
            else str(cell)
        )

    texts = [[text(cell) for cell in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(headings, *texts, strict=True)]
    right = [all(isinstance(row[index], int | float) for row in rows) for index in range(len(headings))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if flush else cell.ljust(width) for cell, width, flush in zip(cells, widths, right, strict=True)
        ]
        return "   " + "  ".join(padded).rstrip()

    return "\n".join([line(headings), line(["-" * width for width in widths]), *(line(cells) for cells in texts)])


def show_run(run_id: str) -> None:
    """Print a run's summaries as a table."""
    headings = ["table", "rows", "pages", "requests", "tokens", "seconds", "inserted", "updated", "watermark"]
    rows = [[item[name] if name != "watermark" else (item[name] or "")[:19] for name in headings] for item in summaries(run_id)]
    say(table(rows, headings))


def show_commit(run_id: str) -> None:
    """Print what was committed, and what not."""
    [summary] = [item for item in summaries(run_id) if "rejected_before" in item]
    headings = ["rows", "committed", "denied", "rejected", "rejected_before", "parked", "requests", "tokens", "seconds"]
    say(table([[summary[name] for name in headings]], headings))
    say()


def clear_away() -> None:
    """Remove what an earlier demo left, and nothing else, wherever the folder is."""
    shutil.rmtree(HOME / "airflow", ignore_errors=True)
    logs = ("migrate.log", "run-1.log", "run-2.log", "commit-1.log", "commit-2.log", "lists-1.log", "lists-2.log")
    for name in ("warehouse.duckdb", "warehouse.duckdb.wal", *logs, "README.txt"):
        (HOME / name).unlink(missing_ok=True)
    (HOME / "airflow").mkdir(parents=True)


def lose_records(airflow: Airflow) -> None:
    """Run the Dags that notice what a list no longer has, before and after a tenant loses some of its records."""
    with EmulatorServer(size=TenantSize(subscriptions=1000)) as server:
        connection = {"AIRFLOW_CONN_LIMIO_DEFAULT": server.airflow_connection_json()}
        say(f"== The Dags {' and '.join(LISTS)}: another tenant, with 1,000 subscriptions")
        airflow.run(*LISTS, log="lists-1.log", connections=connection)
        say()
        server.advance(86400, changed=100)
        server.put_records("objects/limio/subscriptions", list(server.tenant.rows_of("subscriptions"))[:-40])
        say("== A day passes: 100 subscriptions change, 40 are gone")
        airflow.run(*LISTS, log="lists-2.log")
        say()


def main() -> None:
    """Run the demo."""
    began = time.monotonic()
    clear_away()
    say("== An emulated Limio tenant, and an emulated LimitRail")
    say(f"   {SUBSCRIPTIONS:,} subscriptions with their customers, orders and events; a catalog; {BASKETS:,} abandoned baskets")
    with emulator() as server, Airflow(environment(server)) as airflow:
        say(f"   listening on {server.url}")
        say("== Airflow's metadata database (SQLite)")
        migrate(environment(server))
        for number in (1, 2):
            say(f"== Run {number} of the Dag {SYNC}")
            run_id = airflow.run(SYNC, log=f"run-{number}.log")
            say()
            show_run(run_id)
            say()
            if number == 1:
                say("== A day passes: 500 subscriptions change, 200 are sold, 60 baskets are left, 10 catalog items are edited")
                day = {"seconds": 86400, "changed": 500, "added": 200, "baskets_added": 60, "catalog_modified": 10}
                requests.post(f"{server.url}/_emulator/advance", json=day, timeout=60).raise_for_status()
        for number, title in ((1, "usage rows from the warehouse, each committed once"), (2, "the same rows again")):
            say(f"== Run {number} of the Dag {COMMIT}: {title}")
            if number == 1:
                # Of an operation that LimitRail neither denies nor rejects.
                lost = {"kind": "reset_after", "match": "/v1/usage/commit", "text": "EXPORT"}
                requests.post(f"{server.url}/_emulator/faults", json=lost, timeout=60).raise_for_status()
                say("   The answer to one row is lost: whether LimitRail has carried it out, only its own list can tell.")
            run_id = airflow.run(COMMIT, log=f"commit-{number}.log")
            say()
            show_commit(run_id)
        lose_records(airflow)
    with duckdb.connect(str(WAREHOUSE), read_only=True) as warehouse:
        for question, sql in QUESTIONS.items():
            say(f"== {question}")
            found = warehouse.execute(sql)
            headings = [column[0] for column in found.description or []]
            say(table(found.fetchall(), headings))
            say()
    path = shown(WAREHOUSE)
    show = f"import duckdb; duckdb.connect('{path}').sql('SHOW TABLES').show()"
    note = f'The warehouse is {path}. Open it with: .venv/bin/python -c "{show}"'
    (HOME / "README.txt").write_text(f"{note}\nWhat Airflow printed is in the .log files.\n")
    say(note)
    say(f"Done in {time.monotonic() - began:.0f} s.")


if __name__ == "__main__":
    main()
