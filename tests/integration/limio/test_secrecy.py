# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whatever goes wrong, and whatever a server echoes: no error, traceback or log line holds a secret or a token."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import traceback

import pytest

from limio_limitrail.emulator import Fault, Reply
from limio_limitrail.emulator.core.faults import KINDS

SECRET = "Opaque+Client/Secret=42"


class Watch:
    """Collects what a person or a file could get to see."""

    def __init__(self, caplog) -> None:
        self.caplog = caplog
        self.texts: list[str] = []
        self.errors = 0

    def catch(self, run) -> None:
        try:
            self.texts.append(repr(run()))
        except Exception as error:  # noqa: BLE001 - every error is looked at
            self.errors += 1
            self.texts += [str(error), repr(error), repr(vars(error)), "".join(traceback.format_exception(error))]
            self.texts.append(repr(pickle.dumps(error)))

    def leaks(self, server) -> list[str]:
        whole = "\n".join([*self.texts, self.caplog.text, *(repr(vars(record)) for record in self.caplog.records)]).lower()
        secrets = {SECRET, "Opaque%2BClient%2FSecret%3D42", *server.minted_tokens}
        return [secret for secret in secrets if secret.lower() in whole]


@pytest.fixture
def server(limio_emulator_factory):
    return limio_emulator_factory(client_secret=SECRET)


@pytest.fixture
def watch(caplog):
    caplog.set_level(logging.DEBUG)
    return Watch(caplog)


def everything(hook, watch) -> None:
    watch.catch(lambda: list(hook.iter_records("orders", page_size=100)))
    watch.catch(lambda: list(hook.iter_records("catalog.offers2", page_size=10)))
    watch.catch(lambda: list(hook.iter_records("identities", page_size=40, detail=True))[:1])
    watch.catch(hook.test_connection)
    watch.texts += [repr(hook), repr(hook.settings), repr(hook.client), repr(vars(hook.client)), repr(vars(hook.client.auth))]
    with contextlib.suppress(TypeError, AttributeError):
        watch.texts.append(repr(pickle.dumps(hook.settings)))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("path", ["/api/", "/oauth2/token"])
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"status", "latency", "redirect"}))
def test_every_fault(hook_of, server, watch, kind, path):
    server.faults.add(Fault(kind, path, times=None))
    everything(hook_of(server), watch)
    assert watch.leaks(server) == []


def echoes(server):
    """Answers that give back what they were sent, in every place that a client reads."""

    def sent(call) -> str:
        return call.headers.get("authorization", "").removeprefix("Bearer ") or SECRET

    def body(call, status: int) -> Reply:
        said = f"you sent {sent(call)} and {call.body.decode()}"
        names = ("message", "detail", "title", "error", "errorCode", "resourceKey", "field", "traceId", sent(call))
        return Reply(status, json.dumps(dict.fromkeys(names, said)).encode())

    def headers(call) -> Reply:
        value = sent(call)
        return Reply(500, b"", {"x-request-id": value, "retry-after": value, "content-language": value})

    return {
        **{
            f"body {status}": (lambda call, status=status: body(call, status))
            for status in (200, 400, 401, 403, 404, 429, 500, 502)
        },
        "headers": headers,
        "encoding": lambda call: Reply(200, b"{}", {"content-encoding": f"gzip, {sent(call)}"}),
        "redirect abroad": lambda call: Reply(
            302, b"", {"location": f"https://{sent(call)}.example/{sent(call)}?t={sent(call)}"}
        ),
        "redirect home": lambda call: Reply(302, b"", {"location": f"{server.url}/api/echo?t={sent(call)}"}),
        "redirect nowhere": lambda call: Reply(302, b"", {"location": f"https://{sent(call)}:port/"}),
        "member": lambda call: Reply(200, json.dumps({sent(call): 1}).encode()),
        "cursor": lambda call: Reply(200, json.dumps({"items": [{"id": "x"}], "queryMore": [sent(call)]}).encode()),
        "record": lambda call: Reply(200, json.dumps({"items": [sent(call)]}).encode()),
        "text": lambda call: Reply(200, sent(call).encode(), content_type="text/plain"),
    }


ECHOES = list(echoes(None))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("opaque", [False, True], ids=["jwt", "opaque"])
@pytest.mark.parametrize("name", ECHOES)
def test_an_api_that_echoes_credentials(hook_of, server, watch, monkeypatch, name, opaque):
    if opaque:  # what masking recognises by its look alone must not be all that is masked
        serial = iter(range(1000))
        endpoint = server.account.token_endpoint
        mint = endpoint.mint

        def plain(scopes=None):
            token = f"opaqueToken.{next(serial)}.Xx"
            endpoint.tokens.grants[token] = endpoint.tokens.grants.pop(mint(scopes))
            return token

        monkeypatch.setattr(endpoint, "mint", plain)
    answer = echoes(server)[name]
    server.on_request(lambda call: None if call.path == "/oauth2/token" else answer(call))
    everything(hook_of(server), watch)
    assert watch.errors
    assert watch.leaks(server) == []


@pytest.mark.parametrize("name", ECHOES)
def test_a_token_endpoint_that_echoes_the_secret(hook_of, server, watch, name):
    answer = echoes(server)[name]
    server.on_request(lambda call: answer(call) if call.path == "/oauth2/token" else None)
    everything(hook_of(server), watch)
    assert watch.errors
    assert watch.leaks(server) == []


@pytest.mark.parametrize(
    "answer",
    [
        {"access_token": SECRET, "token_type": "mac"},
        {"access_token": f"{SECRET} {SECRET}"},
        {"access_token": [SECRET]},
        {"token_type": SECRET},
        {"access_token": SECRET + "\n"},
        {"access_token": SECRET, "expires_in": SECRET},
        {"access_token": SECRET, "scope": "a b"},
    ],
)
def test_a_token_answer_that_is_malformed(hook_of, server, watch, answer):
    server.on_request(lambda call: Reply(200, json.dumps(answer).encode()) if call.path == "/oauth2/token" else None)
    everything(hook_of(server), watch)
    assert watch.errors
    assert watch.leaks(server) == []


def test_a_token_that_was_replaced_is_still_kept_secret(hook_of, server, watch):
    """An answer may echo the token that it refused a moment ago."""
    first = []

    def answer(call):
        if call.path == "/oauth2/token":
            return None
        token = call.headers["authorization"].removeprefix("Bearer ")
        first.append(token)
        return Reply(401 if len(first) == 1 else 400, json.dumps({"message": f"not {first[0]}"}).encode())

    server.on_request(answer)
    watch.catch(lambda: list(hook_of(server).iter_records("orders")))
    assert watch.errors == 1
    assert len(set(first)) == 2
    assert watch.leaks(server) == []
