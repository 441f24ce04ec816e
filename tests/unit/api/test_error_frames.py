# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whatever fails, and wherever: no error, none that it hangs on, and no variable of their frames holds a credential in plain."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from urllib.parse import quote_plus

import pytest

from limio_limitrail.api import errors
from limio_limitrail.api.async_transport import AsyncTransport
from limio_limitrail.api.auth import ApiKey, Auth, ClientCredentials, TokenSource, mint
from limio_limitrail.api.client import ApiClient, AsyncApiClient
from limio_limitrail.api.list_reader import ListReader
from limio_limitrail.api.page import Page
from limio_limitrail.api.pagination import CursorString
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.resource import AuthMode, Resource
from limio_limitrail.api.retry import RetryLimits
from limio_limitrail.api.secret import Secret
from limio_limitrail.api.transport import Timeouts, Transport
from limio_limitrail.usage.conventions import OPERATIONS
from limio_limitrail.usage.ledger.model import UsageRow
from limio_limitrail.usage.ledger.states import OnUnknown
from limio_limitrail.usage.sender import UsageSender
from tests.support.error_walk import ErrorWalk
from tests.support.wire import (
    BEHAVIOURS,
    Behaviour,
    answer,
    chunked,
    full_listener,
    make_certificate,
    raw_server,
    read_request,
    wire_server,
)

TOKEN = "token-of-the-wire-1234567890"
SECRET = "Opaque+Client/Secret=42"
KEY = "publishable/key=4242"
PROXY_PASSWORD = "proxy-password-123"
WALK = ErrorWalk(TOKEN, SECRET, KEY, PROXY_PASSWORD)
ECHO = json.dumps({"message": f"you sent Bearer {TOKEN} and {SECRET}", "items": f"{TOKEN} {SECRET}"}).encode()
MOST = 200_000


class Alarm(BaseException):
    """What a signal's handler raises, such as Airflow's at the end of ``execution_timeout``."""


PATIENT = {"connect": 60.0, "read": 60.0}
"""For what must not end by a timeout, however busy the machine is."""


def make_client(
    url: str,
    *,
    auth: Auth | None = None,
    auth_url: str | None = None,
    scope: str | None = None,
    connect: float = 0.5,
    read: float = 0.5,
    **transport,
):
    timeouts = Timeouts(connect=connect, read=read, total=120.0)
    wire = Transport(user_agent="tests/1", timeouts=timeouts, max_response=MOST, **transport)
    credentials = ClientCredentials(
        auth_url=auth_url or f"{url}/token", client_id="wire", client_secret=Secret(SECRET), scope=scope
    )
    source = TokenSource(
        mint=lambda: mint(api="LimitRail", credentials=credentials, transport=wire, sleep=lambda _: None),
        client_secret=Secret(SECRET),
    )
    limits = RetryLimits(attempts=2, bad_gateway_attempts=2, rate_limit_attempts=2, first_wait=0.0, longest_wait=0.0)
    return ApiClient(api="LimitRail", base_url=url, transport=wire, auth=auth or source, limits=limits, sleep=lambda _: None)


def by_thread(client: ApiClient, **request) -> BaseException:
    with contextlib.closing(client), pytest.raises(BaseException) as caught:
        client.send(path="/v1/usage/commit", **request)
    return caught.value


def by_loop(client: ApiClient, **request) -> BaseException:
    caught: list[BaseException] = []

    async def send() -> None:
        async def sleep(_: float) -> None: ...

        loop_client = AsyncApiClient(client, transport=AsyncTransport(client.transport, connections=4))
        try:
            await loop_client.send(path="/v1/usage/commit", sleep=sleep, **request)
        except BaseException as error:  # noqa: BLE001 - looked at below
            caught.append(error)
        finally:
            await loop_client.close()

    with contextlib.closing(client):
        asyncio.run(send())
    return caught[0]


BOTH = pytest.mark.parametrize("send", [by_thread, by_loop])


def check(error: BaseException, *kinds: type[BaseException]) -> None:
    assert isinstance(error, kinds), repr(error)
    assert WALK.leaks(error) == []
    assert WALK.foreign(error) == []


# -- what servers do -------------------------------------------------------------------------------------------------


