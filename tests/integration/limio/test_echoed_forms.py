# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A server that echoes credentials in every form, in every place that a client reads."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import traceback

import pytest

from limio_limitrail.api.errors import ApiError, ProtocolError
from limio_limitrail.emulator import Reply
from tests.support.secrets_left import FORMS, holders, readable_pieces

SECRET = "q8Zt+Lw/92kd=Xx7?m#4 vB&u"
TOKEN = "Op4que.t0ken~Value-7781"
NOT_IN_HEADERS = {"with voids", "Base64 in lines", "plain"}


@pytest.fixture
def server(limio_emulator_factory, monkeypatch):
    server = limio_emulator_factory(client_secret=SECRET)
    endpoint = server.account.token_endpoint
    mint = endpoint.mint

    def opaque(scopes=None):
        endpoint.tokens.grants[TOKEN] = endpoint.tokens.grants.pop(mint(scopes))
        return TOKEN

    monkeypatch.setattr(endpoint, "mint", opaque)
    return server


MEMBERS = ("message", "detail", "title", "error", "errorCode", "resourceKey", "field", "traceId", "type", "instance", "status")


def body(said: str) -> bytes:
    return json.dumps({**dict.fromkeys(MEMBERS, f"you sent {said} indeed"), said: said}).encode()


def listed(**members: object) -> Reply:
    return Reply(200, json.dumps({"items": [{"id": "x"}], **members}).encode())


PLACES = {
    "400": lambda said, _: Reply(400, body(said)),
    "401": lambda said, _: Reply(401, body(said)),
    "403": lambda said, _: Reply(403, body(said)),
    "500": lambda said, _: Reply(500, body(said)),
    "200, no list": lambda said, _: Reply(200, body(said)),
    "cut at a question mark": lambda said, _: Reply(
        400, json.dumps({"type": f"https://host.example/{said}?a=b", "instance": f"/x/{said}#y", "detail": said[:40]}).encode()
    ),
    "far behind": lambda said, _: Reply(400, json.dumps({"message": "~." * 95 + said}).encode()),
    "member": lambda said, _: Reply(200, json.dumps({said: 1}).encode()),
    "member of failures": lambda said, _: listed(**{f"{said}Errors": ["x"]}),
    "member of warnings": lambda said, _: listed(warnings=[said]),
    "announcement": lambda said, _: listed(meta={f"{said}": {"hasMore": True}}, hasMore=True),
    "cursor": lambda said, _: listed(queryMore=said),
    "cursor within": lambda said, _: listed(queryMore=json.dumps({"after": [1, said]})),
    "cursor of another kind": lambda said, _: listed(queryMore=[said]),
    "record": lambda said, _: Reply(200, json.dumps({"items": [said]}).encode()),
    "text": lambda said, _: Reply(200, said.encode(), content_type="text/plain"),
    "page of HTML": lambda said, _: Reply(502, f"<html>{said}</html>".encode(), content_type="text/html"),
}
IN_HEADERS = {
    "trace id": lambda said, _: Reply(500, b"", {"x-request-id": said, "retry-after": said, "x-next-page": said}),
    "link": lambda said, _: Reply(200, b'{"items":[]}', {"link": f'<https://{said}/>; rel="next"', "x-total-pages": said}),
    "encoding": lambda said, _: Reply(200, b"{}", {"content-encoding": f"gzip, {said}"}),
    "content type": lambda said, _: Reply(200, b"", {"content-type": said}),
    "redirect home": lambda said, url: Reply(302, b"", {"location": f"{url}/api/echo/{said}?t={said}"}),
    "redirect abroad": lambda said, _: Reply(302, b"", {"location": f"https://{said}.example/{said}"}),
    "redirect nowhere": lambda said, _: Reply(302, b"", {"location": f"https://{said}:port/"}),
}


def shown_by(run) -> list[str]:
    """Give what a person or an error tracker gets to see of a call."""
    try:
        return [repr(run())]
    except Exception as error:  # noqa: BLE001 - every error is looked at
        shown = [str(error), repr(error), "".join(traceback.format_exception(error)), repr(pickle.dumps(error))]
        return [*shown, repr(vars(error))] + ([error.without_problem()] if isinstance(error, ApiError) else [])


