# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a dry run says is what a run then does, whatever the ledger holds."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.usage.body import Column
from limio_limitrail.usage.committer import UsageCommitter
from limio_limitrail.usage.dry_run import forecast_commit
from limio_limitrail.usage.ledger.ledger import Ledger
from limio_limitrail.usage.ledger.model import Outcome, UsageRow
from limio_limitrail.usage.ledger.rules import Policy
from limio_limitrail.usage.ledger.states import LedgerError, OnUnknown, PermanentUsageError, State
from limio_limitrail.usage.messages import UsageTemplate
from limio_limitrail.usage.row_buffer import RowBuffer
from limio_limitrail.usage.rows import check_same_rows, fill_row_buffer, rows_of_list
from tests.support.databases import Database, make_database
from tests.support.ledgers import PARK, FailingDatabase, entries, make_worker
from tests.support.strategies import examples

BODY = {"id": Column("id"), "amount": Column("amount")}
HOUR = 3_600_000
LEFT = {
    "committed": "state = 'committed'",
    "denied": "state = 'denied'",
    "given up": "state = 'given_up'",
    "free": "state = 'free'",
    "rejected": "state = 'rejected', in_doubt_since = NULL",
    "rejected after a doubt": "state = 'rejected', in_doubt_since = {now} - 10",
    "parked": "state = 'parked', in_doubt_since = {now} - 10, finished_at = '2020-01-01 00:00:00+00:00'",
    "parked just now": "state = 'parked', in_doubt_since = {now} - 10, finished_at = '2100-01-01 00:00:00+00:00'",
    "unknown": "state = 'unknown', in_doubt_since = {now} - 10",
    "unknown for long": "state = 'unknown', in_doubt_since = 1",
    "sending, dead": "state = 'sending', lease_until = 1, claim_id = 'x', in_doubt_since = {now} - 10",
    "another body, carried out": "state = 'committed', body_digest = 'v2:another:path'",
    "another body, in doubt": "state = 'unknown', in_doubt_since = {now} - 10, body_digest = 'v2:another:path'",
}
"""What tasks and people have left of a row."""

OWNERS = {
    "an earlier run": "run_id = 'run-0'",
    "an earlier try": "run_id = 'run-1', try_number = 1",
    "another copy": "run_id = 'run-1', map_index = 3",
}
entry = st.none() | st.tuples(st.sampled_from(sorted(LEFT)), st.sampled_from(sorted(OWNERS)))
policies = st.builds(
    Policy,
    on_unknown=st.sampled_from(list(OnUnknown)),
    replay=st.sampled_from([None, State.REJECTED, State.PARKED]),
    requested_at=st.sampled_from([None, 1_800_000_000_000]),
    limit=st.none() | st.integers(1, 8),
)


class Api:
    """Carries everything out."""

    def __init__(self) -> None:
        self.bodies: list[bytes | None] = []

    async def __call__(self, row: UsageRow, _: object) -> Outcome:
        self.bodies.append(row.body)
        return Outcome(state=State.COMMITTED, http_status=200)

    async def close(self) -> None:
        pass


class Task:
    """A task with rows, and a ledger with entries of some of them."""

    def __init__(
        self, db: Database, rows: list[dict[str, object]], *, namespace: str | None = None, table: str = "ledger"
    ) -> None:
        self.db, self.rows, self.table = db, rows, table
        self.template = UsageTemplate(
            tenant="t", operation="usage.commit", path="/p", key_columns=("id",), body=BODY, namespace=namespace
        )
        self.api = Api()

    @contextlib.contextmanager
    def ledger(self, *, read_only: bool = False):
        with contextlib.closing(FailingDatabase(self.db.hook())) as held:
            worker = make_worker(attempt=2)
            yield Ledger(
                database=held, table=self.table, worker=worker, operation="usage.commit", conn_id="c", read_only=read_only
            )

    def leave(self, left: list[tuple[str, str] | None]) -> None:
        """Have earlier tries and runs leave entries of the rows."""
        now = int(time.time() * 1000)
        with self.ledger() as ledger:
            ledger.prepare()
            built = [self.template.build(row, number=number) for number, row in enumerate(self.rows, start=1)]
            ledger.claim([row for row, one in zip(built, left, strict=True) if one], policy=PARK)
        self.db.execute(
            *(
                f"UPDATE {self.table} SET {LEFT[one[0]].format(now=now)}, {OWNERS[one[1]]} WHERE idempotency_key = '{row.key}'"
                for row, one in zip(built, left, strict=True)
                if one
            )
        )

    def forecast(self, policy: Policy = PARK, *, on_rekeyed: str = "fail", max_duplicates: int | None = None):
        with RowBuffer() as row_buffer, self.ledger(read_only=True) as ledger:
            return forecast_commit(
                ledger,
                source=rows_of_list(self.rows),
                row_buffer=row_buffer,
                template=self.template,
                operation="usage.commit",
                policy=policy,
                on_rekeyed=on_rekeyed,
                max_duplicates=max_duplicates,
                mask_members=(),
            )

    def run(self, policy: Policy = PARK, *, on_rekeyed: str = "fail", max_duplicates: int | None = None):
        with RowBuffer() as row_buffer, self.ledger() as ledger:
            ledger.prepare()
            fill_row_buffer(row_buffer, source=rows_of_list(self.rows), template=self.template, max_duplicates=max_duplicates)
            check_same_rows(ledger, row_buffer=row_buffer, worker=ledger.worker, on_rekeyed=on_rekeyed)
            committer = UsageCommitter(ledger=ledger, policy=policy, sender=self.api, concurrency=1, batch_size=3, label="usage")
            total = row_buffer.total - row_buffer.duplicates
            return committer.run(row_buffer.rows(), total=total)


