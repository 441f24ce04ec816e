# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The wire: one kept-alive connection, finite timeouts, and a credential that stays where it belongs."""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
import socket
import ssl
import threading
from types import SimpleNamespace

import pytest
import requests
import urllib3.exceptions

from limio_limitrail.api import errors
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.secret import Secret
from limio_limitrail.api.transport import Transport
from limio_limitrail.emulator import Fault
from limio_limitrail.urls import is_loopback, origin_of, same_origin
from tests.support.wire import answer, full_listener, raw_server, read_request

ORDERS = "/objects/limio/orders"
TOKEN = b'{"access_token":"site-token-1234567890","token_type":"Bearer","expires_in":3600}'


def token_or(then):
    """Answer token requests, and leave the others to a function."""

    def respond(request):
        return (200, {}, TOKEN) if request["target"] == "/oauth2/token" else then(request)

    return respond


@pytest.fixture
def netrc_home(monkeypatch, tmp_path):
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login netrc-user password netrc-password\ndefault login d password netrc-password\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))


def test_token_and_all_requests_share_one_connection(make_client, limio_emulator):
    client = make_client(limio_emulator)
    for _ in range(20):
        client.send(path=ORDERS, params={"limit": "3"})
    assert limio_emulator.counters.connections == 1
    assert limio_emulator.counters.requests == 21


def test_every_request_says_who_is_calling_and_takes_gzip(make_client, limio_emulator):
    make_client(limio_emulator).send(path=ORDERS)
    for entry in limio_emulator.counters.log:
        assert entry["headers"]["user-agent"] == "tests/1"
        assert "gzip" in entry["headers"]["accept-encoding"]


def test_a_compressed_body_arrives_whole(make_client, site):
    body = b'{"items":[' + b",".join(b'{"id":"%d"}' % number for number in range(5000)) + b"]}"
    site.respond = token_or(lambda _: (200, {"Content-Encoding": "gzip"}, gzip.compress(body)))
    client = make_client(site)
    assert client.send(path=ORDERS).body == body
    assert client.counters.bytes == len(body)


def test_the_token_request_is_a_form_without_a_scope(make_client, site):
    site.respond = token_or(lambda _: (200, {}, b"{}"))
    make_client(site).send(path=ORDERS)
    token, read = site.seen
    assert token["method"] == "POST"
    assert token["headers"]["Content-Type"] == "application/x-www-form-urlencoded"
    assert sorted(token["body"].decode().split("&")) == [
        "client_id=site",
        "client_secret=site-client-secret",
        "grant_type=client_credentials",
    ]
    assert "Authorization" not in token["headers"]
    assert read["headers"]["Authorization"] == "Bearer site-token-1234567890"
    assert b"site-client-secret" not in read["body"]


def test_a_netrc_file_is_not_read(make_client, site, netrc_home):
    site.respond = token_or(lambda _: (200, {}, b"{}"))
    client = make_client(site)
    client.send(path=ORDERS)
    assert client.session().get(f"{site.url}/api/x").status_code == 200
    assert [request["headers"].get("Authorization") for request in site.seen] == [
        None,
        "Bearer site-token-1234567890",
        "Bearer site-token-1234567890",
    ]


def test_cookies_are_not_kept(make_client, site):
    site.respond = token_or(lambda _: (200, {"Set-Cookie": "AWSALB=1; Path=/"}, b"{}"))
    client = make_client(site)
    for _ in range(3):
        client.send(path=ORDERS)
        client.session().get(f"{site.url}/api/x")
    assert not any("Cookie" in request["headers"] for request in site.seen)


def test_the_free_session_cannot_wait_for_ever(make_client, silent_port):
    client = make_client(SimpleNamespace(url=f"http://127.0.0.1:{silent_port}"), read=0.05)
    client.auth = SimpleNamespace(credential=lambda: None, header=lambda _: "x")
    with pytest.raises(requests.exceptions.ReadTimeout):
        client.session().get(f"http://127.0.0.1:{silent_port}/api/x")


def test_the_free_session_is_always_the_same_one(make_client, limio_emulator):
    client = make_client(limio_emulator)
    assert client.session() is client.session()
    for _ in range(3):
        assert client.session().get(f"{client.base_url}{ORDERS}").status_code == 200
    assert limio_emulator.counters.connections == 2  # one for the token, one for the session


# -- redirects -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_on_the_same_origin_is_followed(make_client, site, status):
    site.respond = token_or(
        lambda request: (
            (200, {}, b'{"moved":1}') if request["target"] == "/api/b?x=1" else (status, {"Location": "/api/b?x=1"}, b"")
        )
    )
    assert make_client(site).send(path="/a").json() == {"moved": 1}
    assert site.seen[-1]["headers"]["Authorization"] == "Bearer site-token-1234567890"