def failing(*secrets: str) -> dict[str, Behaviour]:
    """Return what fails a request, with echoes of secrets wherever a server can put them."""
    token = secrets[0]
    echo = json.dumps({"message": f"you sent Bearer {' and '.join(secrets)}", "items": " ".join(secrets)}).encode()
    return {
        **{
            name: behaviour
            for name, behaviour in BEHAVIOURS.items()
            if not (behaviour.then == "keep" and behaviour.sent[9:10] == b"2")
            and name not in ("without a length", "more than its length", "redirect on the same origin")
        },
        **{f"{status} that echoes": Behaviour(answer(status, echo)) for status in STATUSES},
        "an echo that breaks off": Behaviour(answer(200, echo, length=len(echo) + 9), then="close"),
        "an echo in chunks that break off": Behaviour(chunked(echo, end=b""), then="close"),
        "an echo that is no gzip": Behaviour(answer(200, echo, Content_Encoding="gzip")),
        "an encoding that echoes": Behaviour(answer(200, echo, Content_Encoding=f"br, {token}")),
        "headers that echo": Behaviour(answer(500, X_Request_Id=token, Retry_After=token, WWW_Authenticate=f"Basic {token}")),
        "a redirect that echoes": Behaviour(answer(302, Location=f"/x?t={token}")),
        "a redirect elsewhere that echoes": Behaviour(answer(302, Location=f"https://{token}.example/{token}?s={secrets[-1]}")),
        "a redirect nowhere that echoes": Behaviour(answer(302, Location=f"https://{token}:port/")),
        "an echo that is too large": Behaviour(answer(200, echo * MOST)),
        "an echo that claims to be too large": Behaviour(answer(200, echo, length=10 * MOST), then="hang"),
        "an echo in the place of HTTP": Behaviour(echo + b"\r\n\r\n", then="close"),
    }


STATUSES = (400, 401, 403, 404, 409, 413, 422, 429, 500, 502)
FAILING = failing(TOKEN, SECRET)
FAILING_WITH_A_KEY = failing(KEY)
LENIENT = ("closed within the headers", "chunked and no chunks")
"""What a thread takes for an answer."""


@pytest.mark.sampled(20)
@BOTH
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("name", FAILING)
def test_an_answer_that_fails(name, method, send):
    content = b'{"a":1}' if method == "POST" else None
    with wire_server() as server:
        server.script = [FAILING[name]] * 8
        if name in LENIENT and send is by_thread:
            with contextlib.closing(make_client(server.url)) as client, contextlib.suppress(errors.ApiError):
                client.send(path="/x")
            return
        check(send(make_client(server.url), method=method, content=content), errors.ApiError)


@pytest.mark.sampled(5)
@BOTH
@pytest.mark.parametrize("name", FAILING_WITH_A_KEY)
def test_an_answer_that_fails_with_a_key_of_the_old_kind(name, send):
    with wire_server() as server:
        server.script = [FAILING_WITH_A_KEY[name]] * 8
        client = make_client(server.url, auth=ApiKey(Secret(KEY)))
        if name in LENIENT and send is by_thread:
            client.close()
            return
        error = send_with(client, send=send, credentials=frozenset({AuthMode.API_KEY}))
        check(error, errors.ApiError)


def send_with(client: ApiClient, *, send: Callable[..., BaseException], **request) -> BaseException:
    if send is by_loop:  # usage goes with a token only
        client.attempts = _with(client.attempts, **request)  # type: ignore[method-assign]
        return send(client)
    return send(client, **request)


def _with(call, **more):
    return lambda **given: call(**given, **more)


# -- connections that do not come about ------------------------------------------------------------------------------


@contextlib.contextmanager
def refused_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def unknown_name() -> Iterator[str]:
    yield "http://nowhere.invalid"


@contextlib.contextmanager
def hangs_up() -> Iterator[str]:
    with raw_server(lambda connection: None) as url:
        yield url


@contextlib.contextmanager
def speaks_no_tls() -> Iterator[str]:
    with raw_server(lambda connection: connection.sendall(b"HTTP/1.1 400 No TLS\r\n\r\n")) as url:
        yield url.replace("http:", "https:")


CONNECTIONS = {
    "refused": refused_port,
    "unknown name": unknown_name,
    "no room": full_listener,
    "hangs up": hangs_up,
    "no TLS": speaks_no_tls,
}


