# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The session of `get_conn()` keeps the promises of docs/explanation/security.md, whatever is asked or answered."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import pickle
import socket
from collections.abc import Iterator
from functools import partial
from urllib.parse import quote

import pytest
import requests
import requests.adapters

from limio_limitrail.api import errors
from limio_limitrail.api.async_transport import AsyncTransport
from limio_limitrail.api.auth import ClientCredentials, TokenSource, mint
from limio_limitrail.api.client import ApiClient, AsyncApiClient
from limio_limitrail.api.secret import Secret
from limio_limitrail.api.session import RedirectRefusedError
from limio_limitrail.api.transport import Timeouts, Transport
from tests.support.error_walk import ErrorWalk
from tests.support.wire import Behaviour, WireServer, answer, make_certificate, raw_server, wire_server

TOKEN = "token-of-the-wire-1234567890"
SECRET = "Opaque+Client/Secret=42"
PROXY_PASSWORD = "proxy-password-123"
WALK = ErrorWalk(TOKEN, SECRET, PROXY_PASSWORD)

pytestmark = pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")


def make_client(url: str, *, auth_url: str | None = None, verify: bool | str = True) -> ApiClient:
    transport = Transport(user_agent="tests/1", timeouts=Timeouts(connect=60, read=60), verify=verify)
    credentials = ClientCredentials(auth_url=auth_url or f"{url}/token", client_id="wire", client_secret=Secret(SECRET))
    auth = TokenSource(
        mint=lambda: mint(api="Limio", credentials=credentials, transport=transport, sleep=lambda _: None),
        client_secret=Secret(SECRET),
    )
    return ApiClient(api="Limio", base_url=url, transport=transport, auth=auth, sleep=lambda _: None)


@pytest.fixture
def server() -> Iterator[WireServer]:
    with wire_server() as made:
        yield made


@pytest.fixture
def session(server) -> Iterator[requests.Session]:
    with contextlib.closing(make_client(server.url)) as client:
        yield client.session()


def headers_of(request: bytes) -> dict[str, str]:
    lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def sent_by(server: WireServer) -> list[str | None]:
    return [headers_of(request).get("authorization") for request in server.requests]


BEARER = f"Bearer {TOKEN}"

# -- certificates ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authorities(tmp_path_factory):
    """What a server speaks TLS with, the bundle that trusts it, and one that does not."""
    one, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    tls, bundle = make_certificate(one)
    return tls, {"trusting": str(bundle), "other": str(make_certificate(other)[1]), "gone": str(one / "gone.pem")}


def by_free_session(client: ApiClient) -> int:
    return client.session().get(f"{client.base_url}/x").status_code


def by_prepared_request(client: ApiClient) -> int:
    return client.session().send(requests.Request("GET", f"{client.base_url}/x").prepare()).status_code


def by_thread(client: ApiClient) -> int:
    return client.send(path="/x").status


def by_loop(client: ApiClient) -> int:
    async def send() -> int:
        loop_client = AsyncApiClient(client, transport=AsyncTransport(client.transport, connections=1))
        try:
            return (await loop_client.send(path="/x")).status
        finally:
            await loop_client.close()

    return asyncio.run(send())


WAYS = pytest.mark.parametrize("ask", [by_free_session, by_prepared_request, by_thread, by_loop])
BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


@pytest.fixture(autouse=True)
def no_bundle(monkeypatch):
    for name in BUNDLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.sampled(3)
@WAYS
@pytest.mark.parametrize(
    ("variable", "named"),
    [
        (None, None),
        *((name, bundle) for name in BUNDLES[:2] for bundle in ("trusting", "other", "gone")),
        (BUNDLES[2], "trusting"),
    ],
)
@pytest.mark.parametrize("verify", [True, False, "trusting", "other"], ids=str)
def test_the_connection_says_whom_to_trust(authorities, monkeypatch, verify, variable, named, ask):
    """The environment is asked only where the connection names no bundle and does check: never against what it says."""
    tls, bundles = authorities
    if variable is not None:
        monkeypatch.setenv(variable, bundles[named])
    trusts = {False: True, "trusting": True, "other": False, True: variable in BUNDLES[:2] and named == "trusting"}[verify]
    with wire_server() as tokens, wire_server(tls=tls) as server:
        given = bundles.get(verify, verify) if isinstance(verify, str) else verify
        with contextlib.closing(make_client(server.url, auth_url=f"{tokens.url}/token", verify=given)) as client:
            if trusts:
                assert ask(client) == 200
            else:
                # OSError: what requests makes of a bundle that is not there
                with pytest.raises((requests.exceptions.SSLError, errors.TransportError, OSError)) as caught:
                    ask(client)
                assert WALK.leaks(caught.value) == []
        assert len(server.requests) == int(trusts)


