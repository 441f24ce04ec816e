# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What hooks share within one task run: a token source per credentials, and a client per connection.

A task run is one try of one task. Some executors run several tasks in one process, and forked workers inherit their parent's
memory: neither may carry a token from one task run into another.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limio_limitrail.api.auth import TokenSource
    from limio_limitrail.api.client import ApiClient

_lock = threading.RLock()
_current: tuple[str | None, dict[Hashable, TokenSource], dict[Hashable, ApiClient]] = (None, {}, {})


def _task_run_id() -> str | None:
    """Name the task run that this code is part of; none outside of one."""
    from airflow.sdk import get_current_context

    try:
        task_instance = get_current_context()["ti"]
    except (RuntimeError, KeyError):
        return None
    return f"{task_instance.id}:{task_instance.try_number}"


def _caches() -> tuple[dict[Hashable, TokenSource], dict[Hashable, ApiClient]]:
    """Give this task run's shelves; empty ones where it has just begun. Outside of a task nothing is shared."""
    global _current
    run = _task_run_id()
    if run is None:
        return {}, {}
    if _current[0] != run:
        for client in _current[2].values():
            client.close()
        _current = (run, {}, {})
    return _current[1], _current[2]


def shared_token_source(key: Hashable, make: Callable[[], TokenSource]) -> TokenSource:
    """Give the task run's token source for these credentials, made when it is first asked for."""
    with _lock:
        sources, _ = _caches()
        if key not in sources:
            sources[key] = make()
        return sources[key]


def shared_client(key: Hashable, make: Callable[[], ApiClient]) -> ApiClient:
    """Give the task run's client for this connection, made when it is first asked for."""
    with _lock:
        _, clients = _caches()
        if key not in clients:
            clients[key] = make()
        return clients[key]


def _forget_in_child() -> None:
    global _current, _lock
    _lock = threading.RLock()
    _current = (None, {}, {})


os.register_at_fork(after_in_child=_forget_in_child)
