# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""No error of a database holds its connection's password, or MotherDuck's token, in plain; nor do the frames that it brings."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import duckdb
import pytest
from airflow.providers.common.sql.hooks.sql import DbApiHook
from airflow.providers.duckdb.hooks.duckdb import DuckDBHook
from airflow.sdk import Connection

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.hooks.databases import find_database
from limio_limitrail.landing.sql import LandingError, Target, WriteMode, load
from limio_limitrail.landing.sql.persistent_connection import PersistentConnection
from limio_limitrail.landing.sql.queries import run_query
from limio_limitrail.landing.sql.table_checks import has_rows_of
from limio_limitrail.usage.ledger import transactions
from limio_limitrail.usage.ledger.states import LedgerError
from tests.support.error_walk import ErrorWalk, chain_of
from tests.support.wire import raw_server

pytestmark = pytest.mark.every_driver

PASSWORD = "Warehouse+Pass/word=42"
TOKEN = "motherduck-token-1234567890"
# Another provider's hook keeps its connection as it likes: it is not ours to seal.
WALK = ErrorWalk(PASSWORD, TOKEN, stops=(DbApiHook,))
DRIVERS = ("psycopg", "psycopg2", "duckdb", "_duckdb", "sqlite3")


class Alarm(BaseException):
    """What a signal's handler raises."""


def check(error: BaseException) -> None:
    assert WALK.leaks(error) == []
    assert [type(link) for link in chain_of(error) if type(link).__module__.partition(".")[0] in DRIVERS] == []


def by_load(hook: Any) -> None:
    from datetime import UTC, datetime

    target = Target(
        table="subs", mode=WriteMode.MERGE, primary_key=("id",), time_column=None, run_id="r", extracted_at=datetime.now(UTC)
    )
    load(hook=hook, target=target, schema={}, parts=[])


def by_look_back(hook: Any) -> None:
    has_rows_of(hook, table="subs", run_id="r")


def by_query(hook: Any) -> None:
    with run_query(hook, "SELECT 1", parse_float=float, unreadable_time=None):
        pass


def by_ledger(hook: Any) -> None:
    with PersistentConnection(hook, duckdb_wait=0.0).transaction():
        pass


def by_ledgers_transactions(hook: Any) -> None:
    with patch.object(transactions, "PAUSES", ()):
        transactions.Transactions(PersistentConnection(hook, duckdb_wait=0.0), table="ledger").run(lambda session: None)


WAYS = pytest.mark.parametrize(
    "use", [by_load, by_look_back, by_query, by_ledger, by_ledgers_transactions], ids=lambda way: way.__name__
)


def hook_to(class_: Callable[[], Any], **fields: Any) -> Any:
    hook = class_()
    details = Connection(conn_id="warehouse", **fields)
    hook.get_connection = lambda _: details
    return hook


def refused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _postgres_words(connection: socket.socket) -> None:
    """Refuse a login as Postgres does, and repeat what should not be repeated."""
    connection.recv(9_000)
    connection.sendall(b"N")
    connection.recv(9_000)
    words = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed, sent " + PASSWORD.encode() + b"\0\0"
    connection.sendall(b"E" + (len(words) + 4).to_bytes(4, "big") + words)


SERVERS = {
    "hangs up": lambda connection: connection.recv(9_000) and None,
    "no Postgres": lambda connection: (connection.recv(9_000), connection.sendall(b"HTTP/1.1 400 Bad\r\n\r\n")),
    "refuses the login": _postgres_words,
    "gone": None,
}


@WAYS
@pytest.mark.parametrize("driver", ["psycopg3", "psycopg2"])
@pytest.mark.parametrize("name", SERVERS)
def test_a_postgres_that_cannot_be_reached(opened, name, driver, use):
    class_ = opened(driver).hook_class
    with contextlib.ExitStack() as running:
        talk = SERVERS[name]
        port = refused_port() if talk is None else int(running.enter_context(raw_server(talk)).rpartition(":")[2])
        hook = hook_to(class_, conn_type="postgres", host="127.0.0.1", port=port, login="me", password=PASSWORD, schema="db")
        with pytest.raises(LandingError) as caught:
            use(hook)
    check(caught.value)