HOSTILE = [
    "{evil}/x",
    "//127.0.0.1:{evil_port}/x",
    "http://127.0.0.1:{port}@127.0.0.1:{evil_port}/x",
    "http://user@127.0.0.1:{port}/api/x",
    "http://127.0.0.1:{evil_port}\\@127.0.0.1:{port}/x",
    "http://127.0.0.1:{evil_port}\\\\@127.0.0.1:{port}/x",
    "\\\\127.0.0.1:{evil_port}\\x",
    "/\\127.0.0.1:{evil_port}/x",
    "http:\\\\127.0.0.1:{evil_port}\\x",
    "https://127.0.0.1:{port}/x",
    "http://localhost:{port}/x",
    "http://127.0.0.1/x",
    "http://127.0.0.1:{port}0/x",
    "http://127.0.0.1:{evil_port}#@127.0.0.1:{port}/x",
    "http://127.0.0.1:{evil_port}?@127.0.0.1:{port}/x",
    "http://[::1]:{port}/x",
    "http://127.0.0.1:port/x",
    "http://:{port}/x",
    "ftp://127.0.0.1:{port}/x",
    "javascript:alert(1)",
]


@pytest.mark.parametrize("location", HOSTILE)
def test_a_redirect_elsewhere_is_refused(make_client, make_site, location):
    app, evil = make_site(), make_site()
    target = location.format(evil=evil.url, evil_port=evil.port, port=app.port)
    app.respond = token_or(lambda _: (302, {"Location": target}, b""))
    client = make_client(app)
    with pytest.raises(errors.ProtocolError, match="redirect"):
        client.send(path="/a")
    assert evil.seen == []
    assert len(app.seen) == 2


@pytest.mark.parametrize("location", HOSTILE)
def test_the_free_session_takes_no_credential_elsewhere(make_client, make_site, location, netrc_home):
    app, evil = make_site(), make_site()
    target = location.format(evil=evil.url, evil_port=evil.port, port=app.port)
    app.respond = token_or(lambda _: (302, {"Location": target}, b""))
    session = make_client(app).session()
    with contextlib.suppress(requests.exceptions.RequestException, ValueError):
        session.get(f"{app.url}/api/a", timeout=2)
    for request in evil.seen:
        assert "Authorization" not in request["headers"]
    assert not any("Basic" in request["headers"].get("Authorization", "") for request in app.seen)


def test_the_free_session_follows_redirects_of_its_own_origin_with_the_token(make_client, site, netrc_home):
    site.respond = token_or(lambda request: (200, {}, b"{}") if request["target"] == "/b" else (302, {"Location": "/b"}, b""))
    assert make_client(site).session().get(f"{site.url}/api/a").status_code == 200
    assert site.seen[-1]["headers"]["Authorization"] == "Bearer site-token-1234567890"


@pytest.mark.parametrize(
    "form", ["http://127.0.0.1:{evil_port}\\@127.0.0.1:{port}/x", "{evil}/x", "http://u:p@127.0.0.1:{evil_port}/"]
)
def test_the_free_session_sends_no_credential_to_a_url_of_another_origin(make_client, make_site, form):
    app, evil = make_site(), make_site()
    app.respond = token_or(lambda _: (200, {}, b"{}"))
    make_client(app).session().get(form.format(evil=evil.url, evil_port=evil.port, port=app.port))
    assert len(evil.seen) == 1
    assert "Bearer" not in evil.seen[0]["headers"].get("Authorization", "")


def test_a_credential_stays_behind_when_http_turns_into_https(make_client, site):
    """requests itself would take it along between the two default ports."""
    site.respond = token_or(lambda _: (200, {}, b"{}"))
    session = make_client(site).session()
    session._origin = "http://app"
    prepared = requests.Request("GET", "https://app/x", headers={"Authorization": "Bearer t"}).prepare()
    response = requests.Response()
    response.request = requests.Request("GET", "http://app/x").prepare()
    session.rebuild_auth(prepared, response)
    assert "Authorization" not in prepared.headers


def test_a_redirect_loop_ends(make_client, site):
    site.respond = token_or(lambda _: (302, {"Location": "/api/a"}, b""))
    with pytest.raises(errors.ProtocolError, match="more than 5 redirects"):
        make_client(site).send(path="/a")
    assert len(site.seen) == 7


