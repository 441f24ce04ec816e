# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Ask a token endpoint for a token: the one place that a client secret is sent to."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from limio_limitrail.api.auth import Token, parse_token
from limio_limitrail.api.errors import (
    ApiError,
    CredentialsError,
    ProtocolError,
    RequestContext,
    ResponseTooLargeError,
    ScopeError,
)
from limio_limitrail.api.json_body import NotJSONError, decode_json
from limio_limitrail.api.redact import remember_secret, safe_text
from limio_limitrail.api.responses import judge
from limio_limitrail.api.retry import RetryLimits, call_with_retries
from limio_limitrail.api.secret import Secret
from limio_limitrail.api.transport import Body, Transport
from limio_limitrail.bare_errors import raises_bare

_LARGEST_ANSWER = 1_000_000
"""Bytes of a token endpoint's answer."""


@dataclass(frozen=True, kw_only=True)
class ClientCredentials:
    """An OAuth client.

    :param auth_url: the token endpoint.
    :param client_id: its public half.
    :param client_secret: its secret half.
    :param scope: the scopes to ask for, separated by spaces; none where the API takes none (Limio's current documentation).
        LimitRail requires it (LimitRail developer console).
    """

    auth_url: str
    client_id: str
    client_secret: Secret
    scope: str | None = None

    def __post_init__(self) -> None:
        remember_secret(self.client_secret)


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

    An answer that lists the scopes that were granted must list all that were asked for. ``scope`` is optional in LimitRail's
    answer (LimitRail developer console), so that one without it is taken as it is.

    :raises ScopeError: a scope was not granted, or the endpoint refused the scopes (``invalid_scope``, RFC 6749).
    :raises CredentialsError: the endpoint refused the client (400, 401, 403 or another 4xx).
    :raises ApiError: it could not be reached, or its answer holds no token.
    """
    path = urlsplit(credentials.auth_url).path or "/"
    call = RequestContext(api=api, resource="token", method="POST", path=path)
    form: dict[str, str | Secret] = {
        "grant_type": "client_credentials",
        "client_id": credentials.client_id,
        "client_secret": credentials.client_secret,
    }
    if credentials.scope:
        form["scope"] = credentials.scope

    @raises_bare
    def attempt() -> Token:
        try:
            answer = transport.exchange(
                method="POST",
                url=credentials.auth_url,
                headers={},
                call=call,
                body=Body(form=form),
                max_response=min(_LARGEST_ANSWER, transport.max_response),
            )
        except ResponseTooLargeError as large:
            reason = f"{large.failure.reason}, which no token is: check auth_url"
            raise ProtocolError(replace(large.failure, reason=reason)) from None
        error = judge(status=answer.status, headers=answer.headers, body=answer.body, call=call)
        if error is None:
            token = parse_token(answer.body, api=api, path=path)
            return _checked(token, credentials=credentials, call=replace(call, status=answer.status))
        if credentials.scope and _is_invalid_scope(answer.body):
            reason = "the token endpoint refuses the scopes that were asked for"
            raise ScopeError(replace(error.failure, reason=reason, required_scope=credentials.scope))
        raise _refusal(error)

    return call_with_retries(attempt, limits=limits or RetryLimits(), sleep=sleep)


def _checked(token: Token, *, credentials: ClientCredentials, call: RequestContext) -> Token:
    """Give the token back if it was granted all that was asked for."""
    if token.scopes is None:
        return token
    # A server may echo anything, and these are shown in errors.
    granted = tuple(shown for scope in token.scopes if (shown := safe_text(scope)))
    missing = sorted(set((credentials.scope or "").split()) - set(token.scopes))
    if missing:
        raise ScopeError(
            replace(
                call,
                reason=f"the token lacks what was asked for: {', '.join(missing)}. The API itself was not asked",
                required_scope=" ".join(missing),
                granted_scopes=granted,
            )
        )
    return replace(token, scopes=granted)


def _is_invalid_scope(body: bytes) -> bool:
    """Tell whether an OAuth error is about the scopes (RFC 6749, section 5.2)."""
    try:
        answer = decode_json(body)
    except NotJSONError:
        return False
    return isinstance(answer, dict) and answer.get("error") == "invalid_scope"


def _refusal(error: ApiError) -> ApiError:
    """Turn whatever refuses the client into one kind of error; leave what may pass by itself."""
    status = error.status or 0
    if 400 <= status < 500 and status != 429:
        return CredentialsError(replace(error.failure, reason="the token endpoint refused the client"))
    if 300 <= status < 400:
        return ProtocolError(replace(error.failure, reason="the token endpoint redirects, which is not followed: check auth_url"))
    return error