@pytest.mark.parametrize(
    ("of_connection", "of_request", "trusts"),
    [
        ("other", False, True),
        ("other", "trusting", True),
        (False, "other", False),
        ("trusting", True, False),
        ("trusting", None, True),
        (False, None, True),
    ],
)
@pytest.mark.parametrize("prepared", [False, True])
def test_what_a_request_says_itself_counts(authorities, monkeypatch, of_connection, of_request, trusts, prepared):
    tls, bundles = authorities
    of_connection, of_request = (bundles.get(one, one) if isinstance(one, str) else one for one in (of_connection, of_request))
    with wire_server() as tokens, wire_server(tls=tls) as server:
        with contextlib.closing(make_client(server.url, auth_url=f"{tokens.url}/token", verify=of_connection)) as client:
            session = client.session()
            with contextlib.nullcontext() if trusts else pytest.raises(requests.exceptions.SSLError):
                if prepared:
                    session.send(requests.Request("GET", f"{server.url}/x").prepare(), verify=of_request)
                else:
                    session.get(f"{server.url}/x", verify=of_request)
        assert len(server.requests) == int(trusts)


def test_a_redirect_is_verified_like_what_it_answers(authorities, monkeypatch):
    tls, bundles = authorities
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundles["other"])
    with wire_server(tls=tls) as server, contextlib.closing(make_client(server.url, verify=bundles["trusting"])) as client:
        server.script = [Behaviour(answer(307, Location="/y"))]
        assert client.session().post(f"{server.url}/x", data=b"{}").status_code == 200
        assert sent_by(server) == [BEARER, BEARER]


# -- cookies ---------------------------------------------------------------------------------------------------------

COOKIE = Behaviour(answer(200, b"{}", Set_Cookie="AWSALB=one; Path=/"))


def _redirect(status: int = 302, location: str = "/moved", **headers: str) -> Behaviour:
    return Behaviour(answer(status, Set_Cookie="AWSALB=one; Path=/", Location=location, **headers))


def _plainly(session, url):
    session.get(url)


def _prepared(session, url):
    session.send(session.prepare_request(requests.Request("GET", url)))


def _prepared_elsewhere(session, url):
    session.send(requests.Request("GET", url).prepare())


def _again(session, url):
    first = session.get(url)
    session.send(first.request)
    session.send(first.request.copy())


def _with_cookies_of_before(session, url):
    first = session.get(url)
    session.cookies.update(first.cookies)
    session.cookies.set("own", "1")
    session.get(url, cookies=first.cookies)


def _step_by_step(session, url):
    answer = session.get(url, allow_redirects=False)
    while answer.next is not None:
        answer = session.send(answer.next, allow_redirects=False)


HABITS = pytest.mark.parametrize(
    "ask", [_plainly, _prepared, _prepared_elsewhere, _again, _with_cookies_of_before, _step_by_step]
)


@HABITS
@pytest.mark.parametrize("script", [[COOKIE], [_redirect()], [_redirect(), _redirect(307), COOKIE]], ids=["200", "302", "chain"])
def test_no_cookie_is_sent(server, session, script, ask):
    server.script = script * 3
    ask(session, f"{server.url}/x")
    ask(session, f"{server.url}/x")
    assert len(server.requests) > len(script)
    assert not any("cookie" in headers_of(request) for request in server.requests)
    assert set(sent_by(server)) == {BEARER}
    assert not session.cookies


def test_a_cookie_that_a_request_names_itself_is_sent_with_that_one(server, session):
    server.script = [_redirect()]
    session.get(f"{server.url}/x", cookies={"own": "1"})
    session.get(f"{server.url}/x")
    assert [headers_of(request).get("cookie") for request in server.requests] == ["own=1", None, None]


