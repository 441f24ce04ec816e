# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Resolve a trigger's connection, and poll through it: triggers with the same credentials share one client and one token.

When one trigger finds that a connection has changed, all others of that connection continue with the new client, and the old one
is closed as soon as no poll uses it.
"""

from __future__ import annotations

import asyncio
import json
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from limio_limitrail.bare_errors import raises_bare_async
from limio_limitrail.polling.poll import PollTimeoutError, longest_poll
from limio_limitrail.triggers.threads import SlotKey, run_in_thread

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient
    from limio_limitrail.hooks.connection import Settings

T = TypeVar("T")

_making = threading.Lock()
"""Held while a client is made, which may ask Airflow's supervisor: an event loop never waits for it."""
_lock = threading.Lock()
"""Held for moments only."""
_clients: dict[Hashable, ApiClient] = {}
_latest: dict[Hashable, ResolvedConnection] = {}
_triggers: Counter[Hashable] = Counter()
_polls: Counter[ApiClient] = Counter()
_token_requests: WeakKeyDictionary[ApiClient, asyncio.Task[Any]] = WeakKeyDictionary()


class ResolvedConnection(msgspec.Struct, frozen=True, kw_only=True):
    """A connection as it was last read.

    :param client: shared by all triggers of the process with the same credentials.
    :param paths: paths that the connection gives resources, by name.
    """

    client: ApiClient
    owner: Mapping[str, str]
    host: str
    token_host: str
    paths: tuple[tuple[str, str], ...] = ()

    async def poll(self, call: Callable[[ApiClient], T], *, target: str, limit: int, within: float, owner: Hashable = None) -> T:
        """Poll in a thread: with a token, in a slot, and within the time limit of a poll.

        :param target: what of the host is polled: if it hangs, it occupies no other slots.
        :param within: seconds until the caller gives up, whatever becomes of the poll.
        :param owner: separates polls of the same target.
        :raises PollTimeoutError: that was too short, or the poll took longer than any may.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        await self._token(within=within)

        def poll() -> T:
            with _in_use(self.client):
                return call(self.client)

        key = SlotKey(host=self.host, target=target, owner=owner, limit=limit)
        return await run_in_thread(poll, key=key, within=end - loop.time(), seconds=longest_poll(self.client))

    async def _token(self, *, within: float) -> None:
        """Wait until there is a token. One request serves all who wait, and they need no threads."""
        client = self.client
        if client.auth.cached() is not None:
            return
        request = _token_requests.get(client)
        if request is None or request.done() or request.get_loop() is not asyncio.get_running_loop():

            def mint() -> None:
                with _in_use(client):
                    client.credential()

            key = SlotKey(host=self.token_host, target="tokens")
            request = asyncio.create_task(run_in_thread(mint, key=key, seconds=longest_poll(client)))
            request.add_done_callback(partial(_forget_token_request, client))
            _token_requests[client] = request
        await asyncio.wait({request}, timeout=within)
        if not request.done():
            raise PollTimeoutError(f"no token came from {self.token_host} within {within:.0f} s")
        request.result()


def _forget_token_request(client: ApiClient, request: asyncio.Task[Any]) -> None:
    """Read its error, which asyncio would complain about if nobody waits for it any more."""
    if not request.cancelled():
        request.exception()
    if _token_requests.get(client) is request:
        del _token_requests[client]


class ConnectionMixin(ABC):
    """A trigger that polls an API through an Airflow connection."""

    @property
    @abstractmethod
    def api_conn_id(self) -> str:
        """The id of the API's connection."""

    @abstractmethod
    def connection_kwargs(self) -> dict[str, Any]:
        """Return the arguments that identify the connection, as they are serialized."""

    @abstractmethod
    def read_connection(self, connection: Any) -> ResolvedConnection:
        """Read a connection. Called in a thread, because it imports much when it is first called.

        :raises ConnectionFieldError: a field of the connection is missing or wrong.
        """

    def _connection_key(self) -> Hashable:
        return json.dumps(self.connection_kwargs(), sort_keys=True)

    @contextmanager
    def connection_in_use(self) -> Iterator[None]:
        """Keep the connection's sockets open between polls. The last trigger that ends closes them, and the token stays."""
        key = self._connection_key()
        with _lock:
            _triggers[key] += 1
        try:
            yield
        finally:
            with _lock:
                _triggers[key] -= 1
                if not _triggers[key]:
                    del _triggers[key]
                if (resolved := _latest.get(key)) is not None:
                    _close_unused(resolved.client)

    def latest(self, resolved: ResolvedConnection) -> ResolvedConnection:
        """Return the connection as any trigger of this process has last read it."""
        with _lock:
            return _latest.get(self._connection_key()) or resolved

    @raises_bare_async
    async def resolve(self, *, within: float) -> ResolvedConnection:
        """Look the connection up, and read it.

        :raises AirflowNotFoundException: there is no such connection.
        :raises PollTimeoutError: it took longer, or Airflow could not look it up.
        """
        from airflow.sdk import BaseHook
        from airflow.sdk.exceptions import AirflowNotFoundException

        from limio_limitrail.hooks.base import read_docs_site

        read_docs_site()
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        bound = asyncio.timeout_at(end)
        try:
            async with bound:
                connection = await BaseHook.aget_connection(self.api_conn_id)
        except AirflowNotFoundException:
            raise
        except Exception as error:  # noqa: BLE001 - of a secrets backend, or of Airflow's supervisor
            # Its text may hold anything. What is wrong there passes, or is corrected without a change to a Dag.
            how = f"within {within:.0f} s" if bound.expired() else f"({type(error).__name__})"
            raise PollTimeoutError(f"Airflow has not said what the connection {self.api_conn_id!r} is {how}") from None
        key = SlotKey(host=f"the connection {self.api_conn_id!r}")
        resolved = await run_in_thread(lambda: self.read_connection(connection), key=key, within=end - loop.time())
        with _lock:
            former = _latest.get(self._connection_key())
            _latest[self._connection_key()] = resolved
            if former is not None and former.client is not resolved.client:
                _close_unused(former.client)
        return resolved