@pytest.mark.sampled(6)
@BOTH
@pytest.mark.parametrize("with_token", [True, False])
@pytest.mark.parametrize("name", CONNECTIONS)
def test_a_connection_that_does_not_come_about(name, with_token, send):
    with wire_server() as tokens, CONNECTIONS[name]() as url:
        client = make_client(url, auth_url=f"{tokens.url}/token" if with_token else None)
        check(send(client, method="POST", content=b"{}"), errors.TransportError)


@BOTH
def test_a_certificate_that_is_not_trusted(tmp_path, send):
    tls, _ = make_certificate(tmp_path)
    with wire_server() as tokens, wire_server(tls=tls) as server:
        check(send(make_client(server.url, auth_url=f"{tokens.url}/token")), errors.TransportError)
        check(send(make_client(server.url)), errors.TransportError)


@BOTH
def test_a_bundle_that_is_gone(tmp_path, send):
    with wire_server() as tokens:
        client = make_client("https://127.0.0.1:9", auth_url=f"{tokens.url}/token", verify=str(tmp_path / "gone.pem"))
        check(send(client), errors.TransportError)


# -- proxies ---------------------------------------------------------------------------------------------------------


def _proxy(said: bytes) -> Callable[[socket.socket], object]:
    return lambda connection: (read_request(connection), connection.sendall(said))


PROXIES = {
    "gone": None,
    "407": _proxy(answer(407, ECHO, Proxy_Authenticate="Basic realm=x")),
    "502": _proxy(answer(502, ECHO)),
    "hangs up": lambda connection: None,
    "no HTTP": _proxy(b"SSH-2.0\r\n\r\n"),
    "breaks off": _proxy(answer(200, b"{", length=9)),
}


@pytest.mark.sampled
@BOTH
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("form", ["http://user:{}@", "user:{}@"])
@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_that_fails(monkeypatch, name, form, scheme, send):
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, "127.0.0.1")
    with contextlib.ExitStack() as opened:
        tokens = opened.enter_context(wire_server())
        url = opened.enter_context(refused_port() if PROXIES[name] is None else raw_server(PROXIES[name]))
        host = url.removeprefix("http://")
        monkeypatch.setenv(f"{scheme}_proxy", form.format(PROXY_PASSWORD) + host)
        client = make_client(f"{scheme}://limitrail.invalid", auth_url=f"{tokens.url}/token")
        check(send(client, method="POST", content=b"{}"), errors.ApiError)
        check(send(make_client(f"{scheme}://limitrail.invalid"), method="POST", content=b"{}"), errors.ApiError)


@BOTH
def test_a_proxy_of_another_kind(monkeypatch, send):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("http_proxy", f"gopher://user:{PROXY_PASSWORD}@127.0.0.1:9")
    with wire_server() as tokens:
        client = make_client("http://limitrail.invalid", auth_url=f"{tokens.url}/token")
        check(send(client, method="POST", content=b"{}"), errors.ApiError)


# -- the token endpoint ----------------------------------------------------------------------------------------------


def _stays(said: bytes) -> Callable[[socket.socket], object]:
    def talk(connection: socket.socket) -> None:
        while True:
            read_request(connection)
            connection.sendall(said)

    return talk


def _token(**members: object) -> bytes:
    return answer(200, json.dumps({"access_token": TOKEN, "token_type": "Bearer", **members}).encode())


TOKEN_ANSWERS = {
    **{f"{status}": answer(status, ECHO) for status in (302, 400, 401, 403, 404, 413, 429, 500, 502, 503)},
    "invalid_scope": answer(400, json.dumps({"error": "invalid_scope", "error_description": SECRET}).encode()),
    "no JSON": answer(200, ECHO[:-1]),
    "no object": answer(200, json.dumps([TOKEN]).encode()),
    "another type": _token(token_type="mac"),
    "a type that echoes": _token(token_type=SECRET),
    "no token": answer(200, json.dumps({"token": TOKEN}).encode()),
    "a token with a blank": _token(access_token=f"{TOKEN} {TOKEN}"),
    "a token in a list": _token(access_token=[TOKEN]),
    "a scope that is missing": _token(scope="other"),
    "a scope that echoes": _token(scope=f"{SECRET} {TOKEN}"),
    "nested": answer(200, b'{"access_token":"' + TOKEN.encode() + b'","x":' + b"[" * 9_000 + b"]" * 9_000 + b"}"),
    "too large": answer(200, ECHO + b" " * 2_000_000),
    "broken off": answer(200, ECHO, length=9_000),
    "no gzip": answer(200, ECHO, Content_Encoding="gzip"),
    "no HTTP": ECHO + b"\r\n\r\n",
}


