# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A place to commit usage from: an emulated LimitRail, a database with rows and a ledger, and an Airflow home."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from limio_limitrail.api.pagination import CursorString
from limio_limitrail.api.resource import Resource, TimeFilter
from limio_limitrail.emulator import EmulatorServer
from tests.support.airflow_home import AirflowHome, Outcome
from tests.support.duckdb_files import open_duckdb

COMMIT = "/v1/usage/commit"
PAGED_USAGE = Resource(
    name="usage",
    path="/v1/usage",
    time_column="committedAt",
    time_filter=TimeFilter(since="from", until="to", field="committedAt", required=True),
    paging=CursorString(cursor_param="cursor", cursor_member="nextCursor"),
)
"""The list of usage, read page by page."""
SIGKILL = -9

UsageRow = tuple[str, str, str, str]
"""Account, day, operation and amount, as text."""


class Code(str):
    """Python text that a Dag file holds as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


BODY = Code(
    '{"externalAccount": Column("account"), "operation": Column("operation"), "amount": Column("amount"), '
    '"currency": "EUR", "metadata": {"day": Column("day")}}'
)
QUERY = "SELECT account, day, operation, amount FROM usage ORDER BY account, day"


def make_rows(count: int, *, account: str = "acme") -> list[UsageRow]:
    """Rows with different keys: a hundred accounts, one row a day."""
    return [(f"{account}-{n % 100}", f"day-{n // 100:04}", "PAYMENT", f"{n % 700}.25") for n in range(count)]


def accounts_of(rows: Iterable[UsageRow]) -> list[str]:
    return sorted({row[0] for row in rows})


def digest_of(path: str, body: bytes) -> str:
    """The digest of a request, with each number in its shortest plain form."""

    def shortest(text: str) -> Any:
        digits = format(Decimal(text), "f")
        digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
        return Code("0" if digits == "-0" else digits)

    def written(value: Any) -> str:
        if isinstance(value, Code):
            return str(value)
        if isinstance(value, dict):
            return "{" + ",".join(f"{written(name)}:{written(value[name])}" for name in sorted(value)) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(written, value)) + "]"
        return json.dumps(value, ensure_ascii=False)

    plain = written(json.loads(body, parse_float=shortest, parse_int=shortest))
    return f"v2:{hashlib.sha256(plain.encode()).hexdigest()}:{hashlib.sha256(path.encode()).hexdigest()[:16]}"


@dataclass
class Database:
    """Where the rows and the ledger are.

    :param conn_id: the Airflow connection.
    :param connection: its fields.
    """

    conn_id: str
    connection: dict[str, Any]

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Give rows as mappings."""
        with self._open() as connection:
            cursor = self._cursor(connection)
            cursor.execute(sql)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]

    def execute(self, *statements: str) -> None:
        with self._open() as connection:
            for statement in statements:
                self._cursor(connection).execute(statement)
            if self.conn_id != "duck":
                connection.commit()

    def _open(self) -> Any:
        if self.conn_id == "pg":
            import psycopg

            return psycopg.connect(host=self.connection["host"], user="postgres", dbname=self.connection["schema"])
        if self.conn_id == "duck":
            return open_duckdb(self.connection["host"])
        return sqlite3.connect(self.connection["host"])

    def _cursor(self, connection: Any) -> Any:
        # Another cursor of DuckDB's would be in another database.
        return connection if self.conn_id == "duck" else connection.cursor()

    def fill(self, rows: Sequence[UsageRow]) -> None:
        """Make the table ``usage`` anew."""
        number = "numeric" if self.conn_id != "duck" else "decimal(38, 2)"
        values = ", ".join(f"('{account}', '{day}', '{operation}', {amount})" for account, day, operation, amount in rows)
        self.execute(
            "DROP TABLE IF EXISTS usage",
            f"CREATE TABLE usage (account text, day text, operation text, amount {number})",
            *([f"INSERT INTO usage VALUES {values}"] if rows else []),
        )

    def ledger(self, table: str = "limitrail_usage_ledger") -> dict[str, dict[str, Any]]:
        """The ledger by idempotency key; empty where there is none. Times are left out."""
        try:
            return {
                row["idempotency_key"]: row
                for row in self.query(
                    "SELECT idempotency_key, state, operation, row_key, http_status, decision, reservation_id, error_code, "
                    "resource_key, trace_id, field, detail, attempts, body_digest, conn_id, dag_id, task_id, run_id, map_index, "
                    f"try_number, claim_id, lease_until FROM {table}"
                )
            }
        except Exception as error:  # each database has an exception of its own
            if "exist" in str(error) or "no such table" in str(error):
                return {}
            raise

    def states(self) -> Counter[str]:
        return Counter(entry["state"] for entry in self.ledger().values())


