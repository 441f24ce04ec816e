# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The emulated Limio API: who may read what, and which endpoint answers a path."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from limio_limitrail.emulator.baskets import abandoned
from limio_limitrail.emulator.catalog import KEY_PATHS, LEGACY, UNIFIED, Catalog
from limio_limitrail.emulator.exchange import RefusedError, Reply, message
from limio_limitrail.emulator.oauth import TOKEN_PATH
from limio_limitrail.emulator.objects import Objects

if TYPE_CHECKING:
    from limio_limitrail.emulator.account import Account
    from limio_limitrail.emulator.exchange import Call
    from limio_limitrail.emulator.overrides import Placed
    from limio_limitrail.emulator.tokens import Grant

_PREFIX = "/api/"


class LimioApi:
    """Answers ``/oauth2/token`` and ``/api/...``."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self._objects = Objects(account)
        self._catalog = Catalog(account)

    def owns(self, path: str) -> bool:
        """Limio has the token path and everything below ``/api/``."""
        return path == TOKEN_PATH or path.startswith(_PREFIX)

    def answer(self, call: Call) -> Reply:
        """The answer to one request."""
        if call.path == TOKEN_PATH:
            return self.account.desk.answer(call)
        self.account.cursors.tick()
        path = call.path[len(_PREFIX) :].rstrip("/")
        try:
            grant = self._admit(call, path)
            return self._route(call, path, grant)
        except RefusedError as refused:
            return refused.reply

    def error(self, call: Call, status: int, text: str) -> Reply:  # noqa: ARG002 - the form is the same everywhere
        """An error in the form Limio gives it."""
        return message(status, text)

    def _admit(self, call: Call, path: str) -> Grant | None:
        """The grant of the caller's token, or None for the publishable key where that is accepted."""
        value = call.headers.get("authorization", "")
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer":
            grant = self.account.desk.spend(token)
            if grant is not None:
                return grant
            raise RefusedError(message(401, "The incoming token has expired or is not valid"))
        if path in KEY_PATHS and hmac.compare_digest(value.encode(), self.account.options.api_key.encode()):
            return None
        raise RefusedError(message(401, "Unauthorized"))

    def _route(self, call: Call, path: str, grant: Grant | None) -> Reply:
        known = self.account.placed.get(path)
        if call.method != "GET":
            return message(405, "Method Not Allowed")
        if path in UNIFIED or path in LEGACY:
            return self._catalog.answer(call, path)
        if path == "partner-organisations" and (grant is None or "partner" not in grant.scopes):
            return message(403, "The token lacks the scope: partner")
        if known is not None:
            return self._placed(call, path, known)
        if path == "partner-organisations":
            return self._objects.partners(call)
        if path == "checkout/abandoned":
            return abandoned(self.account, call, None)
        head, _, rest = path.partition("/")
        if head == "objects":
            return self._objects.answer(call, rest.split("/"))
        return self._placed_one(path) or message(404, "Not Found")

    def _placed_one(self, path: str) -> Reply | None:
        """The one record of a list of a test's own that a path names by its id."""
        parent, _, id_ = path.rpartition("/")
        placed = self.account.placed.get(parent)
        body = None if placed is None else placed.by_id(id_)
        return None if body is None else Reply(200, body, template=f"{_PREFIX}{parent}/{{id}}")

    def _placed(self, call: Call, path: str, placed: Placed) -> Reply:
        """A list whose records a test has put, on a known path or on one of its own."""
        template = _PREFIX + path
        if placed.style == "baskets":
            return abandoned(self.account, call, placed, template)
        if placed.style == "catalog":
            return self._catalog.placed(call, path, placed)
        if path.startswith("objects/") and set(call.params) - {"limit", "queryMore"}:
            return message(400, "Unknown query parameter")
        limit = self.account.limit(call.params.get("limit"))
        page = self.account.cursor_page(call, f"placed {path}", 0, len(placed.rows), limit, placed.joined)
        return Reply(page=page, template=template)