def test_the_transports_own_session_keeps_none_either(server):
    server.script = [_redirect(), COOKIE, COOKIE]
    with contextlib.closing(make_client(server.url)) as client:
        for _ in range(3):
            client.send(path="/x")
    assert not any("cookie" in headers_of(request) for request in server.requests)


# -- redirects -------------------------------------------------------------------------------------------------------

ELSEWHERE = {
    "another port": "http://127.0.0.1:{evil}/x",
    "another name": "http://localhost:{port}/x",
    "another address": "http://127.0.0.2:{evil}/x",
    "https on one host": "https://127.0.0.1:{port}/x",
    "another scheme and port": "https://127.0.0.1:{evil}/x",
    "scheme-relative": "//127.0.0.1:{evil}/x",
    "scheme-relative, another name": "//localhost:{port}/x",
    "a user": "http://user@127.0.0.1:{port}/x",
    "a user and a password": "http://user:password@127.0.0.1:{port}/x",
    "a host that is a user": "http://127.0.0.1:{port}@127.0.0.1:{evil}/x",
    "a backslash": "http://127.0.0.1:{evil}\\@127.0.0.1:{port}/x",
    "a port that is none": "http://127.0.0.1:port/x",
    "a file": "file:///etc/hostname",
    "an IPv6 address": "http://[::1]:{port}/x",
    "a fragment": "http://127.0.0.1:{evil}#@127.0.0.1:{port}/x",
}


@pytest.mark.sampled
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_redirect_elsewhere_is_refused(server, session, name, method, status):
    with wire_server() as evil:
        evil.script = [Behaviour(answer(302, Location=f"{server.url}/back"))] * 3
        target = ELSEWHERE[name].format(evil=evil.port, port=server.port)
        server.script = [Behaviour(answer(status, Location=target))] * 2
        body = {"data": b'{"amount":1}'} if method == "POST" else {}
        with pytest.raises((requests.exceptions.RequestException, ValueError)) as caught:
            session.request(method, f"{server.url}/x", allow_redirects=True, **body)
        assert evil.requests == []
        assert evil.connections == 0
        assert sent_by(server) == [BEARER]
        assert WALK.leaks(caught.value) == []
        # Who follows no redirects gets the answer, and no way to follow it.
        answered = session.request(method, f"{server.url}/x", allow_redirects=False, **body)
        assert answered.status_code == status
        assert answered.next is None
        assert answered.headers["Location"] == target


def test_the_refusal_says_where_to_and_holds_no_credential(server, session):
    server.script = [Behaviour(answer(302, Location="https://elsewhere.example/x?t=1"))]
    with pytest.raises(requests.exceptions.RequestException, match=r"another origin \(https://elsewhere.example\)") as caught:
        session.get(f"{server.url}/x")
    assert caught.value.response.status_code == 302
    assert "t=1" not in str(caught.value)


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_a_chain_that_leaves_and_comes_back_ends_where_it_leaves(server, session, hops):
    with wire_server() as evil:
        evil.script = [Behaviour(answer(302, Location=f"{server.url}/back"))]
        server.script = [*[_redirect(307)] * (hops - 1), _redirect(302, f"{evil.url}/x"), Behaviour(answer(200, b"{}"))]
        with pytest.raises(requests.exceptions.RequestException, match="another origin"):
            session.get(f"{server.url}/x")
        assert evil.requests == []
        assert len(server.requests) == hops


def test_a_redirect_of_another_origin_leads_to_nothing_of_the_apis(server, session):
    """Else whoever runs a host that the user asks could have anything asked with the credential."""
    with wire_server() as other:
        other.script = [Behaviour(answer(302, Location=f"{server.url}/secret"))]
        with pytest.raises(requests.exceptions.RequestException, match="another origin"):
            session.get(f"{other.url}/x")
        assert sent_by(other) == [None]
        assert server.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["/moved", "moved?x=1", "//127.0.0.1:{port}/moved", "http://127.0.0.1:{port}/moved#there"])
def test_a_redirect_within_the_origin_is_followed_with_the_credential(server, session, status, location):
    server.script = [Behaviour(answer(status, Location=location.format(port=server.port)))]
    answered = session.post(f"{server.url}/x", data=b'{"a":1}')
    assert answered.status_code == 200
    assert [one.status_code for one in answered.history] == [status]
    assert sent_by(server) == [BEARER, BEARER]
    kept = status in (307, 308)
    assert server.requests[1].startswith(b"POST " if kept else b"GET ")
    assert server.requests[1].endswith(b'{"a":1}') is kept


