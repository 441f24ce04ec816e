# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""``limit=10`` before an API that fails and workers that are killed: ten rows reach it in a run, and none is billed twice."""

from __future__ import annotations

import random

import pytest

from tests.integration.journal.test_kills import MOMENTS, troubles
from tests.support.journal_runs import make_rows
from tests.support.usage import SIGKILL
from tests.support.usage_troubles import STEPS

ROWS = make_rows(*(f"r{number:02}" for number in range(45)))


def reached(billing) -> set[str]:
    return {call.row for call in billing.server.calls}


@pytest.mark.exhaustive
@pytest.mark.covering
@pytest.mark.parametrize("conn_id", ["duck", "lite", "pg"])
@pytest.mark.parametrize(
    ("known", "on_unknown"), [("keeps no keys", "park"), ("repeats its answer", "resend"), ("409 exists", "resend")]
)
@pytest.mark.parametrize("seed", [1, 2])
def test_ten_reach_the_api(billing_of, conn_id, known, on_unknown, seed):
    billing = billing_of(conn_id, known=known)
    chance = random.Random(f"{conn_id} {known} {seed}")
    billing.server.fate = troubles(chance.random())
    common = {"rows": ROWS, "limit": 10, "on_unknown": on_unknown, "max_parked": "100%", "concurrency": chance.choice([1, 4, 16])}
    sent: set[str] = set()
    for run in ("one", "two"):
        killed = 0
        for number in range(6):
            step, _ = chance.choice(STEPS)
            kill = [step, chance.randint(1, 4)] if number % 2 else None
            if kill is None:
                billing.kill_at(chance.randint(1, 4), chance.choice(MOMENTS))
            ended = billing.attempt(run, kill=kill, **common)
            killed += ended.code == SIGKILL
            billing.check()
            assert len(reached(billing) - sent) <= 10
        for _ in range(30):
            ended = billing.attempt(run, **common)
            billing.check()
            if ended.state == "success":
                break
        assert ended.state == "success", ended.log[-3000:]
        assert killed or run == "two"
        ledger = [entry for entry in billing.ledger().values() if entry["run_id"] == run]
        assert len(ledger) == 10
        assert ended.summary["left_for_later"] == 35 - len(sent)
        assert reached(billing) - sent <= {entry["row_key"][6:9] for entry in ledger}
        if (known, on_unknown) == ("repeats its answer", "resend"):
            assert sum(billing.server.times().values()) == len(sent) + 10
        sent |= {entry["row_key"][6:9] for entry in ledger}
    # Without a limit the rest goes.
    for _ in range(30):
        ended = billing.attempt("last", **{**common, "limit": None})
        if ended.state == "success":
            break
    billing.check()
    assert (ended.summary["left_for_later"], len(billing.ledger())) == (0, 45)
