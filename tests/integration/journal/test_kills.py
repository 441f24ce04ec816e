# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Tasks that are killed at any point, and an API that may treat a key that it knows in any way: each row is billed once.

LIMIO_LIMITRAIL_TEST_ROWS=2000 makes it twenty kills of two thousand rows.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from limio_limitrail.usage import Refusal, ResponseMapping
from tests.support.journal import CODE, FATES, KNOWN
from tests.support.usage import SIGKILL, rows_from_environment
from tests.support.usage_troubles import STEPS

QUERY = "SELECT account, account AS k, amount FROM usage ORDER BY account"
MOMENTS = ("received", "done", "answered")
TROUBLES = {
    "lost after": 0.02, "lost before": 0.01, "half": 0.01, "500 after": 0.01, "504 after": 0.01, "503 before": 0.01, "429": 0.02,
    "html": 0.005, "empty": 0.005, "twice at once": 0.005, "twice soon": 0.005, "twice with the next": 0.005,
}  # fmt: skip
CASES = [
    *((conn_id, known, False) for conn_id in ("duck", "pg") for known in (*KNOWN, "keeps no keys")),
    *((conn_id, "409 exists", True) for conn_id in ("duck", "pg")),
]
SMALL = {
    ("duck", "400 problem", False), ("duck", "409 exists", True), ("duck", "repeats its answer", False),
    ("pg", "409 in progress", False), ("pg", "409 exists", True), ("pg", "keeps no keys", False), ("pg", "200 duplicate", False),
}  # fmt: skip
"""What is run where nobody wants all of it."""


def troubles(seed):
    chance = random.Random(seed)
    names = ["answer", *TROUBLES]
    weights = [1 - sum(TROUBLES.values()), *TROUBLES.values()]

    def fate(call):
        if "ghost" in call.row:
            return FATES["refuse 404"]
        return FATES[chance.choices(names, weights)[0]]

    return fate


def usage(count):
    """Rows of which some are denied, and some rejected."""
    rows = []
    for number in range(count):
        kind, amount = ("ghost", "1") if number % 25 == 7 else ("acme", "1000.01") if number % 25 == 17 else ("acme", "2.50")
        rows.append((f"{kind}-{number:05}", "day", "PAYMENT", amount))
    return rows


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("conn_id", "known", "declared"), CASES)
def test_each_row_is_billed_once(billing_of, conn_id, known, declared):
    count = rows_from_environment(100)
    large = count >= 1000
    if not large and (conn_id, known, declared) not in SMALL:
        pytest.skip("LIMIO_LIMITRAIL_TEST_ROWS=2000 runs this, too")
    billing = billing_of(conn_id, known=known)
    rows = usage(count)
    billing.database.fill(rows)
    chance = random.Random(f"{conn_id} {known} {declared}")
    billing.server.fate = troubles(chance.random())
    common = {
        "sql": QUERY,
        "on_unknown": "park" if known == "keeps no keys" else "resend",
        "response": ResponseMapping(already_committed=[Refusal(status=409, error_code=CODE)]) if declared else None,
        "batch_size": 100,
        "max_rejected": "100%",
        "max_parked": "100%",
    }
    kills, killed = 20 if large else 3, 0
    # Some tries end before they are killed, because they give up: ten rows in a row without a clear answer.
    portions = 3 * kills
    portion = count // portions
    for number in range(portions):
        if killed == kills:
            break
        # Each finds some rows that no other has seen.
        seen = {**common, "sql": f"{QUERY} LIMIT {portion * (number + 1)}"}
        step, most = chance.choice(STEPS)
        at_most = max(1, portion // 2) if "sending" in step else 1 if "record" in step else max(1, min(most, portion // 32))
        kill = [step, chance.randint(1, at_most)] if number % 2 else None
        if kill is None:
            billing.kill_at(chance.randint(1, max(1, portion // 2)), chance.choice(MOMENTS))
        ended = billing.attempt("one", kill=kill, **seen)
        killed += ended.code == SIGKILL
        billing.check()
    for _ in range(30):
        ended = billing.attempt("one", **common)
        billing.check()
        if ended.state == "success":
            break
    assert ended.state == "success", ended.log[-3000:]
    assert killed == kills
    ledger = billing.ledger()
    assert len(ledger) == count
    states = Counter(entry["state"] for entry in ledger.values())
    print(f"{conn_id}, {known}{', declared' if declared else ''}: {killed} killed, {dict(states)}")  # shown by -s
    assert set(states) <= {"committed", "denied", "rejected", "parked"}
    # Only where the API says what became of a key it knows does nothing stay in doubt.
    done = {entry.key for entry in billing.server.journal}
    stay = {key for key, entry in ledger.items() if entry["state"] == "parked"}
    assert {key for key, entry in ledger.items() if entry["state"] == "committed"} == done - stay
    # The advice for rejected rows bills nothing twice.
    billing.attempt("rejected", replay="rejected", **common)
    billing.check()
    # A person looks all parked rows up, settles those that are there, and has the others sent.
    for key in stay & (done | billing.server.denied):
        billing.set(f"idempotency_key = '{key}'", state="committed" if key in done else "denied")
    billing.server.fate = lambda call: FATES["refuse 404" if "ghost" in call.row else "answer"]
    ended = billing.attempt("parked", replay="parked", **common)
    assert ended.state == "success", ended.log[-3000:]
    billing.check()
    ledger = billing.ledger()
    states = Counter(entry["state"] for entry in ledger.values())
    unbilled = [row[0] for row in rows if "ghost" in row[0] or row[3] == "1000.01"]
    assert states["committed"] == len(billing.server.journal) == count - len(unbilled)
    # What was in doubt and is refused now stays so until a person gives it up.
    assert set(states) <= {"committed", "denied", "rejected", "parked"}
    assert {entry["row_key"] for entry in ledger.values() if entry["state"] != "committed"} == {
        f'{{"k":"{name}"}}' for name in unbilled
    }
