# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Credentials: a token from minting to renewal, and the legacy API key.

A token is minted once, shared by everything that has the same credentials, renewed early, minted again when the API refuses it,
and registered for masking before anything else sees it. It is kept in memory only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from limio_limitrail.api.errors import (
    CredentialsError,
    ProtocolError,
    RateLimitError,
    ResponseTooLargeError,
    ScopeError,
    TransportError,
)
from limio_limitrail.api.json_body import NestedTooDeeplyError, NotJSONError, decode_json
from limio_limitrail.api.redact import remember_secret, safe_text
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.resource import AuthMode
from limio_limitrail.api.responses import classify
from limio_limitrail.api.retry import RetryLimits, call_with_retries, seconds_left
from limio_limitrail.api.secret import Secret
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.concurrency import after_fork

if TYPE_CHECKING:
    from limio_limitrail.api.transport import Transport

DEFAULT_LIFETIME = 3600.0
"""Seconds that a token is valid where the response does not say (both APIs show 3600 in their samples)."""

_MAX_RESPONSE = 1_000_000
"""Bytes of a token endpoint's response."""

_TOO_EARLY = 425
"""The server has not acted on the request, and wants it again (RFC 8470)."""

RENEW_EARLY = 60.0
"""Seconds before its expiry at which a token is renewed; a tenth of its lifetime where that is less."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A bearer token.

    :param value: the bare token, without the word Bearer.
    :param lifetime: seconds that it is valid from the moment its request was sent.
    :param scopes: the scopes that the response listed; None where it listed none.
    """

    value: Secret
    lifetime: float
    scopes: tuple[str, ...] | None

    def __post_init__(self) -> None:
        remember_secret(self.value)


