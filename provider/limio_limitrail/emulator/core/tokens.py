# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The OAuth tokens that a token endpoint has issued, and the form it reads."""

from __future__ import annotations

import base64
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from limio_limitrail.emulator.core.http_messages import dumps

if TYPE_CHECKING:
    from limio_limitrail.emulator.core.http_messages import Call

_FORM_TYPE = "application/x-www-form-urlencoded"


@dataclass
class Grant:
    """The state of one token."""

    minted: float
    scopes: tuple[str, ...]
    used: int = 0
    revoked: bool = False
    #: The tenant whose data the token opens, where a server has several.
    tenant: str = ""


class TokenStore:
    """Every token that was issued, by its value."""

    def __init__(self) -> None:
        self.grants: dict[str, Grant] = {}

    @property
    def minted(self) -> list[str]:
        """Every token ever issued, in order."""
        return list(self.grants)

    def mint(self, scopes: tuple[str, ...], *, tenant: str = "") -> str:
        """Issue a new token, never the same twice."""
        head = _segment({"alg": "RS256", "typ": "JWT"})
        claims = _segment({"sub": secrets.token_hex(8), "jti": secrets.token_hex(16), "iat": int(time.time())})
        token = f"{head}.{claims}.{secrets.token_urlsafe(128)}"
        self.grants[token] = Grant(time.monotonic(), scopes, tenant=tenant)
        return token

    def revoke_all(self) -> None:
        """Accept none of the tokens issued so far from now on."""
        for grant in self.grants.values():
            grant.revoked = True

    def use(self, token: str, *, max_seconds: float, max_requests: int | None) -> Grant | None:
        """Count one more use of a live token and return its grant; return None for any other token.

        A token lives for ``max_seconds`` of real time and ``max_requests`` uses (None: no such limit).
        """
        grant = self.grants.get(token)
        if grant is None or grant.revoked:
            return None
        if max_requests is not None and grant.used >= max_requests:
            return None
        if time.monotonic() - grant.minted >= max_seconds:
            return None
        grant.used += 1
        return grant


def read_form(call: Call) -> dict[str, str] | None:
    """Return the fields of a form body, or None when the body is not declared as a form."""
    if call.headers.get("content-type", "").partition(";")[0].strip() != _FORM_TYPE:
        return None
    return dict(parse_qsl(call.body.decode("utf-8", "replace"), keep_blank_values=True))


def _segment(value: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(dumps(value)).rstrip(b"=").decode()
