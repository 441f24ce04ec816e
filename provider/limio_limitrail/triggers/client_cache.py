# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One client, with one token and one set of connections, for all triggers of a process that have the same credentials.

When one trigger finds that a connection has changed, all others of that connection go on with the new client, and the old one
is closed as soon as no look is under way with it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient
    from limio_limitrail.triggers.connection import ResolvedConnection

_making = threading.Lock()
"""Held while a client is made, which may ask Airflow's supervisor: an event loop never waits for it."""
_lock = threading.Lock()
"""Held for moments only."""
_clients: dict[Hashable, ApiClient] = {}
_newest: dict[Hashable, ResolvedConnection] = {}
_triggers: Counter[Hashable] = Counter()
_uses: Counter[ApiClient] = Counter()


def client_of_process(key: Hashable, make: Callable[[], ApiClient]) -> ApiClient:
    """Give the process's client, made when it is first asked for.

    :param key: the credentials and all that decides how the client behaves; a connection that is changed makes another client.
    """
    with _making:
        with _lock:
            known = _clients.get(key)
        if known is None:
            known = make()
            with _lock:
                _clients[key] = known
        return known


@contextmanager
def using(client: ApiClient) -> Iterator[None]:
    """Keep a client from being closed."""
    with _lock:
        _uses[client] += 1
    try:
        yield
    finally:
        with _lock:
            _uses[client] -= 1
            if not _uses[client]:
                del _uses[client]
            _close_unused(client)


@contextmanager
def triggering(connection: Hashable) -> Iterator[None]:
    """Count a trigger of a connection. When the last one has ended, sockets are closed, and the token stays."""
    with _lock:
        _triggers[connection] += 1
    try:
        yield
    finally:
        with _lock:
            _triggers[connection] -= 1
            if not _triggers[connection]:
                del _triggers[connection]
            if (reached := _newest.get(connection)) is not None:
                _close_unused(reached.client)


def note(connection: Hashable, reached: ResolvedConnection) -> None:
    """Note what a connection has just been read as, for all of its triggers."""
    with _lock:
        former, _newest[connection] = _newest.get(connection), reached
        if former is not None and former.client is not reached.client:
            _close_unused(former.client)


def newest(connection: Hashable) -> ResolvedConnection | None:
    """Return what a connection was last read as; None where it never was."""
    with _lock:
        return _newest.get(connection)


def _close_unused(client: ApiClient) -> None:
    """Close the sockets of a client that nobody looks with, and forget one that no connection has any more."""
    if _uses[client]:
        return
    connections = [connection for connection, reached in _newest.items() if reached.client is client]
    if not connections:
        for key in [key for key, known in _clients.items() if known is client]:
            del _clients[key]
    if not any(_triggers[connection] for connection in connections):
        client.close()
