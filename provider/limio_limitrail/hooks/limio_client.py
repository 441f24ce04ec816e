# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Make the client that all hooks of a Limio connection share."""

from __future__ import annotations

from airflow.sdk.log import mask_secret

from limio_limitrail.api.auth import ApiKey, Auth, TokenSource
from limio_limitrail.api.client import ApiClient
from limio_limitrail.api.proxy_passwords import remember_proxy_passwords
from limio_limitrail.api.resource import AuthMode
from limio_limitrail.api.token_endpoint import ClientCredentials, mint
from limio_limitrail.api.transport import Timeouts, Transport
from limio_limitrail.hooks.client_cache import shared_client, shared_token_source
from limio_limitrail.hooks.connection import Settings, retry_limits
from limio_limitrail.hooks.limio_connection import API_PREFIX
from limio_limitrail.hooks.user_agent import user_agent

API = "Limio"


def shared_limio_client(settings: Settings) -> ApiClient:
    """Give the task run's client for a connection's settings."""
    return shared_client(("limio", settings), lambda: make_limio_client(settings))


def make_limio_client(settings: Settings, *, connections: int = 8) -> ApiClient:
    """Make a client of its own for a connection's settings.

    :param connections: the most connections that are kept open.
    """
    remember_proxy_passwords()
    transport = Transport(
        user_agent=user_agent(),
        timeouts=Timeouts(read=settings.read_timeout, total=settings.total_timeout),
        verify=settings.verify,
        max_response=settings.max_response,
        connections=connections,
    )
    return ApiClient(
        api=API,
        base_url=settings.app_url + API_PREFIX,
        transport=transport,
        auth=_auth(settings, transport),
        limits=retry_limits(settings),
    )


def _auth(settings: Settings, transport: Transport) -> Auth:
    if settings.auth_mode is AuthMode.API_KEY:
        return ApiKey(settings.secret)
    limits = retry_limits(settings)
    credentials = ClientCredentials(auth_url=settings.auth_url, client_id=settings.client_id, client_secret=settings.secret)

    def make() -> TokenSource:
        return TokenSource(
            mint=lambda: mint(api=API, credentials=credentials, transport=transport, limits=limits),
            client_secret=settings.secret,
            mask=mask_secret,
        )

    # What is trusted belongs to the key: a token that one connection got over unchecked TLS is not for another.
    return shared_token_source((credentials, settings.verify), make)