class TokenSource:
    """Mint a token, cache it while it is valid, mint the next one.

    :param mint: requests a token. It is called by one thread at a time.
    :param client_secret: the secret that a token is minted with; no text may repeat it.
    :param mask: called with each new token before anything else sees it.
    :param clock: monotonic seconds.
    """

    mode = AuthMode.OAUTH

    def __init__(
        self,
        *,
        mint: Callable[[], Token],
        client_secret: Secret,
        mask: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mint = mint
        self._client_secret = client_secret
        remember_secret(client_secret)
        self._mask = mask
        self._clock = clock
        self._renew_at = 0.0
        self.minted = 0
        self.after_fork()
        after_fork(self)

    def after_fork(self) -> None:
        """Discard the parent's token, and its locks, which may have been held when it forked."""
        # The first is held while a token is minted; the other only briefly, so that an event loop may take it.
        self._mint_lock = threading.Lock()
        self._token_lock = threading.Lock()
        self._token: Token | None = None

    def credential(self) -> Secret:
        """Return a valid token, minting one if there is none.

        :raises ApiError: the token endpoint refused or could not be reached, or another thread's request to it takes too long.
        """
        lock, left = self._mint_lock, seconds_left()
        if not lock.acquire(timeout=-1 if left >= threading.TIMEOUT_MAX else max(left, 0.0)):
            reason = "another thread's request for it got no response in time"
            raise TransportError(RequestContext(api="OAuth", resource="token", method="POST", reason=reason, reached=False))
        try:
            if (cached := self.cached()) is not None:
                return cached
            requested_at = self._clock()
            self._store(None)
            token = self._mint()
            raises_bare(self._mask)(token.value.reveal())
            self._store(token, renew_at=requested_at + token.lifetime - min(RENEW_EARLY, token.lifetime / 10))
            self.minted += 1
            return token.value
        finally:
            lock.release()

    def cached(self) -> Secret | None:
        """Return the token if it is valid; None where one must be minted first."""
        with self._token_lock:
            return self._token.value if self._token is not None and self._clock() < self._renew_at else None

    def _store(self, token: Token | None, *, renew_at: float = 0.0) -> None:
        with self._token_lock:
            self._token, self._renew_at = token, renew_at

    def header(self, credential: Secret) -> Secret:
        return Secret(f"Bearer {credential.reveal()}")

    def renew(self, refused: Secret) -> bool:
        """Discard a credential that the API refused; return whether another one may be accepted."""
        with self._token_lock:
            # Another thread may have got the same 401 and renewed already: its token is kept.
            if self._token is not None and self._token.value == refused:
                self._token = None
        return True

    def granted_scopes(self) -> tuple[str, ...] | None:
        """Return the scopes of the current token; None where they are not known."""
        token = self._token
        return token.scopes if token else None


class ApiKey:
    """Limio's legacy publishable key, sent as it is, without a prefix (Limio API documentation, "API Keys (legacy)")."""

    mode = AuthMode.API_KEY

    def __init__(self, key: Secret) -> None:
        self._key = key
        remember_secret(key)

    def credential(self) -> Secret:
        return self._key

    cached = credential

    def header(self, credential: Secret) -> Secret:
        return credential

    def renew(self, refused: Secret) -> bool:  # noqa: ARG002 - a key has no successor
        return False

    def granted_scopes(self) -> tuple[str, ...] | None:
        return None


Auth: TypeAlias = TokenSource | ApiKey
"""A source of credentials."""


class ClientCredentials(msgspec.Struct, frozen=True, kw_only=True):
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
    :raises CredentialsError: the endpoint refused the client (400, 401, 403 and most other 4xx).
    :raises ApiError: it could not be reached, or its response holds no token.
    """
    context = RequestContext(api=api, resource="token", method="POST", path=urlsplit(credentials.auth_url).path or "/")
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
            token = parse_token(response.body, context=context)
            return _checked(token, credentials=credentials, context=replace(context, status=response.status))
        error, status = classify(response, context=context), response.status
        if credentials.scope and _is_invalid_scope(response.body):
            reason = "the token endpoint refuses the requested scopes"
            raise ScopeError(replace(error.context, reason=reason, required_scope=credentials.scope))
        if status == _TOO_EARLY:
            raise TransportError(replace(error.context, reason="the token endpoint wants the request again"))
        if 400 <= status < 500 and not isinstance(error, RateLimitError | TransportError):
            raise CredentialsError(replace(error.context, reason="the token endpoint refused the client"))
        if 300 <= status < 400:
            reason = "the token endpoint redirects, which is not followed: check auth_url"
            raise ProtocolError(replace(error.context, reason=reason))
        raise error

    return call_with_retries(attempt, limits=limits or RetryLimits(), sleep=sleep)


def _checked(token: Token, *, credentials: ClientCredentials, context: RequestContext) -> Token:
    """Return the token, unless a requested scope was not granted."""
    if token.scopes is None:
        return token
    # A server may echo anything, and these are shown in errors.
    granted = tuple(shown for scope in token.scopes if (shown := safe_text(scope)))
    missing = sorted(set((credentials.scope or "").split()) - set(token.scopes))
    if missing:
        reason = f"the token lacks requested scopes: {', '.join(missing)}. No request was sent to the API itself"
        raise ScopeError(replace(context, reason=reason, required_scope=" ".join(missing), granted_scopes=granted))
    return replace(token, scopes=granted)


@raises_bare
def parse_token(body: bytes, *, context: RequestContext) -> Token:
    """Read a token endpoint's response.

    A value that begins with ``Bearer`` is stripped of it, ``token_type`` is compared without case, a missing ``expires_in``
    counts as `DEFAULT_LIFETIME`.

    :raises ProtocolError: no usable token is in it. The message never repeats what came.
    """

    def broken(reason: str) -> ProtocolError:
        return ProtocolError(replace(context, status=200, reason=reason))

    try:
        members = decode_json(body)
    except NestedTooDeeplyError:
        raise broken("the token response is nested too deeply") from None
    except NotJSONError:
        raise broken("the token response is not JSON") from None
    if not isinstance(members, dict):
        raise broken("the token response is not a JSON object")
    kind = members.get("token_type")
    if kind is not None and (not isinstance(kind, str) or kind.strip().lower() != "bearer"):
        raise broken("the token response's token_type is not Bearer")
    value = members.get("access_token")
    if isinstance(value, str) and value[:7].lower() == "bearer ":
        value = value[7:]
    value = value.strip() if isinstance(value, str) else ""
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise broken("the token response holds no usable access_token")
    scope = members.get("scope")
    scopes = tuple(scope.split()) if isinstance(scope, str) else None
    return Token(value=Secret(value), lifetime=_lifetime(members.get("expires_in")), scopes=scopes)


def _lifetime(value: object) -> float:
    try:
        seconds = 0.0 if isinstance(value, bool) else float(value)  # type: ignore[arg-type] # what is no number is caught below
    except (TypeError, ValueError, OverflowError):
        return DEFAULT_LIFETIME
    return seconds if 0 < seconds < 10**9 else DEFAULT_LIFETIME


def _is_invalid_scope(body: bytes) -> bool:
    try:
        members = decode_json(body)
    except NotJSONError:
        return False
    return isinstance(members, dict) and members.get("error") == "invalid_scope"
