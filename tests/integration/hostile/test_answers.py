# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whatever a server sends, a client answers or raises an error of this package: never a library's or Python's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limio_limitrail.api.async_transport import AsyncTransport
from limio_limitrail.api.auth import ClientCredentials, TokenSource, mint
from limio_limitrail.api.client import ApiClient, AsyncApiClient
from limio_limitrail.api.pagination import CursorPair, CursorString, SinglePage
from limio_limitrail.api.resource import Resource, TimeFilter
from limio_limitrail.api.retry import RetryLimits
from limio_limitrail.api.secret import Secret
from limio_limitrail.api.transport import Timeouts, Transport
from limio_limitrail.hooks.limio import LimioHook
from limio_limitrail.hooks.limitrail import LimitRailHook
from limio_limitrail.polling.changes import WatchedList, WatchFilter
from limio_limitrail.polling.conditions import ObjectCondition, RecordsCondition
from limio_limitrail.usage.conventions import find_operation
from limio_limitrail.usage.ledger.states import OnUnknown
from limio_limitrail.usage.send_loop import SendingStoppedError
from limio_limitrail.usage.sender import UsageSender
from tests.support import hostile
from tests.support.ledgers import make_row
from tests.support.strategies import examples
from tests.support.wire import stop_listening

TOKEN = hostile.raw(b'{"access_token":"token-of-the-wire-1234567890","token_type":"Bearer","expires_in":3600,"scope":"a b"}')
GOOD = hostile.raw()
ANSWERS = hostile.answers()
ONE_TRY = RetryLimits(attempts=1, bad_gateway_attempts=1, rate_limit_attempts=1)


_OPENED: list[tuple[asyncio.AbstractEventLoop, AsyncApiClient]] = []


class Server:
    """Answers each request on a connection of its own, then hangs up.

    :param answers: what comes next; the last one stays. Tokens are asked for and given beside them.
    """

    def __init__(self) -> None:
        self.answers: list[bytes] = [GOOD]
        self.token = TOKEN
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        # A thread serves one connection after another: there are thousands.
        self._threads = ThreadPoolExecutor(max_workers=1000)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._threads.submit(self._talk, connection)

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(20)
            head = b""
            while b"\r\n\r\n" not in head:
                if not (came := connection.recv(1 << 16)):
                    return
                head += came
            first = head.split(b"\r\n", 1)[0]
            length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
            left = head.index(b"\r\n\r\n") + 4 + length - len(head)
            while left > 0 and (came := connection.recv(left)):
                left -= len(came)
            following = self.answers.pop if len(self.answers) > 1 else self.answers.__getitem__
            connection.sendall(self.token if b"/token" in first else following(0))
            connection.shutdown(socket.SHUT_WR)
            # What was sent is lost to the other side where a connection is closed with something in it that was not read.
            while connection.recv(1 << 16):
                pass

    def stop(self) -> None:
        stop_listening(self._listener)
        self._threads.shutdown(wait=False)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    for name in ("LIMIO", "LIMITRAIL"):
        os.environ.pop(f"AIRFLOW_CONN_{name}_DEFAULT", None)
    made.stop()
    for loop, client in _OPENED:
        loop.run_until_complete(client.close())
        loop.close()
    _OPENED.clear()


@pytest.fixture(autouse=True)
def fresh(server: Server) -> None:
    server.answers, server.token = [GOOD], TOKEN


def client_of(server: Server, *, api: str = "LimitRail") -> ApiClient:
    transport = Transport(user_agent="tests/1", timeouts=Timeouts(connect=5, read=5, total=10))
    secret = Secret("secret-of-the-wire-1234567890")
    credentials = ClientCredentials(auth_url=f"{server.url}/token", client_id="wire", client_secret=secret)
    auth = TokenSource(
        mint=lambda: mint(api=api, credentials=credentials, transport=transport, limits=ONE_TRY), client_secret=secret
    )
    return ApiClient(api=api, base_url=server.url, transport=transport, auth=auth, limits=ONE_TRY)


STYLES = {
    "string": CursorString(),
    "nested string": CursorString(cursor_member="meta.next"),
    "pair": CursorPair(),
    "single": SinglePage(),
}
RESOURCES = {
    name: Resource(
        name="things",
        path="/things",
        paging=paging,
        total="hits",
        time_column="modified",
        time_filter=TimeFilter(since="after", field="modified"),
        detail_path="/things/{id}",
    )
    for name, paging in STYLES.items()
}
THINGS = RESOURCES["string"]
WORDS = [
    "items",
    "id",
    "queryMore",
    "nextCursor",
    "from",
    "alias",
    "hits",
    "total",
    "links",
    "next",
    "rel",
    "href",
    "meta",
    "error",
    "errors",
    "message",
    "detail",
    "status",
    "modified",
    "decision",
    "reservationId",
    "access_token",
    "token_type",
    "expires_in",
    "scope",
    "x",
    "value",
]
NOW = datetime(2026, 11, 27, tzinfo=UTC)


