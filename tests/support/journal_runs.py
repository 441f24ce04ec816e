# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Usage that is billed through the real operator to the API with the journal, and what must hold of it at any time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from limio_limitrail.usage import Column
from tests.support.airflow_home import environment
from tests.support.journal import Call, JournalServer
from tests.support.journal_process import read, write
from tests.support.usage import SIGKILL, Database

TABLE = "limitrail_usage_ledger"
UNCERTAIN = ("sending", "unknown", "parked")
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a try ended.

    :param code: of the process.
    :param log: everything that it logged.
    """

    code: int
    log: str
    state: str = ""
    error: str = ""
    summary: dict[str, Any] = field(default_factory=dict)


class Runner:
    """A process that tries tasks in processes of their own."""

    def __init__(self, home: Path) -> None:
        self._noise = (home.parent / "runner.log").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.journal_process"],
            env=environment(home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
        )
        assert self._answer() == "ready"

    def ask(self, **command: Any) -> Any:
        assert self._process.stdin is not None
        write(self._process.stdin, command)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        found = read(self._process.stdout)
        if found is None:
            self._noise.seek(0)
            raise AssertionError("the process ended: " + self._noise.read()[-4000:])
        return found

    def stop(self) -> None:
        self._process.communicate(timeout=600)
        self._noise.close()


@dataclass(kw_only=True)
class Billing:
    """An API, a database with the ledger, and the tasks that send.

    :param runner: tries the tasks.
    :param folder: for logs.
    """

    server: JournalServer
    database: Database
    runner: Runner
    folder: Path
    tries: Counter[str] = field(default_factory=Counter)
    began: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._pid: int | None = None
        self._begun = threading.Event()

    def attempt(
        self,
        run_id: str = "one",
        *,
        rows: Sequence[Row] | None = None,
        kill: Sequence[Any] | None = None,
        client: str = "acme",
        connection: Mapping[str, Any] | None = None,
        task_id: str = "commit",
        dag_id: str = "usage",
        **parameters: Any,
    ) -> Ended:
        """Try a task once: the next try of its run.

        :param rows: with ``account``, ``k`` and ``amount``; else the parameters say where the rows are.
        :param kill: a step and for which time it is reached; see `airflow_process.arm`.
        :param client: the client id of the connection.
        :param connection: further fields of the connection's extra.
        """
        self.tries[run_id] += 1
        usual: dict[str, Any] = {
            "sql_conn_id": self.database.conn_id,
            "key_columns": ["k"],
            "body": {"externalAccount": Column("account"), "amount": Column("amount")},
            "ledger_table": TABLE,
            **({} if rows is None else {"rows": list(rows)}),
        }
        connections = {
            "limitrail_default": self.server.connection(client=client, **(connection or {})),
            self.database.conn_id: self.database.connection,
        }
        log = self.folder / "output.log"
        self._begun.clear()
        self._pid = self.runner.ask(
            do="begin",
            log=str(log),
            run_id=run_id,
            dag_id=dag_id,
            task_id=task_id,
            try_number=self.tries[run_id],
            began=self.began.setdefault(run_id, datetime.now(UTC).isoformat()),
            kill=kill,
            environment={f"AIRFLOW_CONN_{name.upper()}": json.dumps(fields) for name, fields in connections.items()},
            parameters={**usual, **parameters},
        )
        self._begun.set()
        code, result = self.runner.ask(do="join", log=str(log), pid=self._pid)
        self.server.quiet()
        self.server.reached = lambda moment, call: None
        said = log.read_text(errors="replace") if log.exists() else ""
        log.unlink(missing_ok=True)
        assert code in (0, SIGKILL), said[-6000:]
        return Ended(code=code, log=said, **result)

    def kill_at(self, number: int, moment: str) -> None:
        """Kill the task that sends when the API has come to a moment of its n-th request from now on; see `JournalServer`."""
        number += len(self.server.calls)

        def reached(now: str, call: Call) -> None:
            if now == moment and call.number == number:
                self._begun.wait()
                assert self._pid is not None
                os.kill(self._pid, signal.SIGKILL)

        self.server.reached = reached

    # -- the ledger --------------------------------------------------------------------------------------------------

    def ledger(self) -> dict[str, dict[str, Any]]:
        """The ledger's rows by key; empty where there is no ledger yet."""
        if not self.database.ledger(TABLE):
            return {}
        names = (
            "idempotency_key, state, row_key, http_status, decision, reservation_id, error_code, detail, attempts, "
            "in_doubt_since, operation, run_id, finished_at IS NOT NULL AS finished"
        )
        return {row["idempotency_key"]: row for row in self.database.query(f"SELECT {names} FROM {TABLE}")}

    def states(self, *names: str) -> dict[str, str]:
        """The states of rows by what tells them apart: the key column, as it stands in the ledger."""
        found = {str(json.loads(row["row_key"])["k"]): row["state"] for row in self.ledger().values()}
        return {name: found.get(name, "free") for name in names} if names else found

    def set(self, where: str, **values: Any) -> None:
        """Change ledger rows, as a person would."""
        written = ", ".join(f"{name} = {'NULL' if value is None else repr(value)}" for name, value in values.items())
        if self.ledger():
            self.database.execute(f"UPDATE {TABLE} SET {written} WHERE {where}")

    def wait(self, seconds: float) -> None:
        """Let time pass for the API and for the ledger."""
        self.server.wait(seconds)
        if not self.database.ledger(TABLE):
            return
        kinds = {"pg": "{} - interval '{} seconds'", "duck": "{} - interval {} second", "lite": "datetime({}, '-{} seconds')"}
        times = [f"{name} = {kinds[self.database.conn_id].format(name, int(seconds))}" for name in ("claimed_at", "finished_at")]
        numbers = [f"{name} = {name} - {int(1000 * seconds)}" for name in ("lease_until", "in_doubt_since")]
        self.database.execute(f"UPDATE {TABLE} SET {', '.join([*times, *numbers])}")
        self.began = {
            run: datetime.fromtimestamp(datetime.fromisoformat(began).timestamp() - seconds, UTC).isoformat()
            for run, began in self.began.items()
        }

    # -- what must hold ----------------------------------------------------------------------------------------------

    def check(self, *, told: frozenset[str] = frozenset()) -> None:
        """Compare the ledger with the journal.

        :param told: rows of which a person has said that they are to be sent, without having looked.
        """
        ledger = self.ledger()
        done = {entry.key: entry for entry in self.server.journal}
        twice = {row: count for row, count in self.server.times().items() if count > 1 and row not in told}
        assert not twice, f"carried out more than once: {twice}"
        for key, entry in ledger.items():
            label = (entry["row_key"], entry["state"], entry["detail"])
            match entry["state"]:
                case "committed":
                    assert key in done, f"committed, and never carried out: {label}"
                    if entry["reservation_id"] is not None:
                        own = {one.reservation for one in self.server.journal if one.key == key}
                        assert entry["reservation_id"] in own, f"another's answer: {label}"
                case "denied" | "rejected":
                    assert key not in done, f"carried out, and not so in the ledger: {label}"
                case "parked" | "unknown":
                    assert entry["detail"], f"in doubt without a word: {label}"
                case _:
                    assert entry["state"] in ("sending", "given_up"), label
        assert set(done) <= set(ledger), "carried out, and forgotten"

    def uncertain(self) -> int:
        """How many rows are in doubt in the ledger."""
        return sum(entry["state"] in UNCERTAIN for entry in self.ledger().values())


def make_rows(*names: str, amount: float = 1) -> list[dict[str, Any]]:
    return [{"account": name, "k": name, "amount": amount} for name in names]