@WAYS
@pytest.mark.parametrize("driver", ["psycopg3", "psycopg2"])
def test_a_postgres_connection_with_a_field_that_its_driver_does_not_know(opened, driver, use):
    class_ = opened(driver).hook_class
    hook = hook_to(
        class_, conn_type="postgres", host="127.0.0.1", port=9, login="me", password=PASSWORD, extra='{"no_such_option": "1"}'
    )
    with pytest.raises(Exception) as caught:
        use(hook)
    check(caught.value)


@pytest.mark.parametrize("driver", ["psycopg3", "psycopg2"])
@WAYS
def test_an_alarm_while_postgres_is_connected_to(opened, driver, use):
    main = threading.main_thread().ident
    assert main is not None

    def handler(number: int, frame: object) -> None:
        raise Alarm

    def talk(connection: socket.socket) -> None:
        connection.recv(9_000)
        signal.pthread_kill(main, signal.SIGUSR1)  # psycopg2 hears of it when libpq has given up

    class_ = opened(driver).hook_class
    usual = signal.signal(signal.SIGUSR1, handler)
    try:
        with raw_server(talk) as url:
            port = int(url.rpartition(":")[2])
            hook = hook_to(class_, conn_type="postgres", host="127.0.0.1", port=port, login="me", password=PASSWORD, schema="db")
            with pytest.raises(BaseException) as caught:
                use(hook)
    finally:
        signal.signal(signal.SIGUSR1, usual)
    assert WALK.leaks(caught.value) == []


MOTHERDUCK: dict[str, dict[str, Any]] = {
    "password": {"password": TOKEN, "schema": "db"},
    "extra": {"extra": f'{{"motherduck_token": "{TOKEN}"}}', "schema": "db"},
    "host": {"host": f"md:db?motherduck_token={TOKEN}"},
    "long host": {"host": f"motherduck:db?a=1&motherduck_token={TOKEN}"},
    "database": {"extra": f'{{"database": "md:db?motherduck_token={TOKEN}"}}'},
}


@WAYS
@pytest.mark.parametrize("said", ["the token in {} expired", "Could not set lock on file {}"])
@pytest.mark.parametrize("name", MOTHERDUCK)
def test_a_motherduck_that_cannot_be_opened(monkeypatch, name, said, use):
    """Its extension would be fetched from elsewhere: what it says stands in for it."""

    def refuse(database: str, **_: object) -> None:
        raise duckdb.IOException(f"IO Error: {said.format(database)}")

    monkeypatch.setattr("airflow.providers.duckdb.hooks.duckdb.duckdb.connect", refuse)
    monkeypatch.setattr("limio_limitrail.landing.sql.duckdb_connect.CREATION_WAIT", 0.0)
    monkeypatch.setattr("limio_limitrail.landing.sql.duckdb.OPEN_WAIT", 0.0)
    hook = hook_to(DuckDBHook, conn_type="duckdb", **MOTHERDUCK[name])
    with pytest.raises((LandingError, LedgerError)) as caught:
        use(hook)
    check(caught.value)
    assert TOKEN not in str(caught.value)


@WAYS
def test_a_motherduck_that_may_only_be_read(use):
    hook = hook_to(partial(DuckDBHook, read_only=True), conn_type="duckdb", **MOTHERDUCK["host"])
    if use is by_query:
        return  # a query may
    with pytest.raises((LandingError, LedgerError)) as caught:
        use(hook)
    check(caught.value)


@pytest.mark.parametrize("conn_type", ["http", "nonsense", "limio", ""])
def test_a_connection_that_is_no_databases(monkeypatch, conn_type):
    import json

    monkeypatch.setenv(
        "AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": conn_type, "host": "h", "login": "me", "password": PASSWORD})
    )
    with pytest.raises(Exception) as caught:
        find_database("warehouse")
    assert isinstance(caught.value, ParameterError) or type(caught.value).__module__.startswith("airflow")
    assert WALK.leaks(caught.value) == []
