# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The token endpoint, and which tokens are live."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from limio_limitrail.emulator.exchange import Call, Reply, answer
from limio_limitrail.emulator.tokens import Grant, TokenBook

if TYPE_CHECKING:
    from collections.abc import Callable

    from limio_limitrail.emulator.options import EmulatorOptions

TOKEN_PATH = "/oauth2/token"  # nosec B105 # noqa: S105 - a path


class TokenDesk:
    """Mints tokens for the one client it knows, and checks them."""

    def __init__(self, options: EmulatorOptions) -> None:
        self.options = options
        self.book = TokenBook()
        self.on_mint: Callable[[], None] = lambda: None

    @property
    def grants(self) -> dict[str, Grant]:
        """What is known of each token ever handed out."""
        return self.book.grants

    @property
    def minted(self) -> list[str]:
        """Every token ever handed out, in order."""
        return self.book.minted

    def mint(self, scopes: tuple[str, ...] | None = None) -> str:
        """A new token, never the same twice."""
        return self.book.mint(self.options.scopes if scopes is None else scopes)

    def revoke_all(self) -> None:
        """No token handed out so far is accepted from now on."""
        self.book.revoke_all()

    def spend(self, token: str) -> Grant | None:
        """The grant of a live token, with one more use counted; None for any other token."""
        return self.book.spend(token, self.options)

    def answer(self, call: Call) -> Reply:
        """The answer of the token endpoint."""
        if call.method != "POST":
            return answer(405, {"error": "invalid_request"})
        if call.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
            return answer(400, {"error": "invalid_request", "error_description": "form body expected"})
        form = dict(parse_qsl(call.body.decode("utf-8", "replace"), keep_blank_values=True))
        if form.get("grant_type") != "client_credentials":
            return answer(400, {"error": "unsupported_grant_type"})
        options = self.options
        if not (
            hmac.compare_digest(form.get("client_id", "").encode(), options.client_id.encode())
            and hmac.compare_digest(form.get("client_secret", "").encode(), options.client_secret.encode())
        ):
            return answer(401, {"error": "invalid_client"})
        body: dict[str, Any] = {"access_token": options.token_prefix + self.mint(), "token_type": options.token_type}
        if not options.omit_expires_in:
            body["expires_in"] = int(options.token_seconds) if options.expires_in is None else options.expires_in
        if options.include_scope:
            body["scope"] = " ".join(options.scopes)
        self.on_mint()
        return answer(200, body, cache_control="no-store")