def through(api: type[LimioHook] | type[LimitRailHook], use: Callable[[Any], object]) -> Callable[[Server], Callable[[], object]]:
    """Make a way through a hook."""

    def prepare(server: Server) -> Callable[[], object]:
        name = "limio" if api is LimioHook else "limitrail"
        fields = {"conn_type": name, "host": server.url, "login": "wire", "password": "secret-of-the-wire-1234567890"}
        extra = {
            "auth_url": f"{server.url}/token",
            "timeout": 5,
            "total_timeout": 10,
            **({} if name == "limio" else {"scope": "a"}),
        }
        os.environ[f"AIRFLOW_CONN_{name.upper()}_DEFAULT"] = json.dumps({**fields, "extra": extra})
        hook = api()
        hook.client = client_of(server, api=hook.hook_name)  # which tries nothing twice
        return lambda: use(hook)

    return prepare


def over(use: Callable[[ApiClient], object]) -> Callable[[Server], Callable[[], object]]:
    """Make a way through a client."""

    def prepare(server: Server) -> Callable[[], object]:
        client = client_of(server, api="Limio")
        return lambda: use(client)

    return prepare


def by_loop(use: Callable[[AsyncApiClient], Any]) -> Callable[[Server], Callable[[], object]]:
    """Make a way through the client of an event loop, which stays."""

    def prepare(server: Server) -> Callable[[], object]:
        loop = asyncio.new_event_loop()
        parent = client_of(server)
        client = AsyncApiClient(parent, transport=AsyncTransport(parent.transport, connections=4))

        _OPENED.append((loop, client))
        return lambda: loop.run_until_complete(use(client))

    return prepare


async def send_row(client: AsyncApiClient) -> object:
    sender = UsageSender(
        client=client,
        operation=find_operation("commit"),
        key_header="Idempotency-Key",
        on_unknown=OnUnknown.PARK,
        keep_answers=True,
    )

    async def wait(seconds: float) -> None:
        assert 0 <= seconds < 10**6
        raise SendingStoppedError

    try:
        return await sender(make_row("a"), wait)
    except SendingStoppedError:
        return None


def with_detail(hook: LimioHook) -> object:
    return list(hook.iter_pages(THINGS, detail=True))


def say(hook: LimioHook | LimitRailHook) -> None:
    ok, said = hook.test_connection()
    assert type(ok) is bool
    assert said.isprintable()
    hook.client.auth.renew(hook.client.auth.cached() or Secret(""))


def watch(client: ApiClient) -> object:
    return WatchedList(resource=THINGS).poll(client, filters={"me": WatchFilter(changed_after=NOW)}, now=NOW)


WAYS: dict[str, Callable[[Server], Callable[[], object]]] = {
    "a request in a thread": over(lambda client: client.send(path="/x", method="POST", idempotency_key="k", json={}).json()),
    "a request in a loop": by_loop(lambda client: client.send(path="/x", method="POST", idempotency_key="k", content=b"{}")),
    "a usage row": by_loop(send_row),
    **{f"records, {name}": over(lambda client, r=r: read_all(client, r)) for name, r in RESOURCES.items()},
    "an object": over(lambda client: ObjectCondition(path_type="orders", object_id="1", target_statuses=("x",)).poll(client)),
    "records that are waited for": over(lambda client: RecordsCondition(resource=THINGS, since=NOW).poll(client)),
    "a watch": over(watch),
    "hook.request": through(LimioHook, lambda hook: hook.request(path="/x").json()),
    "hook.iter_records": through(LimioHook, lambda hook: list(hook.iter_records("subscriptions"))),
    "hook.get_df": through(LimioHook, lambda hook: hook.get_df(RESOURCES["single"])),
    "hook.get_df, flat": through(LimioHook, lambda hook: hook.get_df(RESOURCES["single"], flatten=True)),
    "hook.count": through(LimioHook, lambda hook: hook.count("campaigns")),
    "hook.test_connection": through(LimioHook, say),
    "LimitRail's hook": through(LimitRailHook, lambda hook: list(hook.iter_pages("accounts"))),
}


def read_all(client: ApiClient, resource: Resource) -> object:
    from limio_limitrail.api.list_reader import ListReader
    from limio_limitrail.api.page import decode_page

    walk = ListReader(client=client, resource=resource, path="/things", params={}, page_size=10)
    # The second page ends the list, however it is asked for.
    return [decode_page(page, api="Limio", resource="things") for page in walk.pages()]


