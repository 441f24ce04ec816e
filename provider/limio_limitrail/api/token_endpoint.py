# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Request a token from a token endpoint, the only URL that a client secret is sent to."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
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
from limio_limitrail.api.responses import classify
from limio_limitrail.api.retry import RetryLimits, call_with_retries
from limio_limitrail.api.secret import Secret
from limio_limitrail.bare_errors import raises_bare

if TYPE_CHECKING:
    from limio_limitrail.api.transport import Transport

_MAX_RESPONSE = 1_000_000
"""Bytes of a token endpoint's response."""


@dataclass(frozen=True, kw_only=True)
class ClientCredentials:
    """An OAuth client.

    :param auth_url: the token endpoint.
    :param client_id: the public half of its credentials.
    :param client_secret: the secret half.
    :param scope: the scopes to request, separated by spaces; None where the API takes none (Limio's current documentation).
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

    A response that lists the granted scopes must list all that were requested. ``scope`` is optional in LimitRail's response
    (LimitRail developer console), so that one without it is accepted.

    :raises ScopeError: a scope was not granted, or the endpoint refused the scopes (``invalid_scope``, RFC 6749).
    :raises CredentialsError: the endpoint refused the client (400, 401, 403 or another 4xx).
    :raises ApiError: it could not be reached, or its response holds no token.
    """
    path = urlsplit(credentials.auth_url).path or "/"
    context = RequestContext(api=api, resource="token", method="POST", path=path)
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
            response = transport.exchange(
                method="POST",
                url=credentials.auth_url,
                headers={},
                context=context,
                form=form,
                max_response=min(_MAX_RESPONSE, transport.max_response),
            )
        except ResponseTooLargeError as large:
            reason = f"{large.context.reason}, which is no token: check auth_url"
            raise ProtocolError(replace(large.context, reason=reason)) from None
        if response.is_success:
            token = parse_token(response.body, api=api, path=path)
            return _checked(token, credentials=credentials, context=replace(context, status=response.status))
        error = classify(response, context=context)
        if credentials.scope and _is_invalid_scope(response.body):
            reason = "the token endpoint refuses the requested scopes"
            raise ScopeError(replace(error.context, reason=reason, required_scope=credentials.scope))
        raise _refusal(error)

    return call_with_retries(attempt, limits=limits or RetryLimits(), sleep=sleep)


def _checked(token: Token, *, credentials: ClientCredentials, context: RequestContext) -> Token:
    """Return the token if all requested scopes were granted.

    :raises ScopeError: they were not.
    """
    if token.scopes is None:
        return token
    # A server may echo anything, and these are shown in errors.
    granted = tuple(shown for scope in token.scopes if (shown := safe_text(scope)))
    missing = sorted(set((credentials.scope or "").split()) - set(token.scopes))
    if missing:
        raise ScopeError(
            replace(
                context,
                reason=f"the token lacks requested scopes: {', '.join(missing)}. No request was sent to the API itself",
                required_scope=" ".join(missing),
                granted_scopes=granted,
            )
        )
    return replace(token, scopes=granted)


def _is_invalid_scope(body: bytes) -> bool:
    try:
        members = decode_json(body)
    except NotJSONError:
        return False
    return isinstance(members, dict) and members.get("error") == "invalid_scope"


def _refusal(error: ApiError) -> ApiError:
    """Return one kind of error for whatever refuses the client; transient errors stay as they are."""
    status = error.status or 0
    if 400 <= status < 500 and status != 429:
        return CredentialsError(replace(error.context, reason="the token endpoint refused the client"))
    if 300 <= status < 400:
        return ProtocolError(replace(error.context, reason="the token endpoint redirects, which is not followed: check auth_url"))
    return error
