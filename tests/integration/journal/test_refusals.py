# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What the API says x what the ledger held x what the user wants done: what becomes of the row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from limio_limitrail.usage import Refusal, ResponseMapping
from tests.support.journal import CODE, FATES
from tests.support.journal_runs import Billing, make_rows

HELD = ("free", "rejected", "unknown", "parked", "sending", "committed", "denied", "given_up")
WAS_IN_DOUBT = ("unknown", "parked", "sending")

REFUSALS = tuple(name for name in FATES if name.startswith("refuse ") and name != "refuse 409 exists")
NO_ANSWER = ("lost before", "lost after", "half", "500 after", "504 after", "500 before", "503 before", "408")
NO_DECISION = (
    "html", "array", "empty", "204", "string", "number", "null", "no decision", "nested", "lower case", "list", "another word",
    "two decisions", "error beside", "errors instead", "202", "206",
)  # fmt: skip
ANSWERS = ("answer", "deny", *REFUSALS, *NO_ANSWER, *NO_DECISION)

POLICIES = [
    ("lite", "park", None, "lost after"),
    ("lite", "resend", None, "lost before"),
    ("lite", "resend", None, "lost after"),
    ("lite", "park", "rejected", "lost after"),
    ("lite", "resend", "rejected", "lost after"),
    ("lite", "park", "parked", "lost before"),
    ("lite", "park", "parked", "lost after"),
    ("lite", "resend", "parked", "lost before"),
    ("lite", "resend", "parked", "lost after"),
    ("pg", "resend", None, "lost after"),
    ("pg", "park", "parked", "lost after"),
    ("duck", "resend", "parked", "lost after"),
    ("duck", "park", "rejected", "lost after"),
]
"""Database, ``on_unknown``, ``replay``, and what became of the requests that left rows in doubt."""


def is_sent(held, *, on_unknown, replay):
    match held:
        case "free":
            return True
        case "unknown" | "sending":
            return on_unknown == "resend"
        case "rejected" | "parked":
            return held == replay
    return False


def expected(held, answer, *, on_unknown, replay):
    """What becomes of a row, as the docs have it."""
    if not is_sent(held, on_unknown=on_unknown, replay=replay):
        return "parked" if held in WAS_IN_DOUBT else held
    if answer == "answer":
        return "committed"
    if answer == "deny":
        return "denied"
    if answer in REFUSALS:
        return "parked" if held in WAS_IN_DOUBT else "rejected"
    if answer in NO_DECISION:
        return "parked"
    return "unknown" if on_unknown == "resend" else "parked"


def with_others(rows, *, name):
    """Put a row that is carried out between each few of them: an API that answers nothing else is given up."""
    return [one for number, row in enumerate(rows) for one in ((row,) if number % 8 else (*make_rows(f"{name}-{number}"), row))]


