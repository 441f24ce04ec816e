# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What the example Dags of several machines work on: an emulated LimitRail that takes its time, and a warehouse in Postgres."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Set
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from limio_limitrail.emulator import Call, EmulatorServer, Fault
from tests.support.airflow_cluster import CeleryAirflow
from tests.support.airflow_whole import Run
from tests.support.usage import digest_of

EXAMPLES = Path(__file__).resolve().parents[2] / "dags_examples"
PULL, PARK, RESEND = "limitrail_sliced_pull", "limitrail_sharded_commit", "limitrail_sharded_commit_resend"
HOURS, SHARDS, CONCURRENCY = 24, 16, 4
"""As the examples have them."""
LIST_SECONDS, COMMIT_SECONDS = 0.3, 0.1
"""How long the API takes to answer: so long that the API is waited for, and not this machine's processors."""
ROWS_IN_DOUBT = 16 * CONCURRENCY
"""How many rows a killed commit leaves in doubt at most, as docs/how-to/usage.md says."""


def replaced(text: str, before: str, after: str) -> str:
    assert before in text, before
    return text.replace(before, after)


class ClusterWorld:
    """The Dags, what they work on, and the truth about it. Each test has a day of its own.

    :param folder: what all workers share.
    """

    def __init__(self, airflow: CeleryAirflow, emulator: EmulatorServer, warehouse: Mapping[str, Any], folder: Path) -> None:
        self.airflow = airflow
        self.emulator = emulator
        self.folder = folder
        self.requests: Counter[str] = Counter()
        self._warehouse = warehouse
        emulator.on_request(self._count)
        emulator.faults.add(Fault("latency", match="/v1/usage", method="GET", seconds=LIST_SECONDS, times=None))
        emulator.faults.add(Fault("latency", match="/v1/usage/commit", method="POST", seconds=COMMIT_SECONDS, times=None))
        self._write_dags()
        airflow.add_connection("limitrail_default", emulator.limitrail_connection_json())
        airflow.add_connection("warehouse", json.dumps(dict(warehouse)))
        for dag_id in (PULL, PARK, RESEND):
            airflow.unpause(dag_id)

    def _write_dags(self) -> None:
        quick = ("timedelta(minutes=1)", "timedelta(seconds=2)")
        pull = replaced((EXAMPLES / f"{PULL}.py").read_text(), *quick)
        commit = replaced((EXAMPLES / f"{PARK}.py").read_text(), *quick)
        resend = replaced(replaced(commit, f'dag_id="{PARK}"', f'dag_id="{RESEND}"'), 'on_unknown="park"', 'on_unknown="resend"')
        for dag_id, text in {PULL: pull, PARK: commit, RESEND: resend}.items():
            (self.airflow.home.path / "dags" / f"{dag_id}.py").write_text(text)
        shutil.copytree(EXAMPLES / "cluster", self.airflow.home.path / "config")

    def _count(self, call: Call) -> None:
        headers = {name.lower(): value for name, value in call.headers.items()}
        if "idempotency-key" in headers:
            self.requests[headers["idempotency-key"]] += 1

    # -- what there is to do ---------------------------------------------------------------------------------------

    def list_usage(self, day: str, *, an_hour: int) -> None:
        """Let LimitRail list usage of a day."""
        self.drop("usage", "usage_landed")
        start = datetime.fromisoformat(f"{day}T00:00:00+00:00")
        count = HOURS * an_hour
        self.emulator.limitrail.add_usage(
            {
                "id": f"{day}-{number:06}",
                "committedAt": (start + timedelta(seconds=number * 86_400 / count)).isoformat(),
                "externalAccount": f"account-{number % 97}",
                "operation": "PAYMENT",
                "amount": f"{number % 9973}.25",
            }
            for number in range(count)
        )

    def fill_usage(self, day: str, *, rows: int, shards: str = "0123456789abcdef") -> None:
        """Let there be usage of a day to commit, and a ledger that knows nothing.

        :param shards: those that the rows belong to.
        """
        names = (f"sub-{number}" for number in itertools.count())
        chosen = list(itertools.islice((name for name in names if hashlib.md5(name.encode()).hexdigest()[0] in shards), rows))
        self.drop("usage_of_day", "limitrail_usage_ledger")
        self.emulator.limitrail.clear_journal()
        self.requests.clear()
        accounts = [f"account-{number}" for number in range(100)]
        self.emulator.limitrail.add_accounts(accounts)
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute(
                "CREATE TABLE usage_of_day (subscription_id text, day date, account text, operation text, amount numeric(12, 2))"
            )
            with cursor.copy("COPY usage_of_day FROM STDIN") as copy:
                for number, name in enumerate(chosen):
                    copy.write_row((name, day, accounts[number % 100], "PAYMENT", f"{number % 700}.25"))

    # -- runs ------------------------------------------------------------------------------------------------------

    def begin(self, dag_id: str, day: str, **conf: Any) -> str:
        more = {"root": f"file://{self.folder}"} if dag_id == PULL else {}
        return self.airflow.trigger(dag_id, conf={"day": day, **more, **conf})

    def finish(self, dag_id: str, run_id: str, *, seconds: float = 300) -> Run:
        """Wait for the end of a run."""
        ended = ("success", "failed")
        self.airflow.wait_for(lambda: self.airflow.runs(dag_id)[run_id] in ended, f"{run_id} has ended", seconds=seconds)
        return self.airflow.run(dag_id, run_id)

    def run(self, dag_id: str, day: str, **conf: Any) -> Run:
        return self.finish(dag_id, self.begin(dag_id, day, **conf))

    def seconds_of(self, dag_id: str, run_id: str) -> float:
        """How long a run took."""
        [(seconds,)] = self.airflow.query(
            "SELECT extract(epoch FROM end_date - start_date) FROM dag_run WHERE dag_id = %s AND run_id = %s", dag_id, run_id
        )
        return float(seconds)

    def kill_in_the_middle(self, dag_id: str, run_id: str, *, task_id: str, when: Callable[[Set[str]], bool]) -> set[str]:
        """Kill a worker that runs several copies of a task, and give all tasks that it had.

        :param when: tells, from the tasks that the worker has, that the run is in the middle of its work.
        """
        worker = self.airflow.workers[-1]

        def busy() -> bool:
            mine = self.airflow.tasks_on(worker, dag_id, run_id)
            return sum(name.startswith(f"{task_id}[") for name in mine) >= 2 and when(mine.keys())

        self.airflow.wait_for(busy, f"{worker} is in the middle of {task_id}", seconds=180)
        self.airflow.kill(worker)
        lost = self.airflow.lost_tasks(dag_id, run_id)
        assert lost, "nothing was lost: the worker was killed too late"
        return lost

    def succeeded(self, dag_id: str, run_id: str, *, task_id: str) -> int:
        """Give how many copies of a task have succeeded so far."""
        tasks = self.airflow.run(dag_id, run_id).tasks.items()
        return sum(name.startswith(f"{task_id}[") and task.state == "success" for name, task in tasks)

    # -- what came of it -------------------------------------------------------------------------------------------

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with self._connect() as connection:
            return connection.execute(sql).fetchall()

    def execute(self, sql: str) -> None:
        with self._connect() as connection:
            connection.execute(sql)

    def drop(self, *tables: str) -> None:
        for table in tables:
            self.execute(f"DROP TABLE IF EXISTS {table}")

    def check_pulled(self, day: str, *, an_hour: int) -> None:
        """Check that both tables hold what LimitRail lists of the day, each record once and as it is there."""
        start = datetime.fromisoformat(f"{day}T00:00:00+00:00")
        listed = self.emulator.limitrail.usage["demo"].between(start, start + timedelta(days=1))
        truth = sorted(
            (one.id, *(one.request[name] for name in ("externalAccount", "operation", "amount")), one.at) for one in listed
        )
        assert len(truth) == HOURS * an_hour
        for table in ("usage", "usage_landed"):
            sql = f'SELECT "id", "externalAccount", "operation", "amount", "committedAt" FROM {table}'
            found = sorted((*values, at.astimezone(UTC)) for *values, at in self.query(sql))
            assert found == truth, f"{table}: {len(found)} rows, {len({row[0] for row in found})} of them different"
        [(keys,)] = self.query("SELECT count(*) FROM pg_index WHERE indisprimary AND indrelid = 'usage'::regclass")
        assert keys <= 1

    def ledger(self) -> dict[str, dict[str, Any]]:
        """The ledger by idempotency key."""
        names = ("state", "row_key", "map_index", "try_number", "body_digest", "decision")
        rows = self.query(f"SELECT idempotency_key, {', '.join(names)} FROM limitrail_usage_ledger")
        return {key: dict(zip(names, values, strict=True)) for key, *values in rows}

    def committed(self) -> int:
        """How many rows are committed by now; none where there is no ledger yet."""
        [(there,)] = self.query("SELECT to_regclass('limitrail_usage_ledger')")
        [(count,)] = (
            self.query("SELECT count(*) FROM limitrail_usage_ledger WHERE state = 'committed'") if there is not None else [(0,)]
        )
        return int(count)

    def sending(self, tasks: set[str]) -> set[str]:
        """The keys of rows that tasks have claimed, and of which nothing is known since."""
        found = {
            key: f"commit_usage[{entry['map_index']}]" for key, entry in self.ledger().items() if entry["state"] == "sending"
        }
        return {key for key, task in found.items() if task in tasks}

    def carried_out(self) -> dict[str, Any]:
        """What LimitRail has carried out, by key; no key twice."""
        journal = self.emulator.limitrail.journal
        twice = {key: count for key, count in Counter(entry.key for entry in journal).items() if count > 1}
        assert twice == {}, "carried out twice"
        return {entry.key: entry for entry in journal}

    def check_committed(self, day: str, *, rows: int) -> None:
        """Check that each row was carried out once and as it stands in the table, and that the ledger says so."""
        journal, ledger = self.carried_out(), self.ledger()
        assert {entry["state"] for entry in ledger.values()} == {"committed"}
        assert set(journal) == set(ledger)
        assert len(ledger) == rows
        bodies = {key: json.loads(entry.body) for key, entry in journal.items()}
        found = sorted(
            (
                one["metadata"]["subscription"],
                one["metadata"]["day"],
                one["externalAccount"],
                one["operation"],
                str(one["amount"]),
            )
            for one in bodies.values()
        )
        sql = "SELECT subscription_id, day::text, account, operation, amount::text FROM usage_of_day"
        assert found == sorted(self.query(sql))
        for key, entry in ledger.items():
            assert json.loads(entry["row_key"]) == {"subscription_id": bodies[key]["metadata"]["subscription"], "day": day}
            assert entry["body_digest"] == digest_of("/v1/usage/commit", journal[key].body)

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        database = self._warehouse
        return psycopg.connect(host=database["host"], user=database["login"], dbname=database["schema"], autocommit=True)
