# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRail's token endpoint: ``/connect/token``."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from limio_limitrail.emulator.exchange import Call, Reply, answer
from limio_limitrail.emulator.limitrail_problems import problem
from limio_limitrail.emulator.tokens import TokenBook

if TYPE_CHECKING:
    from collections.abc import Callable

    from limio_limitrail.emulator.limitrail_options import LimitRailClient, LimitRailOptions

TOKEN_PATH = "/connect/token"  # nosec B105 # noqa: S105 - a path
_FORM = "application/x-www-form-urlencoded"


class LimitRailDesk:
    """Mints tokens for the clients in the options. It is an API of its own, as it may have a port of its own."""

    def __init__(self, options: Callable[[], LimitRailOptions]) -> None:
        self._options = options
        self.book = TokenBook()
        self.on_mint: Callable[[], None] = lambda: None

    def owns(self, path: str) -> bool:
        """Only the one path."""
        return path == TOKEN_PATH

    def error(self, call: Call, status: int, text: str) -> Reply:
        """An error that is not OAuth's."""
        return problem(call, status, text)

    def answer(self, call: Call) -> Reply:
        """The answer of the token endpoint; what is wrong with the form is said as OAuth says it."""
        if call.method != "POST":
            return problem(call, 405, "Only POST is allowed here", headers={"allow": "POST"})
        if call.headers.get("content-type", "").partition(";")[0].strip() != _FORM:
            return answer(400, {"error": "invalid_request"})
        form = dict(parse_qsl(call.body.decode("utf-8", "replace"), keep_blank_values=True))
        if form.get("grant_type") != "client_credentials":
            return answer(400, {"error": "unsupported_grant_type"})
        wanted = form.get("scope", "").split()
        if not wanted:
            return answer(400, {"error": "invalid_request"})
        client = self._client(form.get("client_id", ""), form.get("client_secret", ""))
        if client is None:
            return answer(401, {"error": "invalid_client"})
        granted = tuple(scope for scope in dict.fromkeys(wanted) if scope in client.scopes)
        options = self._options()
        if options.refuse_unknown_scopes and len(granted) < len(set(wanted)):
            return answer(400, {"error": "invalid_scope"})
        body: dict[str, Any] = {
            "access_token": self.book.mint(granted, tenant=client.tenant),
            "token_type": "Bearer",  # nosec B105 # a word of the protocol
            "expires_in": int(options.token_seconds) if options.expires_in is None else options.expires_in,
        }
        if not options.omit_scope:
            body["scope"] = " ".join(granted)
        self.on_mint()
        return answer(200, body, cache_control="no-store")

    def _client(self, client_id: str, client_secret: str) -> LimitRailClient | None:
        for client in self._options().clients:
            if client.client_id == client_id:
                right = hmac.compare_digest(client_secret.encode(), client.client_secret.encode())
                return client if right else None
        return None
