# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One client, with one token and one set of connections, for all triggers of a process that have the same credentials."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient

_lock = threading.Lock()
_clients: dict[Hashable, ApiClient] = {}


def client_of_process(key: Hashable, make: Callable[[], ApiClient]) -> ApiClient:
    """Give the process's client, made when it is first asked for.

    :param key: the credentials and all that decides how the client behaves; a connection that is changed makes another client.
    """
    with _lock:
        if key not in _clients:
            _clients[key] = make()
        return _clients[key]
