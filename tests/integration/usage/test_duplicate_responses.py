# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""An API that sends answers twice on kept connections: no row is settled by an answer to another one."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest

from limio_limitrail.api.async_transport import AsyncTransport
from limio_limitrail.api.auth import ClientCredentials, TokenSource, mint
from limio_limitrail.api.client import ApiClient, AsyncApiClient
from limio_limitrail.api.retry import RetryLimits
from limio_limitrail.api.secret import Secret
from limio_limitrail.api.transport import Timeouts, Transport
from limio_limitrail.usage.committer import UsageCommitter
from limio_limitrail.usage.conventions import find_operation
from limio_limitrail.usage.messages import MisplacedAnswerError
from limio_limitrail.usage.sender import REST, UsageSender
from tests.support.databases import make_database
from tests.support.ledgers import PARK, RESEND, FailingDatabase, entries, make_ledger, make_rows, make_worker
from tests.support.twice import WAYS, twice_server
from tests.support.usage import make_rows as make_usage_rows
from tests.support.wire import answer, make_certificate

ROWS = 60
LATE = frozenset({"a moment later", "three times", "another one behind it", "with the next request"})
"""Ways in which a whole answer may come after the next request has left: without an id it is then like any other."""


def commit(server, *, folder, policy=PARK, concurrency=4, verify=True, rows=ROWS, rest=REST):
    """Commit rows into a ledger in SQLite; give it, by key, and what the task failed with."""
    transport = Transport(user_agent="tests/1", timeouts=Timeouts(connect=10, read=10), verify=verify)
    secret = Secret("secret-of-the-wire-1234567890")
    credentials = ClientCredentials(auth_url=f"{server.url}/token", client_id="wire", client_secret=secret)
    auth = TokenSource(mint=lambda: mint(api="LimitRail", credentials=credentials, transport=transport), client_secret=secret)
    limits = RetryLimits(first_wait=0.0, longest_wait=0.0)
    client = ApiClient(api="LimitRail", base_url=server.url, transport=transport, auth=auth, limits=limits)
    sender = UsageSender(
        client=AsyncApiClient(client, transport=AsyncTransport(transport, connections=concurrency, rest=rest)),
        operation=find_operation("commit"),
        key_header="Idempotency-Key",
        on_unknown=policy.on_unknown,
    )
    database = make_database("sqlite", folder=folder)
    with contextlib.closing(client), contextlib.closing(FailingDatabase(database.hook())) as held:
        ledger = make_ledger(held, make_worker())
        ledger.prepare()
        batch = UsageCommitter(
            ledger=ledger, policy=policy, sender=sender, concurrency=concurrency, batch_size=100, label="usage.commit"
        )
        failure = None
        try:
            batch.run(make_rows(rows), total=rows)
        except MisplacedAnswerError as error:
            failure = error
    return entries(database), failure


def check(server, ledger, *, knows_decisions=True):
    """Compare a ledger with what was carried out."""
    journal = {key: (decision, reservation) for key, decision, reservation in server.journal}
    assert len(journal) == len(server.journal)
    assert set(server.requests) <= set(ledger)
    for key, entry in ledger.items():
        assert entry["state"] != "sending"
        if entry["state"] in ("committed", "denied"):
            decision, reservation = journal[key]
            if knows_decisions:
                assert entry["decision"] == decision
                assert (entry["state"] == "denied") == (decision == "DENIED_BY_POLICY")
            if server.ids == "body":
                assert entry["reservation_id"] == reservation
        else:
            assert entry["detail"]
    return Counter(entry["state"] for entry in ledger.values())