def test_a_write_is_not_redirected(make_client, site):
    site.respond = token_or(lambda _: (307, {"Location": "/api/b"}, b""))
    with pytest.raises(errors.ProtocolError, match="redirect of a write"):
        make_client(site).send(method="POST", path="/a", json={})
    assert len(site.seen) == 2


def test_a_redirect_without_a_target_is_an_error(make_client, site):
    site.respond = token_or(lambda _: (302, {}, b""))
    with pytest.raises(errors.ProtocolError, match="302"):
        make_client(site).send(path="/a")


# -- what cannot be sent ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["", "x", "//evil/x", "/\\evil", "/a?token=s3cret", "/a#b", "/a b", "/a\r\nX: 1", "/a/../b", "/..", "/./a", "http://evil/x"],
)
def test_a_path_that_is_none_is_refused_before_anything_is_sent(make_client, limio_emulator, path):
    with pytest.raises(errors.InvalidRequestError) as caught:
        make_client(limio_emulator).send(path=path)
    assert "s3cret" not in str(caught.value)
    assert limio_emulator.counters.requests == 0


@pytest.mark.parametrize(
    "arguments",
    [{"json": {"a": float("nan")}}, {"json": {1, 2}}, {"idempotency_key": "a\r\nX-Evil: 1"}, {"params": {"a": "\ud800"}}],
)
def test_what_cannot_be_put_on_the_wire_is_refused_without_a_retry(make_client, limio_emulator, waits, arguments):
    with pytest.raises(errors.InvalidRequestError, match="cannot be sent"):
        make_client(limio_emulator).send(method="POST", path="/a", **{"idempotency_key": "k", **arguments})
    assert waits == []
    # A header is looked at before there is a token.
    asked = [] if "idempotency_key" in arguments else ["/oauth2/token"]
    assert [entry["path"] for entry in limio_emulator.counters.log] == asked


def test_a_body_that_is_not_encoded_as_it_says_breaks_the_contract(make_client, limio_emulator, waits):
    limio_emulator.faults.add(Fault("wrong_encoding", "/api/", times=None))
    with pytest.raises(errors.ProtocolError, match="expected a body in the content encoding gzip"):
        make_client(limio_emulator).send(path=ORDERS)
    assert waits == []


def test_a_ca_bundle_that_is_gone_is_a_transport_error():
    transport = Transport(user_agent="tests/1", verify="/nowhere/bundle.pem")
    with pytest.raises(errors.TransportError):
        transport.exchange(method="GET", url="https://127.0.0.1:9/x", headers={}, context=RequestContext(api="Limio"))


# -- forks and origins -----------------------------------------------------------------------------------------------


def test_a_forked_child_takes_neither_token_nor_connection_over(make_client, limio_emulator):
    client = make_client(limio_emulator)
    client.send(path=ORDERS)
    free = client.session()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a child that hangs fails instead of making the parent hang
        try:
            client.send(path=ORDERS)
            os.write(writer, b"same" if client.session() is free else b"done")
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"done"
    os.waitpid(child, 0)
    client.send(path=ORDERS)
    assert limio_emulator.counters.tokens_minted == 2
    assert limio_emulator.counters.connections == 2


def test_threads_share_a_client(make_client, limio_emulator):
    client = make_client(limio_emulator)
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(3):
                client.send(path=ORDERS, params={"limit": "2"})
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert limio_emulator.counters.tokens_minted == 1
    assert client.counters.requests == 60


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://App.example/x", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:8080/", "http://app.example:8080"),
        ("http://[::1]:80/", "http://[::1]"),
    ],
)
def test_origins(url, origin):
    assert origin_of(url) == origin
    assert same_origin(url, origin_of(origin))


@pytest.mark.parametrize(
    "url", ["", "app", "/x", "http://", "http://a:b/", "http://a\\@b/", "http://u@a/", "http://a b/", "http://a\t/"]
)
def test_what_has_no_origin(url):
    with pytest.raises(ValueError):
        origin_of(url)
    assert not same_origin(url, "http://a")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("127.evil.com", False),
        ("0.0.0.0", False),
        ("127.1.evil", False),
        ("localhost.evil.com", False),
        ("10.0.0.1", False),
    ],
)
def test_loopback(host, expected):
    assert is_loopback(host) is expected


# -- did the request reach the API? ----------------------------------------------------------------------------------


def sent(client, **more):
    """Send a write and give the error that it ends with."""
    with pytest.raises(errors.ApiError) as caught:
        client.send(method="POST", path="/x", content=b"{}", **more)
    return caught.value


