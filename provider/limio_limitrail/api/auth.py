# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Credentials: a token from minting to renewal, and the legacy API key.

A token is minted once, shared by everything that has the same credentials, renewed early, minted again when the API refuses it,
and registered for masking before anything else sees it. It is kept in memory only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from limio_limitrail.api.errors import ProtocolError, RequestContext, TransportError
from limio_limitrail.api.json_body import NestedTooDeeplyError, NotJSONError, decode_json
from limio_limitrail.api.redact import remember_secret
from limio_limitrail.api.resource import AuthMode
from limio_limitrail.api.retry import seconds_left
from limio_limitrail.api.secret import Secret
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.concurrency import after_fork

DEFAULT_LIFETIME = 3600.0
"""Seconds that a token is valid where the response does not say (both APIs show 3600 in their samples)."""

RENEW_EARLY = 60.0
"""Seconds before its expiry at which a token is renewed; a tenth of its lifetime where that is less."""


@dataclass(frozen=True, kw_only=True)
class Token:
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
        with self._exclusive_minting():
            if (cached := self.cached()) is not None:
                return cached
            requested_at = self._clock()
            self._store(None)
            token = self._mint()
            raises_bare(self._mask)(token.value.reveal())
            self._store(token, renew_at=requested_at + token.lifetime - min(RENEW_EARLY, token.lifetime / 10))
            self.minted += 1
            return token.value

    @contextmanager
    def _exclusive_minting(self) -> Iterator[None]:
        lock, left = self._mint_lock, seconds_left()
        if not lock.acquire(timeout=-1 if left >= threading.TIMEOUT_MAX else max(left, 0.0)):
            reason = "another thread's request for it got no response in time"
            raise TransportError(RequestContext(api="OAuth", resource="token", method="POST", reason=reason, reached=False))
        try:
            yield
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

    def __repr__(self) -> str:
        return f"TokenSource(minted={self.minted})"


class ApiKey:
    """Limio's legacy publishable key, sent as it is, without a prefix (Limio API documentation, "API Keys (legacy)")."""

    mode = AuthMode.API_KEY

    def __init__(self, key: Secret) -> None:
        self._key = key
        remember_secret(key)

    def credential(self) -> Secret:
        return self._key

    def cached(self) -> Secret:
        return self._key

    def header(self, credential: Secret) -> Secret:
        return credential

    def renew(self, refused: Secret) -> bool:  # noqa: ARG002 - a key has no successor
        return False

    def granted_scopes(self) -> tuple[str, ...] | None:
        return None

    def __repr__(self) -> str:
        return "ApiKey(***)"


Auth: TypeAlias = TokenSource | ApiKey
"""A source of credentials."""


@raises_bare
def parse_token(body: bytes, *, api: str, path: str) -> Token:
    """Read a token endpoint's response.

    A value that begins with ``Bearer`` is stripped of it, ``token_type`` is compared without case, a missing ``expires_in``
    counts as `DEFAULT_LIFETIME`.

    :raises ProtocolError: no usable token is in it. The message never repeats what came.
    """

    def broken(reason: str) -> ProtocolError:
        return ProtocolError(RequestContext(api=api, resource="token", method="POST", path=path, status=200, reason=reason))

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
    return Token(
        value=Secret(value),
        lifetime=_lifetime(members.get("expires_in")),
        scopes=tuple(scope.split()) if isinstance(scope, str) else None,
    )


def _lifetime(value: object) -> float:
    try:
        seconds = 0.0 if isinstance(value, bool) else float(value)  # type: ignore[arg-type] # what is no number is caught below
    except (TypeError, ValueError, OverflowError):
        return DEFAULT_LIFETIME
    return seconds if 0 < seconds < 10**9 else DEFAULT_LIFETIME