@BOTH
@pytest.mark.parametrize("name", TOKEN_ANSWERS)
def test_a_token_endpoint_that_fails(name, send):
    def talk(connection: socket.socket) -> None:
        with connection:
            read_request(connection)
            connection.sendall(TOKEN_ANSWERS[name])

    with raw_server(talk) as url:
        check(send(make_client(url, scope="limitrail.usage.write")), errors.ApiError)


def test_a_token_that_cannot_be_told_to_the_masker():
    def mask(secret: str) -> None:
        raise RuntimeError("the supervisor does not answer")

    with raw_server(_stays(_token())) as url:
        client = make_client(url, **PATIENT)
        client.auth._mask = mask  # type: ignore[attr-defined]
        check(by_thread(client), RuntimeError)


# -- what breaks in ---------------------------------------------------------------------------------------------------


@pytest.fixture
def alarm() -> Iterator[Callable[[], None]]:
    """Return what makes the main thread raise an `Alarm`, in the midst of whatever it does."""
    main = threading.main_thread().ident
    assert main is not None

    def handler(number: int, frame: object) -> None:
        raise Alarm

    usual = signal.signal(signal.SIGUSR1, handler)
    yield lambda: signal.pthread_kill(main, signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, usual)


@pytest.mark.parametrize("where", ["before the answer", "within the headers", "within the body", "within an error's body"])
@pytest.mark.parametrize("on", ["token", "request"])
def test_an_alarm_in_the_midst_of_a_read(alarm, where, on):
    said = {
        "before the answer": b"",
        "within the headers": b"HTTP/1.1 200 OK\r\nX-Echo: " + TOKEN.encode(),
        "within the body": answer(200, ECHO, length=9_000),
        "within an error's body": answer(500, ECHO, length=9_000),
    }[where]
    reached = threading.Event()

    def talk(connection: socket.socket) -> None:
        head = read_request(connection)
        while on == "request" and b"/token" in head.split(b"\r\n")[0]:
            connection.sendall(_token())
            head = read_request(connection)
        connection.sendall(said)
        reached.set()
        alarm()
        connection.recv(1)

    with raw_server(talk) as url:
        error = by_thread(make_client(url, **PATIENT), method="POST", content=b"{}")
    assert reached.is_set()
    check(error, Alarm)


def test_an_alarm_in_the_midst_of_a_handshake(alarm):
    with wire_server() as tokens, raw_server(lambda connection: (connection.recv(1), alarm(), connection.recv(9_000))) as url:
        client = make_client(url.replace("http:", "https:"), auth_url=f"{tokens.url}/token", **PATIENT)
        check(by_thread(client), Alarm)


def test_an_alarm_between_two_tries(alarm):
    with wire_server() as server:
        server.script = [BEHAVIOURS["503"]]
        client = make_client(server.url, **PATIENT)

        def sleep(_: float) -> None:
            alarm()
            threading.Event().wait(30)

        with contextlib.closing(client), pytest.raises(Alarm) as caught:
            client.send(path="/x", sleep=sleep)
    check(caught.value, Alarm)


@pytest.mark.parametrize("on", ["token", "request", "body", "error"])
def test_a_task_of_the_loop_that_is_cancelled(on):
    said = {"token": b"", "request": b"", "body": answer(200, ECHO, length=9_000), "error": answer(500, ECHO, length=9_000)}[on]
    caught: list[BaseException] = []
    ended = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def talk(connection: socket.socket) -> None:
            head = read_request(connection)
            while on != "token" and b"/token" in head.split(b"\r\n")[0]:
                connection.sendall(_token())
                head = read_request(connection)
            connection.sendall(said)
            loop.call_soon_threadsafe(loop.call_later, 0.05, task.cancel)
            ended.wait(60)  # another thread may be waiting for the token still

        with raw_server(talk) as url, contextlib.closing(make_client(url, **PATIENT)) as client:
            loop_client = AsyncApiClient(client, transport=AsyncTransport(client.transport, connections=4))
            task = asyncio.create_task(loop_client.send(method="POST", path="/x", content=b"{}"))
            try:
                await task
            except asyncio.CancelledError as error:
                caught.append(error)
            finally:
                ended.set()
                await loop_client.close()

    asyncio.run(main())
    check(caught[0], asyncio.CancelledError)