@pytest.mark.parametrize("echo", [TOKEN, quote(SECRET, safe=""), quote(quote(SECRET, safe=""), safe="")])
def test_a_redirect_that_repeats_a_credential_is_refused(server, session, echo):
    server.script = [_redirect(302, f"/moved?t={echo}")]
    with pytest.raises(RedirectRefusedError, match="repeats a credential") as caught:
        session.get(f"{server.url}/x")
    assert len(server.requests) == 1
    assert echo not in str(caught.value)


def test_redirects_can_be_followed_by_hand(server, session):
    server.script = [_redirect(302), _redirect(307)]
    first = session.get(f"{server.url}/x", allow_redirects=False)
    second = session.send(first.next, allow_redirects=False)
    assert session.send(second.next).status_code == 200
    assert sent_by(server) == [BEARER] * 3


# -- the credential stays where it belongs ------------------------------------------------------------------------------


@pytest.fixture
def netrc(monkeypatch, tmp_path):
    file = tmp_path / ".netrc"
    file.write_text("machine 127.0.0.1 login netrc-user password netrc-password\ndefault login d password netrc-password\n")
    file.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(file))


def _of_another_origin(session, own, other):
    yield session.get(f"{other}/x")
    yield session.post(f"{other}/x", data=b"{}")
    yield session.send(requests.Request("GET", f"{other}/x").prepare())
    prepared = session.prepare_request(requests.Request("GET", f"{own}/x"))
    prepared.url = f"{other}/x"
    yield session.send(prepared)
    for one in (session.get(f"{own}/x"), session.get(f"{own}/moved")):
        copied = one.request.copy()
        copied.url = f"{other}/x"
        yield session.send(copied)
        yield requests.get(f"{other}/x", headers=one.request.headers)
    with requests.Session() as foreign:
        foreign.trust_env = False
        foreign.headers.update(session.headers)
        yield foreign.get(f"{other}/x")


@pytest.mark.parametrize("netrc_", [False, True])
def test_a_request_to_another_origin_carries_no_credential(server, session, netrc_, request):
    if netrc_:
        request.getfixturevalue("netrc")
    with wire_server() as other:
        asked = 0
        for answered in _of_another_origin(session, server.url, other.url):
            assert answered.status_code == 200
            asked += 1
        sent = sent_by(other)
        assert len(sent) == asked
        # What the user asks with requests alone may read a netrc file.
        assert not any(BEARER in (one or "") for one in sent)
        assert netrc_ or sent == [None] * asked
    assert set(sent_by(server)) == {BEARER}


@HABITS
def test_no_netrc_file_is_read(server, session, netrc, ask):
    server.script = [_redirect()] * 3
    ask(session, f"{server.url}/x")
    assert set(sent_by(server)) == {BEARER}


@pytest.mark.parametrize("form", ["http://u:p@127.0.0.1:{port}/x", "http://127.0.0.1:{port}\\@127.0.0.1:{own}/x"])
def test_a_url_that_parsers_read_in_different_ways_carries_none(server, session, form, netrc):
    with wire_server() as other:
        session.get(form.format(port=other.port, own=server.port))
        assert sent_by(other) == [None]


@pytest.mark.parametrize("given", [{"auth": ("user", "pass")}, {"headers": {"Authorization": "Own x"}}], ids=str)
def test_a_credential_that_a_request_names_itself_is_left_alone(server, session, given):
    session.get(f"{server.url}/x", **given)
    assert BEARER not in sent_by(server)[0]
    session.get(f"{server.url}/x")
    assert sent_by(server)[1] == BEARER


def test_an_adapter_of_the_users_own_sends_the_credential_too(server, session):
    session.mount("http://", requests.adapters.HTTPAdapter(max_retries=2))
    server.script = [_redirect(307)]
    assert session.post(f"{server.url}/x", json={}).status_code == 200
    assert sent_by(server) == [BEARER, BEARER]
    assert not any("cookie" in headers_of(request) for request in server.requests)