@dataclass
class Try:
    """How a try of the task ended.

    :param code: of the process.
    :param state: the task's.
    :param error: what it failed with.
    :param summary: its XCom.
    """

    code: int
    state: str = ""
    error: str = ""
    tries: int = 0
    run_id: str = ""
    summary: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, outcome: Outcome) -> Try:
        if outcome.code:
            return cls(code=outcome.code)
        task = outcome.task("commit")
        return cls(
            code=0,
            state=task["state"],
            error=outcome.result.get("error") or "",
            tries=task["tries"],
            run_id=outcome.result["run_id"],
            summary=task["xcom"] or {},
        )


@dataclass
class Place:
    """One test's emulator, database and home."""

    server: EmulatorServer
    home: AirflowHome
    database: Database
    folder: Path
    make_home: Callable[..., AirflowHome]

    def twin(self) -> Place:
        """Another Airflow, at the same rows and the same ledger."""
        return replace(self, home=self.make_home(name="twin"))

    def write_dag(
        self, *, dag_id: str = "usage", before: str = "", task_id: str = "commit", after: str = "", **parameters: Any
    ) -> None:
        """Write a Dag with the operator in it, with usual parameters where none are given."""
        self.home.write_dag(
            before + "\n" + self.task(task_id=task_id, **parameters) + "\n" + after, dag_id=dag_id, name=f"dag_{dag_id}"
        )

    def task(self, **parameters: Any) -> str:
        usual: dict[str, Any] = {"sql_conn_id": self.database.conn_id, "key_columns": ["account", "day"], "body": BODY}
        if not {"sql", "rows", "parts_path"} & set(parameters):
            usual["sql"] = QUERY
        given = {name: value for name, value in {**usual, **parameters}.items() if value is not ...}
        return f"commit = LimitRailCommitUsageOperator({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    def attempt(self, run_id: str = "one", *, dag_id: str = "usage", **kwargs: Any) -> Try:
        """Try the task once."""
        return Try.of(self.home.attempt("commit", run_id=run_id, dag_id=dag_id, **kwargs))

    def run(self, dag_id: str = "usage", **kwargs: Any) -> Try:
        """Run the whole Dag, retries included."""
        return Try.of(self.home.run(dag_id, **kwargs))

    def join(self, process: int) -> Try:
        """Wait for the end of a try."""
        return Try.of(self.home.join(process))

    def output(self) -> str:
        """Everything that was printed and logged since the last call."""
        text = self.home.output()
        self.home.forget_output()
        return text

    def begin(self, run_id: str = "one", *, dag_id: str = "usage", **kwargs: Any) -> int:
        """Begin with a try, and give its process."""
        return self.home.begin("attempt", dag_id, task_id="commit", run_id=run_id, **kwargs)

    # -- the truth -------------------------------------------------------------------------------------------------

    def sent(self, path: str = COMMIT) -> list[dict[str, Any]]:
        """The requests so far."""
        return [entry for entry in self.server.counters.log if entry["path"].startswith(path)]

    def statuses(self) -> dict[str, list[int]]:
        """What became of the requests of each key; 0 where there was no answer."""
        found: defaultdict[str, list[int]] = defaultdict(list)
        for entry in self.sent():
            found[entry["headers"]["idempotency-key"]].append(entry["status"] or 0)
        return found

    def journal(self) -> dict[str, Any]:
        """What was carried out, by key; no key twice."""
        entries = self.server.limitrail.journal
        twice = [key for key, count in Counter(entry.key for entry in entries).items() if count > 1]
        assert twice == []
        return {entry.key: entry for entry in entries}

    def agree(self, *, doubtful: frozenset[str] = frozenset(), path: str = COMMIT) -> dict[str, dict[str, Any]]:
        """Compare the ledger with what was carried out, row by row, and give it.

        :param doubtful: states that tell neither that a row was carried out nor that it was not.
        """
        journal, ledger = self.journal(), self.database.ledger()
        assert set(journal) <= set(ledger)
        for key, entry in ledger.items():
            done = journal.get(key)
            if entry["state"] in doubtful:
                continue
            if entry["state"] == "rejected":
                assert done is None, entry
                continue
            assert entry["state"] in ("committed", "denied"), entry
            assert done is not None, entry
            assert entry["decision"] == done.decision
            assert entry["state"] == ("denied" if done.decision == "DENIED_BY_POLICY" else "committed")
            assert entry["http_status"] == 200
            assert entry["body_digest"] == digest_of(path, done.body)
            body, row_key = json.loads(done.body), json.loads(entry["row_key"])
            assert row_key == {"account": body["externalAccount"], "day": body["metadata"]["day"]}
        return ledger


def rows_from_environment(usual: int) -> int:
    """How many rows the long tests have; LIMIO_LIMITRAIL_TEST_ROWS says otherwise."""
    return int(os.environ.get("LIMIO_LIMITRAIL_TEST_ROWS", usual))