def is_own(error: BaseException) -> bool:
    return type(error).__module__.startswith("limio_limitrail.")


def problems(run: Callable[[], object], *, label: str) -> list[str]:
    """Say what left that is not of this package, or says more than it may."""
    try:
        run()
    except Exception as error:  # noqa: BLE001 - what it is is looked at
        said = str(error)
        if not is_own(error):
            return [f"{label}: {type(error).__module__}.{type(error).__name__}: {said[:150]}"]
        if len(said) > 5_000 or not said.isprintable() or any(0xD800 <= ord(letter) <= 0xDFFF for letter in said):
            return [f"{label}: {type(error).__name__} says {said[:100]!r} ({len(said)} characters)"]
    except BaseException as error:  # noqa: BLE001 - this, too, must not leave
        return [f"{label}: {type(error).__name__}"]
    return []


BY_TRANSPORT = {"heads", "chunks", "lengths", "encodings", "statuses"}
"""Kinds that end in the transport, whoever asks."""
CASES = [
    (way, kind)
    for way in WAYS
    for kind in ANSWERS
    if kind not in BY_TRANSPORT or way in {"a request in a thread", "a request in a loop", "a usage row", "hook.iter_records"}
]


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("way", "kind"), CASES)
def test_nothing_else_leaves(server: Server, way: str, kind: str) -> None:
    run = WAYS[way](server)
    found = []
    for name, answer in ANSWERS[kind].items():
        server.answers = [answer, hostile.raw(b'{"items":[]}')]
        found += problems(run, label=name)
    assert not found, "\n".join(found)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ANSWERS)
def test_nothing_else_leaves_a_token_endpoint(server: Server, kind: str) -> None:
    client = client_of(server)
    hook = WAYS["hook.test_connection"](server)
    limitrail = through(LimitRailHook, say)(server)
    found = []
    for name, answer in ANSWERS[kind].items():
        server.token = answer
        for label, run in {"a client": client.auth.credential, "Limio's test": hook, "LimitRail's test": limitrail}.items():
            found += problems(run, label=f"{name}, {label}")
        client.auth.renew(client.auth.cached() or Secret(""))
    assert not found, "\n".join(found)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ANSWERS)
def test_nothing_else_leaves_where_objects_are_fetched(server: Server, kind: str) -> None:
    run = through(LimioHook, with_detail)(server)
    found = []
    for name, answer in ANSWERS[kind].items():
        for order in ([GOOD, answer], [answer, GOOD]):
            server.answers = [*order, hostile.raw(b'{"items":[]}')]
            found += problems(run, label=name)
    assert not found, "\n".join(found)


@pytest.fixture(scope="module")
def ways(server: Server) -> dict[str, Callable[[], object]]:
    return {name: prepare(server) for name, prepare in WAYS.items()}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=6)
    | st.sampled_from(["..", "1", "next"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
BROKEN = st.builds(
    lambda body, at, piece: body[: at % (len(body) + 1)] + piece + body[at % (len(body) + 1) :],
    JSON.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
    st.integers(0, 10_000),
    st.binary(max_size=3) | st.sampled_from([b"9" * 5_000, b"1e999", b"[" * 900, rb"\ud800", b"\x00", b"\xef\xbb\xbf"]),
)
LINES = st.lists(
    st.tuples(
        st.sampled_from(sorted(hostile.HEADERS)), st.sampled_from([*hostile.NUMBERS, *hostile.DATES]) | st.binary(max_size=8)
    ),
    max_size=3,
)
STATUS = st.sampled_from(hostile.STATUSES) | st.integers(100, 700).map(str) | st.just("200 OK")


@pytest.mark.sampled(6)
@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=examples(60))
@given(body=BROKEN, status=STATUS, lines=LINES)
def test_whatever_comes_nothing_else_leaves(server: Server, ways: Any, way: str, body: bytes, status: str, lines: Any) -> None:
    server.answers = [hostile.raw(body, status=status, **dict(lines)), hostile.raw(b'{"items":[]}')]
    found = problems(ways[way], label="it")
    assert not found, "\n".join(found)


@settings(max_examples=examples(60))
@given(body=BROKEN, status=STATUS, lines=LINES)
def test_whatever_a_token_endpoint_says_nothing_else_leaves(server: Server, body: bytes, status: str, lines: Any) -> None:
    server.token = hostile.raw(body, status=status, **dict(lines))
    found = problems(client_of(server).auth.credential, label="it")
    assert not found, "\n".join(found)