def test_neither_a_request_nor_its_answer_holds_the_credential(server, session):
    server.new_tokens = True
    server.script = [_redirect(), Behaviour(answer(401, b"{}")), Behaviour(answer(404, b"{}"))]
    answered = session.get(f"{server.url}/x")
    assert len(server.requests) == 3
    assert answered.status_code == 404
    with pytest.raises(requests.exceptions.HTTPError) as caught:
        answered.raise_for_status()
    look = ErrorWalk("token-of-the-wire-")
    assert look.leaks(caught.value) == []
    roots = {str(n): vars(one.request) | {"h": one.headers} for n, one in enumerate([answered, *answered.history])}
    assert list(look.found_in(roots)) == []


@pytest.mark.parametrize("leave", [pickle.dumps, copy.copy, copy.deepcopy])
def test_the_session_stays_in_its_process(session, leave):
    with pytest.raises(TypeError, match="stays in its process"):
        leave(session)


def test_hooks_of_the_users_own_see_the_answer_to_the_renewed_token_only(server, session):
    server.new_tokens = True
    server.script = [Behaviour(answer(401, b"{}"))]
    seen = []
    session.hooks["response"].append(lambda response, **_: (seen.append(response.status_code), response.raise_for_status())[0])
    answered = session.get(f"{server.url}/x")
    assert seen == [200]
    assert [one.status_code for one in answered.history] == [401]
    assert len(set(sent_by(server))) == 2


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent", [b"", b"SSH-2.0\r\n\r\n", answer(200, b"{", length=9), answer(200, b"{}", Content_Encoding="gzip")]
)
def test_an_error_of_the_session_holds_no_credential(sent):
    with (
        wire_server() as tokens,
        raw_server(lambda one: (one.recv(9_000), one.sendall(sent))) as url,
        contextlib.closing(make_client(url, auth_url=f"{tokens.url}/token")) as client,
        pytest.raises(requests.exceptions.RequestException) as caught,
    ):
        client.session().get(f"{url}/x")
    assert WALK.leaks(caught.value) == []
    assert caught.value.__context__ is None
    assert caught.value.request is None or caught.value.request.url == f"{url}/x"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_error_of_the_session_holds_no_password_of_a_proxy(monkeypatch, scheme):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv(f"{scheme}_proxy", f"http://user:{PROXY_PASSWORD}@127.0.0.1:{port}")
    url = f"{scheme}://limitrail.invalid"
    with wire_server() as tokens, contextlib.closing(make_client(url, auth_url=f"{tokens.url}/token")) as client:
        session = client.session()
        with pytest.raises(requests.exceptions.ProxyError) as caught:
            session.get(f"{url}/x")
    assert WALK.leaks(caught.value) == []


@pytest.mark.parametrize("by", ["get", "send", "its own"])
@pytest.mark.parametrize(
    "address", ["http://user:{}/x@127.0.0.1:9", "http://user:{}[@127.0.0.1:9", "http://user:{}@", "ftp://u:{}@127.0.0.1"]
)
def test_the_address_of_a_proxy_that_cannot_be_used_is_not_repeated(monkeypatch, address, by):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    proxy, url = address.format(PROXY_PASSWORD), "http://limitrail.invalid/x"
    if by != "its own":
        monkeypatch.setenv("http_proxy", proxy)
    with wire_server() as tokens, contextlib.closing(make_client(url[:-2], auth_url=f"{tokens.url}/token")) as client:
        session = client.session()
        send = {
            "get": partial(session.get, url),
            "send": lambda: session.send(session.prepare_request(requests.Request("GET", url))),
            "its own": partial(session.get, url, proxies={"http": proxy}),
        }[by]
        with pytest.raises(requests.exceptions.InvalidProxyURL, match="the address of the environment's proxy cannot") as caught:
            send()
    # The frames of one who gives a proxy hold what he gives.
    assert PROXY_PASSWORD not in str(caught.value) if by == "its own" else WALK.leaks(caught.value) == []


def test_a_token_that_cannot_be_had_is_an_error_of_the_api(server):
    with (
        raw_server(lambda one: (one.recv(9_000), one.sendall(answer(401, SECRET.encode())))) as tokens,
        contextlib.closing(make_client(server.url, auth_url=tokens)) as client,
        pytest.raises(errors.CredentialsError) as caught,
    ):
        client.session().get(f"{server.url}/x")
    assert WALK.leaks(caught.value) == []
    assert server.requests == []
