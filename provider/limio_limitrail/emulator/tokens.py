# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which tokens are live; knows nothing of who asks for them."""

from __future__ import annotations

import base64
import secrets
import time
from dataclasses import dataclass
from typing import Protocol

from limio_limitrail.emulator.exchange import dumps


class Lifetime(Protocol):
    """What decides how long a token is good for."""

    @property
    def token_seconds(self) -> float:
        """Its lifetime in real time."""
        ...

    @property
    def token_requests(self) -> int | None:
        """The number of API requests it is good for; None: no such limit."""
        ...


@dataclass
class Grant:
    """What is known of one token."""

    minted: float
    scopes: tuple[str, ...]
    used: int = 0
    revoked: bool = False
    #: Whose data the token opens, where a server has those of several tenants.
    tenant: str = ""


class TokenBook:
    """Every token that was handed out, and what became of it."""

    def __init__(self) -> None:
        self.grants: dict[str, Grant] = {}

    @property
    def minted(self) -> list[str]:
        """Every token ever handed out, in order."""
        return list(self.grants)

    def mint(self, scopes: tuple[str, ...], *, tenant: str = "") -> str:
        """A new token, never the same twice."""
        head = _segment({"alg": "RS256", "typ": "JWT"})
        claims = _segment({"sub": secrets.token_hex(8), "jti": secrets.token_hex(16), "iat": int(time.time())})
        token = f"{head}.{claims}.{secrets.token_urlsafe(128)}"
        self.grants[token] = Grant(time.monotonic(), scopes, tenant=tenant)
        return token

    def revoke_all(self) -> None:
        """No token handed out so far is accepted from now on."""
        for grant in self.grants.values():
            grant.revoked = True

    def spend(self, token: str, lifetime: Lifetime) -> Grant | None:
        """The grant of a live token, with one more use counted; None for any other token."""
        grant = self.grants.get(token)
        if grant is None or grant.revoked:
            return None
        limit = lifetime.token_requests
        if limit is not None and grant.used >= limit:
            return None
        if time.monotonic() - grant.minted >= lifetime.token_seconds:
            return None
        grant.used += 1
        return grant


def _segment(value: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(dumps(value)).rstrip(b"=").decode()