@pytest.mark.sampled(5)
@pytest.mark.parametrize("where", ["/api/", "/oauth2/token"])
@pytest.mark.parametrize("place", [*PLACES, *IN_HEADERS])
def test_no_form_is_shown(hook_of, server, caplog, place, where):
    caplog.set_level(logging.DEBUG)
    answer = {**PLACES, **IN_HEADERS}[place]
    forms = [name for name in FORMS if place in PLACES or name not in NOT_IN_HEADERS]
    echoed = SECRET if where == "/oauth2/token" else TOKEN
    # Each place is tried with every third form, and every form in every third place.
    for name in forms[[*PLACES, *IN_HEADERS].index(place) % 3 :: 3]:
        caplog.clear()
        remove = server.on_request(
            lambda call, name=name: answer(FORMS[name](echoed), server.url) if call.path.startswith(where) else None
        )
        hook = hook_of(server)
        shown = shown_by(lambda: list(hook.iter_records("orders", page_size=100)))  # noqa: B023 - called at once
        shown += shown_by(hook.test_connection)
        shown += [caplog.text, *(repr(vars(record)) for record in caplog.records if record.name.startswith("limio"))]
        remove()
        assert not any(entry["path"].startswith("/api/echo") for entry in server.counters.log), "a credential was sent in a URL"
        whole = {str(number): text.lower().encode() for number, text in enumerate(shown)}
        assert holders(whole, [SECRET, TOKEN]) == set(), name
        for text in shown[:-1]:
            own = "\n".join(line for line in text.splitlines() if "urllib3" not in line)
            assert readable_pieces(own, SECRET, layers=3) == set(), (name, own)
            assert readable_pieces(own, TOKEN, layers=3) == set(), (name, own)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", FORMS)
def test_what_goes_on_is_refused(hook_of, server, name):
    """Neither a cursor nor an id that repeats a credential is sent to the API."""
    said = FORMS[name](TOKEN)
    cases = {
        "orders": lambda: Reply(200, json.dumps({"items": [{"id": "x"}], "queryMore": f"a:{said}:b"}).encode()),
        "catalog.offers2": lambda: Reply(
            200, json.dumps({"items": [{"id": "x"}], "queryMore": {"from": "f", "alias": said}}).encode()
        ),
        "identities": lambda: Reply(200, json.dumps({"items": [{"id": f"id-{said}"}]}).encode()),
    }
    for resource, answer in cases.items():
        remove = server.on_request(lambda call, answer=answer: answer() if call.path.startswith("/api/") else None)
        before = len(server.counters.log)
        with pytest.raises(ProtocolError, match="repeats a credential") as caught:
            list(hook_of(server).iter_records(resource, detail=resource == "identities"))
        remove()
        assert readable_pieces(str(caught.value), TOKEN) == set()
        asked = [entry for entry in list(server.counters.log)[before:] if entry["path"].startswith("/api/")]
        assert len(asked) == 1, asked


def test_an_ordinary_cursor_and_an_ordinary_id_pass(hook_of, server):
    hook = hook_of(server)
    assert len(list(hook.iter_records("orders", page_size=100))) == sum(1 for _ in server.tenant.rows_of("orders"))
    assert list(hook.iter_records("identities", page_size=40, detail=True))
    with contextlib.suppress(ApiError):
        hook.request(path="/nowhere")


@pytest.mark.sampled(6)
@pytest.mark.parametrize("form", FORMS)
def test_the_legacy_key_is_masked_too(key_hook, limio_emulator, form):
    said = FORMS[form](limio_emulator.api_key)
    for answer in (Reply(400, body(said)), listed(queryMore={"from": said, "alias": "a"}), Reply(200, body(said))):
        remove = limio_emulator.on_request(lambda _, answer=answer: answer)
        shown = shown_by(lambda: list(key_hook.iter_records("catalog.offers2"))) + shown_by(key_hook.test_connection)
        remove()
        assert len(shown) > 4
        for text in shown:
            assert readable_pieces(text, limio_emulator.api_key, layers=3) == set(), text


@pytest.mark.sampled(6)
@pytest.mark.parametrize("form", FORMS)
def test_another_connections_secret_is_masked_as_well(hook_of, server, limio_emulator, form):
    """Both may be known to a gateway before both APIs."""
    other = hook_of(server)
    assert other.settings
    limio_emulator.on_request(lambda _: Reply(400, body(FORMS[form](SECRET))))
    for text in shown_by(lambda: list(hook_of(limio_emulator).iter_records("orders"))):
        assert readable_pieces(text, SECRET, layers=3) == set(), text