def test_an_error_that_is_raised_while_another_one_is_handled_has_that_one_only_for_its_context():
    with refused_port() as url:
        try:
            raise KeyError("of the user's own")
        except KeyError:
            error = by_thread(make_client(url))
    assert isinstance(error.__context__, KeyError)
    check(error, errors.TransportError)


def test_an_error_that_nobody_foresaw_still_says_where_it_arose():
    def fail(seconds: float) -> None:
        raise ZeroDivisionError

    with wire_server() as server:
        client = make_client(server.url, **PATIENT)
        client.auth.cached = fail  # type: ignore[attr-defined]
        error = by_loop(client)
    assert isinstance(error, TypeError)
    assert any("client.py" in note and "_credential" in note for note in error.__notes__)


# -- what cannot be sent ---------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "request_",
    [
        {"headers": {"X-A": "a\r\nb"}},
        {"headers": {"X-A": "Ж"}},
        {"idempotency_key": "a\nb"},
        {"params": {"a": "\ud800"}},
        {"content": 5},
        {"path": "/a/../b"},
    ],
    ids=str,
)
def test_a_request_that_cannot_be_sent(request_, send):
    with wire_server() as server, contextlib.closing(make_client(server.url)) as client:
        path = request_.pop("path", None)
        if path is not None:
            with pytest.raises(errors.ApiError) as caught:
                client.send(path=path)
            check(caught.value, errors.InvalidRequestError)
            request_["path"] = path
            return
        with contextlib.suppress(IndexError):  # what one of them sends after all
            check(send(client, method="POST", **request_), Exception)


# -- lists -----------------------------------------------------------------------------------------------------------

PAGES = {
    "no JSON": answer(200, ECHO[:-1]),
    "no list": answer(200, ECHO),
    "no such member": answer(200, json.dumps({"data": [TOKEN]}).encode()),
    "no records": answer(200, json.dumps({"items": [TOKEN, SECRET]}).encode()),
    "a cursor that is none": answer(200, json.dumps({"items": [{"id": 1}], "queryMore": [TOKEN]}).encode()),
    "no UTF-8": answer(200, b'{"items":[{"id":"' + TOKEN.encode() + b'\xff"}]}'),
    "nested": answer(200, b'{"items":[' + b"[" * 9_000 + TOKEN.encode() + b"]" * 9_000 + b"]}"),
    "HTML": answer(200, f"<html>{TOKEN}</html>".encode()),
    "text": answer(200, TOKEN.encode()),
    "a total that is not reached": answer(200, json.dumps({"items": [{"id": 1}], "total": 7}).encode()),
    "another page reported": answer(200, json.dumps({"items": [{"id": 1}], "next": f"/x?after={TOKEN}"}).encode()),
    **{f"{status}": answer(status, ECHO) for status in (400, 401, 403, 404, 410, 413, 500, 502)},
}
LIST = Resource(name="things", path="/things", paging=CursorString(cursor_member="queryMore", cursor_param="queryMore"))


def _pages(client: ApiClient) -> list[Page]:
    return list(ListReader(client=client, resource=LIST, path="/things", params={}, page_size=10).pages())


@pytest.mark.parametrize("cursor", [False, True])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_fails(name, cursor):
    first = answer(200, json.dumps({"items": [{"id": 0}], "queryMore": "c-1"}).encode())
    with wire_server() as server, contextlib.closing(make_client(server.url)) as client:
        server.script = [*([Behaviour(first)] if cursor else []), *[Behaviour(PAGES[name])] * 20]
        try:
            _pages(client)
        except errors.ApiError as error:
            check(error, errors.ApiError)
        else:
            assert name in ("no records", "a total that is not reached", "another page reported")


# -- the send loop of usage --------------------------------------------------------------------------------------------

UNCLEAR = {
    "no decision": Behaviour(answer(200, json.dumps({"said": f"{TOKEN} {SECRET}"}).encode())),
    "no JSON": Behaviour(answer(200, ECHO[:-1])),
    "an answer and more": Behaviour(answer(200, ECHO) + answer(200, ECHO)),
    "an id that echoes": Behaviour(
        answer(200, json.dumps({"decision": "ALLOWED", "traceId": TOKEN}).encode(), X_Request_Id=TOKEN)
    ),
}