def with_token(client):
    """Spare a client the token endpoint."""
    credential = Secret("token-1234567890")
    client.auth = SimpleNamespace(
        mode=client.auth.mode,
        credential=lambda: credential,
        header=lambda given: f"Bearer {given.reveal()}",
        renew=lambda _: False,
        granted_scopes=lambda: None,
        secrets=lambda: (credential,),
    )
    return client


def test_a_connection_refused_never_reached_it(make_client):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = sent(with_token(make_client(SimpleNamespace(url=f"http://127.0.0.1:{port}"))))
    assert isinstance(error, errors.TransportError)
    assert error.context.reached is False


def test_a_name_that_is_not_known_never_reached_it(make_client):
    error = sent(with_token(make_client(SimpleNamespace(url="http://nowhere.invalid"))))
    assert isinstance(error, errors.TransportError)
    assert error.context.reached is False


def test_a_connect_timeout_never_reached_it(make_client):
    with full_listener() as url:
        error = sent(with_token(make_client(SimpleNamespace(url=url), connect=0.1, read=0.1)))
    assert isinstance(error, errors.TransportError)
    assert "connect timeout" in str(error)
    assert error.context.reached is False


def test_a_token_that_cannot_be_had_never_reached_it(make_client, site):
    site.respond = lambda request: (400, {}, b'{"error":"invalid_scope"}')
    error = sent(make_client(site))
    assert error.context.reached is False
    assert [request["target"] for request in site.seen] == ["/oauth2/token"]


def test_an_answer_that_is_cut_off_before_it_began_may_have_reached_it(make_client, limio_emulator):
    limio_emulator.faults.add(Fault("reset", "/api/", times=None))
    error = sent(make_client(limio_emulator))
    assert isinstance(error, errors.TransportError)
    assert error.context.reached is True
    assert sum(entry["path"].startswith("/api/") for entry in limio_emulator.counters.log) == 1


def test_a_success_that_breaks_off_may_have_reached_it(make_client):
    with raw_server(lambda one: (read_request(one), one.sendall(answer(201, b'{"dec', length=40)))) as url:
        error = sent(with_token(make_client(SimpleNamespace(url=url))))
    assert isinstance(error, errors.TransportError)
    assert error.status == 201
    assert error.context.reached is True


def test_silence_may_have_reached_it(make_client, silent_port):
    error = sent(with_token(make_client(SimpleNamespace(url=f"http://127.0.0.1:{silent_port}"), read=0.05)))
    assert isinstance(error, errors.TransportError)
    assert error.context.reached is True


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 429, 500, 502, 503, 504])
def test_every_answer_reached_it(make_client, site, status):
    site.respond = token_or(lambda _: (status, {}, b"{}"))
    assert sent(make_client(site)).context.reached is True


def test_a_certificate_that_is_refused_never_reached_it(make_client, site):
    # The errors as the libraries raise and wrap them when they verify a certificate.
    client = with_token(make_client(site))

    def refuse(*_, **__):
        cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
        reason = urllib3.exceptions.SSLError(cause)
        reason.__cause__ = cause
        raise requests.exceptions.SSLError(urllib3.exceptions.MaxRetryError(None, "/", reason)) from reason

    client.transport._session.send = refuse
    error = sent(client)
    assert "TLS" in str(error)
    assert error.context.reached is False
    assert site.seen == []


def test_a_tls_connection_that_breaks_later_may_have_reached_it(make_client, site):
    client = with_token(make_client(site))

    def broken(*_, **__):
        raise requests.exceptions.SSLError(ssl.SSLEOFError(8, "EOF occurred in violation of protocol"))

    client.transport._session.send = broken
    assert sent(client).context.reached is True


# -- bodies that are JSON already ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b'{"amount":0.1000,"big":123456789012345678901234567890}', "naïve 日本".encode(), b"{}", b" "]
)
def test_content_goes_out_byte_for_byte(make_client, site, content):
    site.respond = token_or(lambda _: (200, {}, b"{}"))
    make_client(site).send(method="POST", path="/x", content=content)
    assert site.seen[-1]["body"] == content
    assert site.seen[-1]["headers"]["Content-Type"] == "application/json"
    assert site.seen[-1]["headers"]["Content-Length"] == str(len(content))


def test_no_content_is_no_body(make_client, site):
    site.respond = token_or(lambda _: (200, {}, b"{}"))
    make_client(site).send(method="POST", path="/x", headers={"Idempotency-Key": "k-1"})
    assert site.seen[-1]["body"] == b""
    assert "Content-Type" not in site.seen[-1]["headers"]
    assert site.seen[-1]["headers"]["Idempotency-Key"] == "k-1"
