# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Make the client that all hooks of a LimitRail connection with the same scopes share."""

from __future__ import annotations

from airflow.sdk.log import mask_secret

from limio_limitrail.api.auth import TokenSource
from limio_limitrail.api.client import ApiClient
from limio_limitrail.api.proxy_passwords import remember_proxy_passwords
from limio_limitrail.api.token_endpoint import ClientCredentials, mint
from limio_limitrail.api.transport import Timeouts, Transport
from limio_limitrail.hooks.client_cache import shared_client, shared_token_source
from limio_limitrail.hooks.connection import retry_limits
from limio_limitrail.hooks.limitrail_connection import LimitRailSettings
from limio_limitrail.hooks.user_agent import user_agent

API = "LimitRail"

CONNECTIONS = 64
"""Connections that are kept open: more than threads ever ask at once. Usage goes over others."""


def shared_limitrail_client(settings: LimitRailSettings, *, scopes: tuple[str, ...]) -> ApiClient:
    """Give the task run's client for a connection's settings and a set of scopes, sorted."""
    return shared_client(("limitrail", settings, scopes), lambda: make_limitrail_client(settings, scopes=scopes))


def make_limitrail_client(settings: LimitRailSettings, *, scopes: tuple[str, ...]) -> ApiClient:
    """Make a client of its own for a connection's settings and a set of scopes, sorted."""
    remember_proxy_passwords()
    transport = Transport(
        user_agent=user_agent(),
        timeouts=Timeouts(read=settings.read_timeout, total=settings.total_timeout),
        verify=settings.verify,
        max_response=settings.max_response,
        connections=CONNECTIONS,
    )
    limits = retry_limits(settings)
    credentials = ClientCredentials(
        auth_url=settings.auth_url,
        client_id=settings.client_id,
        client_secret=settings.secret,
        scope=" ".join(scopes),
    )

    def make() -> TokenSource:
        return TokenSource(
            mint=lambda: mint(api=API, credentials=credentials, transport=transport, limits=limits),
            client_secret=settings.secret,
            mask=mask_secret,
        )

    # What is trusted belongs to the key: a token that one connection got over unchecked TLS is not for another.
    auth = shared_token_source((credentials, settings.verify), make)
    return ApiClient(api=API, base_url=settings.app_url, transport=transport, auth=auth, limits=limits)