@pytest.mark.sampled(10)
@pytest.mark.parametrize("ids", ["body", "header", "none"])
@pytest.mark.parametrize("way", WAYS)
def test_a_row_is_settled_by_its_own_answer(way, ids, tmp_path):
    with twice_server(way, ids=ids, every=3, latency=0.002) as server:
        ledger, failure = commit(server, folder=tmp_path)
    states = check(server, ledger, knows_decisions=ids != "none" or way not in LATE)
    assert max(Counter(server.requests).values()) == 1
    assert states["committed"] > 0
    assert failure is not None or len(ledger) == ROWS


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("status", "refusals", "done"),
    # Two of 401 for one row would end the task.
    [(400, 3, 9), (401, 1, 12), (404, 3, 9), (409, 3, 9), (422, 3, 9), (429, 3, 12), (500, 3, 9), (503, 3, 9)],
)
def test_a_refusal_without_an_id_is_not_the_next_rows(status, refusals, done, tmp_path):
    """The next row's own answer takes longer than anybody waits for what comes behind a refusal."""
    with twice_server("with the next request", refusal=status, refusals=refusals, latency=0.1) as server:
        ledger, failure = commit(server, folder=tmp_path, concurrency=2, rows=12)
    assert failure is None
    assert len(server.refused) == refusals
    assert max((Counter(server.requests) - Counter(server.refused)).values()) == 1
    carried_out = {key for key, *_ in server.journal}
    assert {key for key, entry in ledger.items() if entry["state"] in ("committed", "denied")} == carried_out
    assert len(carried_out) == done


@pytest.mark.parametrize("ids", ["body", "none"])
@pytest.mark.parametrize("way", ["at once", "with the rest of its body", "a moment later", "with the next request"])
def test_where_keys_are_honoured_all_rows_are_settled_in_the_end(way, ids, tmp_path):
    with twice_server(way, ids=ids, every=3) as server:
        for run in range(20):
            folder = tmp_path / "ledger"
            folder.mkdir(exist_ok=True)
            ledger, failure = commit(server, folder=folder, policy=RESEND)
            states = check(server, ledger, knows_decisions=ids != "none" or way not in LATE)
            if failure is None and len(ledger) == ROWS and not states["unknown"]:
                break
            assert run < 19
    assert states["committed"] + states["denied"] == ROWS


@pytest.mark.parametrize("way", ["at once", "with the rest of its body"])
def test_where_every_answer_comes_twice_each_connection_is_used_once(way, tmp_path):
    with twice_server(way, ids="none", every=1) as server:
        ledger, failure = commit(server, folder=tmp_path)
    states = check(server, ledger)
    assert failure is None
    assert states["committed"] + states["denied"] == ROWS
    assert server.connections == ROWS + 1, "one for the token"


@pytest.mark.parametrize("way", ["a moment later", "three times", "another one behind it", "in halves"])
def test_a_connection_rests_so_that_a_second_answer_is_noticed(way, tmp_path):
    with twice_server(way, ids="none", every=1) as server:
        ledger, failure = commit(server, folder=tmp_path, concurrency=2, rows=20, rest=30.0)
    assert failure is None
    assert check(server, ledger).keys() == {"committed", "denied"}
    assert server.connections == 20 + 1, "one for the token"


def test_one_request_at_a_time_over_tls(tmp_path):
    tls, bundle = make_certificate(tmp_path)
    for way in ("at once", "a moment later", "with the next request"):
        with twice_server(way, tls=tls, every=2) as server:
            folder = tmp_path / way.replace(" ", "-")
            folder.mkdir()
            ledger, _ = commit(server, folder=folder, concurrency=1, verify=str(bundle), rows=20)
        check(server, ledger)


def test_connections_are_kept_where_nothing_comes_twice(tmp_path):
    with twice_server("at once", every=1_000_000) as server:
        ledger, failure = commit(server, folder=tmp_path)
    assert failure is None
    assert check(server, ledger).total() == ROWS
    assert server.connections <= 1 + 4 + 32


def test_ids_that_are_the_same_for_all_answers_are_none(tmp_path):
    with twice_server("at once", every=1_000_000) as server:
        server.carry_out = lambda _: answer(200, b'{"decision":"ALLOWED","traceId":"one-for-all"}')
        ledger, failure = commit(server, folder=tmp_path)
    assert failure is None
    states = Counter(entry["state"] for entry in ledger.values())
    assert states.total() == ROWS
    assert states["parked"] <= 4


def test_the_operator_sends_so(place_of):
    place = place_of("duck", make_usage_rows(40))
    with twice_server("with the rest of its body", every=2) as server:
        place.home.connect({"limitrail_default": {
            "conn_type": "limitrail", "host": server.url, "login": "wire", "password": "secret-of-the-wire-1234567890",
            "extra": {"auth_url": f"{server.url}/token"},
        }})  # fmt: skip
        place.write_dag(max_parked="100%")
        last = place.attempt()
        assert last.state == "success", last.error
        assert check(server, place.database.ledger()).total() == 40