def make_rows(count: int) -> list[dict[str, object]]:
    return [{"id": f"row {number}", "amount": number} for number in range(count)]


def states(db: Database) -> dict[str, str]:
    return {key: one["state"] for key, one in entries(db).items()} if db.exists("ledger") else {}


@settings(max_examples=examples(50))
@given(left=st.lists(entry, min_size=6, max_size=20), policy=policies)
def test_a_run_does_what_the_dry_run_said(left, policy):
    with tempfile.TemporaryDirectory() as folder:
        db = make_database("sqlite", folder=Path(folder))
        task = Task(db, make_rows(len(left)))
        task.leave(left)
        before = entries(db)
        said = task.forecast(policy)
        assert entries(db) == before
        assert said["prevented_by"] == []
        counts = task.run(policy)
        after = states(db)
        parked = [key for key, state in after.items() if state == "parked" and before[key]["state"] != "parked"]
        assert (said["rows"], said["new"], sum(said["known"].values())) == (
            counts.rows,
            left.count(None),
            len(left) - left.count(None),
        )
        assert said["would_be_sent"] == counts.sent
        assert said["left_for_later"] == counts.left_for_later
        assert said["would_be_parked"] == len(parked)
        assert said["changed"] == counts.changed
        shown = [request["body"].encode() for request in said["requests"]]
        assert shown == task.api.bodies[:3]


@settings(max_examples=examples(100))
@given(
    rows=st.lists(st.tuples(st.integers(0, 4), st.sampled_from([1, 1, 1, 2, None, float("nan")])), max_size=6),
    known=st.booleans(),
    namespace=st.sampled_from([None, None, "another"]),
    on_rekeyed=st.sampled_from(["fail", "settle", "send"]),
    max_duplicates=st.sampled_from([None, 0, 1]),
)
def test_a_run_fails_before_it_sends_just_if_the_dry_run_says_so(rows, known, namespace, on_rekeyed, max_duplicates):
    with tempfile.TemporaryDirectory() as folder:
        db = make_database("sqlite", folder=Path(folder))
        if known:
            Task(db, make_rows(2)).leave([("committed", "an earlier run"), ("unknown", "an earlier run")])
        task = Task(db, [{"id": f"row {name}", "amount": amount} for name, amount in rows], namespace=namespace)
        rules = {"on_rekeyed": on_rekeyed, "max_duplicates": max_duplicates}
        said = task.forecast(**rules)
        if said["prevented_by"]:
            with pytest.raises((ParameterError, PermanentUsageError)):
                task.run(**rules)
            assert said["would_be_sent"] == said["would_be_parked"] == said["left_for_later"] == 0
            assert task.api.bodies == []
            return
        counts = task.run(**rules)
        assert (said["would_be_sent"], said["rows"]) == (counts.sent, counts.rows)


def test_a_run_that_has_reached_its_limit_waits_for_nobody(lite):
    task = Task(lite, make_rows(5))
    task.leave([None, ("unknown", "an earlier run"), None, None, None])
    now = int(time.time() * 1000)
    lite.execute(f"UPDATE ledger SET state = 'sending', lease_until = {now + 40_000}, claim_id = 'of another machine'")
    policy = replace(PARK, limit=3)
    said = task.forecast(policy)
    assert (said["waiting"], said["would_be_sent"], said["left_for_later"]) == (1, 3, 2)
    counts = task.run(policy)
    assert (counts.sent, counts.left_for_later) == (3, 2)


OLDER = "ALTER TABLE ledger DROP COLUMN settled_by, DROP COLUMN settled_at, DROP COLUMN settlement, DROP COLUMN kept_members"


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ([], "may not create one in the schema 'public'"),
        (["SELECT"], "may not INSERT, UPDATE, DELETE"),
        (["SELECT, INSERT, UPDATE, DELETE", OLDER], "lacks columns of this version"),
        (["SELECT, INSERT, UPDATE, DELETE", "ALTER ROLE looker SET default_transaction_read_only = on"], "takes no changes"),
    ],
)
def test_who_may_look_is_told_what_a_run_may_not(opened, monkeypatch, made, says):
    monkeypatch.setattr("limio_limitrail.usage.ledger.transactions.PAUSES", ())
    postgres = opened("psycopg3")
    postgres.execute("DROP ROLE IF EXISTS looker", "CREATE ROLE looker LOGIN")
    rights, *changes = made or [None]
    if rights is not None:
        Task(postgres, make_rows(3)).leave([("committed", "an earlier run"), None, None])
        postgres.execute(f"GRANT {rights} ON ledger TO looker", *changes)
    try:
        task = Task(replace(postgres, connection={**postgres.connection, "login": "looker"}), make_rows(3))
        said = task.forecast()
        assert (len(said["prevented_by"]), said["would_be_sent"], said["new"]) == (1, 0, 2 if made else 3)
        assert says in said["prevented_by"][0]
        with pytest.raises((LandingError, LedgerError)):
            task.run()
        assert task.api.bodies == []
    finally:
        postgres.execute("DROP OWNED BY looker", "DROP ROLE looker")