def resolved_connection(settings: Settings, *, key: Hashable, make: Callable[[], ApiClient]) -> ResolvedConnection:
    """Return a connection of its settings, with the process's client for them.

    :param key: what decides how the client behaves: a changed connection makes another client.
    :param make: makes the client at the first call. Then the secret is masked, too: once for all triggers, because Airflow tells
        its supervisor, and the thread waits for that.
    """
    from airflow.sdk.log import mask_secret

    from limio_limitrail.urls import origin_of

    with _making:
        with _lock:
            client = _clients.get(key)
        if client is None:
            mask_secret(settings.secret.reveal())
            client = make()
            with _lock:
                _clients[key] = client
    return ResolvedConnection(
        client=client,
        owner=settings.owner(),
        host=origin_of(settings.app_url),
        token_host=origin_of(settings.auth_url),
        paths=getattr(settings, "paths", ()),
    )


@contextmanager
def _in_use(client: ApiClient) -> Iterator[None]:
    """Keep a client from being closed."""
    with _lock:
        _polls[client] += 1
    try:
        yield
    finally:
        with _lock:
            _polls[client] -= 1
            if not _polls[client]:
                del _polls[client]
            _close_unused(client)


def _close_unused(client: ApiClient) -> None:
    """Close the sockets of a client that no poll uses, and drop one that no connection leads to."""
    if _polls[client]:
        return
    connections = [connection for connection, resolved in _latest.items() if resolved.client is client]
    if not connections:
        for key in [key for key, known in _clients.items() if known is client]:
            del _clients[key]
    if not any(_triggers[connection] for connection in connections):
        client.close()
