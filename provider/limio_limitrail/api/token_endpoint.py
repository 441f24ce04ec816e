# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Ask a token endpoint for a token: the one place that a client secret is sent to."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from limio_limitrail.api.answer import judge
from limio_limitrail.api.auth import Token, parse_token
from limio_limitrail.api.errors import ApiError, CredentialsError, Failure, ProtocolError
from limio_limitrail.api.retry import RetryLimits, call_with_retries
from limio_limitrail.api.secret import Secret
from limio_limitrail.api.transport import Body, Transport


@dataclass(frozen=True, kw_only=True)
class ClientCredentials:
    """An OAuth client.

    :param auth_url: the token endpoint.
    :param client_id: its public half.
    :param client_secret: its secret half.
    :param scope: the scopes to ask for, separated by spaces; none where the API takes none (Limio's current documentation).
    """

    auth_url: str
    client_id: str
    client_secret: Secret
    scope: str | None = None


def mint(
    *,
    api: str,
    credentials: ClientCredentials,
    transport: Transport,
    limits: RetryLimits | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Token:
    """Exchange client credentials for a token: a form body, as both APIs document it.

    Redirects are not followed: the secret goes to the configured URL and nowhere else.

    :raises CredentialsError: the endpoint refused the client (400, 401, 403 or another 4xx).
    :raises ApiError: it could not be reached, or its answer holds no token.
    """
    path = urlsplit(credentials.auth_url).path or "/"
    call = Failure(api=api, resource="token", method="POST", path=path)
    form = {
        "grant_type": "client_credentials",
        "client_id": credentials.client_id,
        "client_secret": credentials.client_secret.reveal(),
    }
    if credentials.scope:
        form["scope"] = credentials.scope

    def attempt() -> Token:
        answer = transport.exchange(method="POST", url=credentials.auth_url, headers={}, call=call, body=Body(form=form))
        error = judge(
            status=answer.status,
            headers=answer.headers,
            body=answer.body,
            call=call,
            secrets=(credentials.client_secret,),
        )
        if error is None:
            return parse_token(answer.body, api=api, path=path)
        raise _refusal(error)

    return call_with_retries(attempt, limits=limits or RetryLimits(), sleep=sleep)


def _refusal(error: ApiError) -> ApiError:
    """Turn whatever refuses the client into one kind of error; leave what may pass by itself."""
    status = error.status or 0
    if 400 <= status < 500 and status != 429:
        return CredentialsError(replace(error.failure, reason="the token endpoint refused the client"))
    if 300 <= status < 400:
        return ProtocolError(replace(error.failure, reason="the token endpoint redirects, which is not followed: check auth_url"))
    return error
