# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The API clients of a task run: one per connection, and one token source per credentials.

A task run is one try of one task. Some executors run several tasks in one process, and forked workers inherit their parent's
memory: neither may carry a token from one task run into another.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from airflow.sdk.log import mask_secret

from limio_limitrail import __version__
from limio_limitrail.api.auth import ApiKey, Auth, ClientCredentials, TokenSource, mint
from limio_limitrail.api.client import ApiClient
from limio_limitrail.api.redact import remember_proxy_passwords
from limio_limitrail.api.resource import AuthMode
from limio_limitrail.api.transport import Timeouts, Transport
from limio_limitrail.hooks.api_connections import API_PREFIX
from limio_limitrail.hooks.connection import retry_limits

if TYPE_CHECKING:
    from limio_limitrail.hooks.api_connections import LimitRailSettings
    from limio_limitrail.hooks.connection import Settings

LIMIO_CONNECTIONS = 8
"""HTTP connections that are kept open."""

LIMITRAIL_CONNECTIONS = 64
"""HTTP connections that are kept open: more than threads ever ask at once. Usage goes over others."""

_lock = threading.RLock()
_current: tuple[str | None, dict[Hashable, TokenSource], dict[Hashable, ApiClient]] = (None, {}, {})


def shared_limio_client(settings: Settings) -> ApiClient:
    """Return the task run's client of a Limio connection."""
    return shared_client(("limio", settings), lambda: make_limio_client(settings))


def make_limio_client(settings: Settings, *, connections: int = LIMIO_CONNECTIONS) -> ApiClient:
    """Make a client of a Limio connection."""
    return _make_client(settings, api="Limio", base_url=settings.app_url + API_PREFIX, connections=connections)


def shared_limitrail_client(settings: LimitRailSettings, *, scopes: tuple[str, ...]) -> ApiClient:
    """Return the task run's client of a LimitRail connection and a sorted set of scopes."""
    return shared_client(("limitrail", settings, scopes), lambda: make_limitrail_client(settings, scopes=scopes))


def make_limitrail_client(settings: LimitRailSettings, *, scopes: tuple[str, ...]) -> ApiClient:
    """Make a client of a LimitRail connection and a sorted set of scopes."""
    return _make_client(
        settings, api="LimitRail", base_url=settings.app_url, connections=LIMITRAIL_CONNECTIONS, scope=" ".join(scopes)
    )


def _make_client(settings: Settings, *, api: str, base_url: str, connections: int, scope: str | None = None) -> ApiClient:
    remember_proxy_passwords()
    transport = Transport(
        user_agent=user_agent(),
        timeouts=Timeouts(read=settings.read_timeout, total=settings.total_timeout),
        verify=settings.verify,
        max_response=settings.max_response,
        connections=connections,
    )
    limits = retry_limits(settings)
    auth: Auth
    if settings.auth_mode is AuthMode.API_KEY:
        auth = ApiKey(settings.secret)
    else:
        credentials = ClientCredentials(
            auth_url=settings.auth_url, client_id=settings.client_id, client_secret=settings.secret, scope=scope
        )

        def make() -> TokenSource:
            return TokenSource(
                mint=lambda: mint(api=api, credentials=credentials, transport=transport, limits=limits),
                client_secret=settings.secret,
                mask=mask_secret,
            )

        # Whether certificates are checked belongs to the key: a token that came over unchecked TLS is not for another connection.
        auth = shared_token_source((credentials, settings.verify), make)
    return ApiClient(api=api, base_url=base_url, transport=transport, auth=auth, limits=limits)


@cache
def user_agent() -> str:
    """Return the User-Agent header, with the versions that an API's support asks for first."""

    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "unknown"

    return (
        f"airflow-provider-limio-limitrail/{__version__} apache-airflow/{of('apache-airflow')} python-requests/{of('requests')}"
    )


def shared_token_source(key: Hashable, make: Callable[[], TokenSource]) -> TokenSource:
    """Return the task run's token source of some credentials, made at the first call."""
    with _lock:
        sources, _ = _caches()
        return sources.get(key) or sources.setdefault(key, make())


def shared_client(key: Hashable, make: Callable[[], ApiClient]) -> ApiClient:
    """Return the task run's client of a connection, made at the first call."""
    with _lock:
        _, clients = _caches()
        return clients.get(key) or clients.setdefault(key, make())


def _caches() -> tuple[dict[Hashable, TokenSource], dict[Hashable, ApiClient]]:
    """Return the caches of this task run; outside of a task, empty ones each time."""
    global _current
    run = _task_run_id()
    if run is None:
        return {}, {}
    if _current[0] != run:
        for client in _current[2].values():
            client.close()
        _current = (run, {}, {})
    return _current[1], _current[2]


def _task_run_id() -> str | None:
    from airflow.sdk import get_current_context

    try:
        task_instance = get_current_context()["ti"]
    except (RuntimeError, KeyError):
        return None
    return f"{task_instance.id}:{task_instance.try_number}"


def _forget_in_child() -> None:
    global _current, _lock
    _lock = threading.RLock()
    _current = (None, {}, {})


os.register_at_fork(after_in_child=_forget_in_child)
