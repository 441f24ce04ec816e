# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A scope that is missing: from the start, and from the middle of a run on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from limio_limitrail.emulator import LimitRailClient
from tests.support.usage import COMMIT, make_rows

CLIENT = LimitRailClient("lr_demo", "lr-demo-secret", "demo")
POORER = replace(CLIENT, scopes=("limitrail.usage.read",))
LOST_AT = 5000


@pytest.mark.exhaustive
def test_a_scope_that_is_lost_in_the_middle(place_of):
    place = place_of("duck", make_rows(LOST_AT + 500), clients=(CLIENT,))
    came = []

    def lose(call):
        if call.path == COMMIT:
            came.append(call)
            if len(came) == LOST_AT:
                place.server.configure_limitrail(clients=(POORER,))
                for grant in place.server.limitrail.token_endpoint.tokens.grants.values():
                    grant.scopes = POORER.scopes

    place.server.on_request(lose)
    place.write_dag(retries=3, retry_delay=0)
    last = place.run()
    assert last.state == "failed"
    assert last.tries == 1
    output = place.output()
    assert "AirflowFailException" in output
    assert "It needs the scope 'limitrail.usage.write'; the token was granted: limitrail." in output
    assert place.server.counters.tokens_minted == 1
    statuses = [entry["status"] for entry in place.sent()]
    assert statuses.count(200) == LOST_AT - 1
    assert 1 <= statuses.count(403) <= 8
    assert len(statuses) == statuses.count(200) + statuses.count(403)
    ledger = place.agree()
    assert len(ledger) == len(place.journal()) == LOST_AT - 1
    assert last.summary["committed"] == LOST_AT - 1
    place.server.configure_limitrail(clients=(CLIENT,))
    before = len(place.sent())
    last = place.attempt("next")
    assert last.state == "success"
    assert (last.summary["sent"], last.summary["settled_before"]) == (501, LOST_AT - 1)
    assert len(place.sent()) == before + 501
    assert len(place.agree()) == LOST_AT + 500


def test_a_scope_that_was_never_there(place_of):
    place = place_of("duck", make_rows(50), clients=(POORER,))
    place.write_dag(retries=3)
    last = place.run()
    assert (last.state, last.tries) == ("failed", 1)
    output = place.output()
    assert "limitrail.usage.write" in output
    assert "limitrail.usage.read" in output
    assert place.sent("/v1/") == []
    assert place.server.counters.tokens_minted == 1
    assert place.database.ledger() == {}


def test_a_token_endpoint_that_refuses_scopes(place_of):
    place = place_of("duck", make_rows(50), clients=(POORER,), refuse_unknown_scopes=True)
    place.write_dag(retries=3)
    last = place.run()
    assert (last.state, last.tries) == ("failed", 1)
    assert "limitrail.usage.write" in place.output()
    assert place.sent("/v1/") == []
    assert place.database.ledger() == {}