def remember(billing: Billing, rows, *, truth):
    """Have the ledger hold each row as its name says."""
    held = {name: [row for row in rows if row["k"].startswith(f"{name}/")] for name in HELD}
    first = [*held["unknown"], *held["sending"], *held["given_up"], *held["rejected"], *held["committed"], *held["denied"]]
    becomes = {"unknown": truth, "sending": truth, "parked": truth, "committed": "answer", "denied": "deny"}
    for row in rows:
        name = row["k"].partition("/")[0]
        billing.server.fates[row["account"]] = [FATES[becomes.get(name, "refuse 400")]] * 3
    common = {"concurrency": 1, "max_rejected": "100%", "max_parked": "100%"}
    one = billing.attempt("history-1", rows=with_others(first, name="first"), on_unknown="resend", **common)
    two = billing.attempt("history-2", rows=with_others(held["parked"], name="second"), on_unknown="park", **common)
    assert (one.summary["not_tried"], two.summary["not_tried"]) == (0, 0), one.log + two.log
    billing.set("row_key LIKE '%given_up/%'", state="given_up")
    billing.set("row_key LIKE '%sending/%'", state="sending", finished_at=None, detail=None, http_status=None, lease_until=1)
    assert {name: state for name, state in billing.states().items() if "/" in name} == {
        row["k"]: row["k"].partition("/")[0] for row in rows if not row["k"].startswith("free/")
    }
    billing.check()


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("conn_id", "on_unknown", "replay", "truth"), POLICIES)
def test_what_becomes_of_a_row(billing_of, conn_id, on_unknown, replay, truth):
    billing = billing_of(conn_id)
    # Each answer to what this policy is about; two to the others.
    about = {replay} if replay else {held for held in HELD if is_sent(held, on_unknown=on_unknown, replay=replay)}
    tried = [(held, answer) for held in HELD for answer in (ANSWERS if held in about else ("answer", "refuse 409"))]
    rows = make_rows(*(f"{held}/{answer}" for held, answer in tried if truth == "lost before" or answer != "deny"))
    remember(billing, rows, truth=truth)
    for row in rows:
        held, _, answer = row["k"].partition("/")
        fate = FATES[answer]
        # What was carried out before is known to the API. That something in front of it answers is the worse case.
        known = held in WAS_IN_DOUBT and truth == "lost after" and answer != "answer"
        in_front = fate if answer == "answer" or fate.breaks != "nowhere" else replace(fate, in_front=True)
        billing.server.fates[row["account"]] = [in_front if known else fate, in_front, in_front]
    seen = len(billing.server.calls)
    ended = billing.attempt(
        "now",
        rows=with_others(rows, name="third"),
        on_unknown=on_unknown,
        replay=replay,
        concurrency=1,
        max_rejected="100%",
        max_parked="100%",
    )
    assert ended.summary["not_tried"] == 0, ended.log[-3000:]
    found = {name: state for name, state in billing.states().items() if "/" in name}
    wanted = {row["k"]: expected(*row["k"].split("/"), on_unknown=on_unknown, replay=replay) for row in rows}
    assert {name: (found.get(name), state) for name, state in wanted.items() if found.get(name) != state} == {}
    sent = {call.row for call in billing.server.calls[seen:] if "/" in call.row}
    assert sent == {name for name in wanted if is_sent(name.partition("/")[0], on_unknown=on_unknown, replay=replay)}
    billing.check()
    # A refusal is kept, also where it did not settle the row.
    for entry in billing.ledger().values():
        held, _, answer = entry["row_key"].partition('"k":"')[2].rstrip('"}').partition("/")
        if answer in REFUSALS and held in WAS_IN_DOUBT and f"{held}/{answer}" in sent:
            assert entry["http_status"] == int(answer.split()[1]), entry
            assert "may have been carried out" in entry["detail"], entry
    # What the message advises for rejected rows bills nothing twice.
    billing.server.fates.clear()
    refused = {name for name, state in billing.states().items() if state == "rejected"}
    again = billing.attempt("again", rows=rows, replay="rejected", max_parked="100%", concurrency=1)
    assert again.summary["not_tried"] == 0
    assert {name for name in refused if billing.states()[name] != "committed"} == set()
    billing.check()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("conn_id", "first"), [("lite", "lost before"), ("lite", "504 after"), ("pg", "lost after"), ("duck", "503 before")]
)
def test_a_try_before_in_the_same_process(billing_of, conn_id, first):
    billing = billing_of(conn_id)
    rows = make_rows(*(f"free/{answer}" for answer in ("answer", *REFUSALS, "html", "429", "gateway 404")))
    for row in rows:
        fate = replace(FATES[row["k"].partition("/")[2]], in_front=row["k"] != "free/answer")
        billing.server.fates[row["account"]] = [FATES[first], fate]
    ended = billing.attempt(rows=with_others(rows, name="other"), on_unknown="resend", concurrency=1, max_parked="100%")
    assert ended.summary["not_tried"] == 0, ended.log[-3000:]
    states = billing.states()
    assert {name: states[name] for name in ("free/answer", "free/429")} == {"free/answer": "committed", "free/429": "committed"}
    others = {row["k"] for row in rows} - {"free/answer", "free/429"}
    assert {name: states[name] for name in others if states[name] != "parked"} == {}
    billing.check()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(("on_unknown", "replay"), [("resend", None), ("park", "parked"), ("resend", "parked")])
def test_a_refusal_that_means_known(billing_of, on_unknown, replay, declared):
    billing = billing_of(known="409 exists")
    rows = make_rows("unknown/x", "parked/x", "sending/x", "free/x")
    remember(billing, rows, truth="lost after")
    billing.server.fates.clear()
    response = ResponseMapping(already_committed=[Refusal(status=409, error_code=CODE)]) if declared else None
    billing.attempt(rows=rows, on_unknown=on_unknown, replay=replay, response=response, max_parked="100%")
    sent = [name for name in WAS_IN_DOUBT if is_sent(name, on_unknown=on_unknown, replay=replay)]
    states = billing.states()
    assert {name: states[f"{name}/x"] for name in (*WAS_IN_DOUBT, "free")} == {
        name: "committed" if (name in sent and declared) or name == "free" else "parked" for name in (*WAS_IN_DOUBT, "free")
    }
    billing.check()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("answer", ["401", "403", "407"])
@pytest.mark.parametrize("held", ["free", "unknown", "parked"])
def test_an_answer_that_is_not_about_the_row(billing_of, held, answer):
    billing = billing_of()
    [row] = make_rows(f"{held}/x")
    remember(billing, [row], truth="lost after")

    def stands():
        return [
            [entry[name] for name in ("state", "http_status", "error_code", "detail", "in_doubt_since")]
            for entry in billing.ledger().values()
            if "/x" in entry["row_key"]
        ]

    before = stands()
    billing.server.fates = {row["account"]: [FATES[answer]] * 9}
    seen = len(billing.server.calls)
    replay = held if held in ("rejected", "parked") else None
    ended = billing.attempt("now", rows=[row], on_unknown="resend", replay=replay, max_parked="100%", max_rejected="100%")
    assert len(billing.server.calls) > seen
    assert ended.state in ("failed", "up_for_retry"), ended.log
    assert stands() == before
    billing.check()