@pytest.mark.sampled(10)
@pytest.mark.parametrize("on_unknown", [OnUnknown.PARK, OnUnknown.RESEND])
@pytest.mark.parametrize("name", [*FAILING, *UNCLEAR])
def test_a_row_that_fails(name, on_unknown):
    """Three rows over one connection, so that an answer may be another row's as well."""

    async def send(client: ApiClient) -> list[object]:
        sender = UsageSender(
            client=AsyncApiClient(client, transport=AsyncTransport(client.transport, connections=1)),
            operation=OPERATIONS["commit"],
            key_header="Idempotency-Key",
            on_unknown=on_unknown,
        )

        async def wait(seconds: float) -> None: ...

        try:
            rows = [
                UsageRow(number=n, key=f"k-{n}", row_key="{}", path="/v1/usage/commit", body=b"{}", digest=f"d{n}")
                for n in range(3)
            ]
            return [await sender(row, wait) for row in rows]
        finally:
            await sender.close()

    with wire_server() as server, contextlib.closing(make_client(server.url)) as client:
        server.script = [{**FAILING, **UNCLEAR}[name]] * 12
        for result in asyncio.run(send(client)):
            if isinstance(cause := getattr(result, "cause", None), BaseException):
                check(cause, errors.ApiError)


# -- the walk itself -------------------------------------------------------------------------------------------------


def _begun(headers: dict[str, str]) -> Iterator[int]:
    def rest() -> Iterator[int]:
        yield len(headers)
        yield len(headers)

    made = rest()
    next(made)
    return made


def _leaky(kind: str) -> BaseException:
    """Return an error that holds the token in one of the ways in which errors do."""
    headers = {"Authorization": f"Bearer {TOKEN}"}

    def fail(mapping: dict[str, str]) -> None:
        raise errors.TransportError(RequestContext(api="x"))

    try:
        try:
            fail({} if kind != "frame" else headers)
        except errors.TransportError as error:
            match kind:
                case "args":
                    error.args = (SECRET.encode(),)
                case "attribute":
                    error.request = {"form": [f"client_secret={quote_plus(SECRET)}"]}  # type: ignore[attr-defined]
                case "note":
                    error.add_note(TOKEN)
                case "cause":
                    raise errors.ServerError(RequestContext(api="x")) from ValueError(TOKEN)
                case "closure":
                    error.again = lambda: headers  # type: ignore[attr-defined]
                case "generator":
                    error.rest = _begun(headers)  # type: ignore[attr-defined]
            raise
    except errors.ApiError as error:
        return error


@pytest.mark.parametrize("kind", ["args", "attribute", "note", "cause", "closure", "generator"])
def test_the_walk_finds_what_an_error_holds(kind):
    assert WALK.leaks(_leaky(kind))


KINDS = {
    errors.CredentialsError: "401 that echoes",
    errors.ScopeError: "403 that echoes",
    errors.NotFoundError: "404 that echoes",
    errors.InvalidRequestError: "400 that echoes",
    errors.ConflictError: "409 that echoes",
    errors.PageTooLargeError: "413 that echoes",
    errors.ResponseTooLargeError: "an echo that is too large",
    errors.RateLimitError: "429 that echoes",
    errors.ServerError: "500 that echoes",
    errors.TransportError: "reset before the answer",
    errors.ProtocolError: "a redirect elsewhere that echoes",
    errors.CursorRefusedError: "404 that echoes",
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_error(kind):
    first = Behaviour(answer(200, json.dumps({"items": [{"id": 0}], "queryMore": "c-1"}).encode()))
    with wire_server() as server, contextlib.closing(make_client(server.url, **PATIENT)) as client:
        in_a_list = kind is errors.CursorRefusedError
        server.script = [*([first] if in_a_list else []), *[FAILING[KINDS[kind]]] * 8]
        with pytest.raises(errors.ApiError) as caught:
            _pages(client) if in_a_list else client.send(path="/x")
    assert type(caught.value) is kind
    check(caught.value, kind)


def test_no_kind_of_error_is_left_out():
    known = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ApiError)}
    assert set(KINDS) == known - {errors.ApiError}
