# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The emulated Limio account: the options, data, tokens and cursors that its endpoints share, and lists of a test's own."""

from __future__ import annotations

import hmac
import json
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator.core.http_messages import HttpError, Reply, dumps, json_reply, message_reply
from limio_limitrail.emulator.core.tokens import TokenStore, read_form
from limio_limitrail.emulator.limio.cursors import CursorStore
from limio_limitrail.emulator.limio.tenant import Tenant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from limio_limitrail.emulator.core.http_messages import Call
    from limio_limitrail.emulator.core.tokens import Grant
    from limio_limitrail.emulator.options import EmulatorOptions

LIST_STYLES = ("objects", "catalog", "baskets")
TOKEN_PATH = "/oauth2/token"  # nosec B105 # noqa: S105 - a path
_WHOLE_NUMBER = re.compile(r"^[0-9]{1,9}$")


class CustomList:
    """A list whose records a test has put there; raw bytes are served as they are.

    ``path`` is without ``/api/``. ``style`` is one of ``LIST_STYLES``; None: the style of the path. ValueError for
    any other.
    """

    def __init__(self, path: str, records: Iterable[dict[str, Any] | bytes | str], *, style: str | None) -> None:
        if style is None:
            head = path.partition("?")[0]
            catalog = head in ("published_catalog_items", "catalog_items")
            style = "catalog" if catalog else "baskets" if head == "checkout/abandoned" else "objects"
        if style not in LIST_STYLES:
            raise ValueError(f"style is {style!r}; choose one of {', '.join(LIST_STYLES)}")
        self.style = style
        self.rows = [_encoded(record) for record in records]

    @cached_property
    def parsed(self) -> list[Any]:
        """The records as values, for filters and reads by id; a row that is no JSON counts as None."""
        return [_loads(row) for row in self.rows]

    def joined(self, start: int, stop: int) -> bytes:
        """Return rows start..stop-1 joined by commas."""
        return b",".join(self.rows[start:stop])

    def by_id(self, id_: str) -> bytes | None:
        """Return the record with an id, as it was put."""
        for row, value in zip(self.rows, self.parsed, strict=True):
            if isinstance(value, dict) and value.get("id") == id_:
                return row
        return None


def _encoded(record: dict[str, Any] | bytes | str) -> bytes:
    if isinstance(record, bytes):
        return record
    return record.encode("utf-8", "surrogatepass") if isinstance(record, str) else dumps(record)


def _loads(row: bytes) -> Any:
    try:
        return json.loads(row)
    except ValueError:
        return None


class LimioTokenEndpoint:
    """``/oauth2/token``: issues tokens to the one client it knows, and checks them."""

    def __init__(self, options: EmulatorOptions) -> None:
        self.options = options
        self.tokens = TokenStore()
        self.on_mint: Callable[[], None] = lambda: None

    def mint(self, scopes: tuple[str, ...] | None = None) -> str:
        """Issue a new token, with all scopes unless told otherwise."""
        return self.tokens.mint(self.options.scopes if scopes is None else scopes)

    def use(self, token: str) -> Grant | None:
        """Count one more use of a live token and return its grant; return None for any other token."""
        return self.tokens.use(token, max_seconds=self.options.token_seconds, max_requests=self.options.token_requests)

    def handle(self, call: Call) -> Reply:
        """Answer a token request."""
        if call.method != "POST":
            return json_reply(405, {"error": "invalid_request"})
        form = read_form(call)
        if form is None:
            return json_reply(400, {"error": "invalid_request", "error_description": "form body expected"})
        if form.get("grant_type") != "client_credentials":
            return json_reply(400, {"error": "unsupported_grant_type"})
        options = self.options
        if not (
            hmac.compare_digest(form.get("client_id", "").encode(), options.client_id.encode())
            and hmac.compare_digest(form.get("client_secret", "").encode(), options.client_secret.encode())
        ):
            return json_reply(401, {"error": "invalid_client"})
        body: dict[str, Any] = {"access_token": options.token_prefix + self.mint(), "token_type": options.token_type}
        if not options.omit_expires_in:
            body["expires_in"] = int(options.token_seconds) if options.expires_in is None else options.expires_in
        if options.include_scope:
            body["scope"] = " ".join(options.scopes)
        self.on_mint()
        return json_reply(200, body, cache_control="no-store")


class LimioAccount:
    """The options, the data, the tokens, the cursors and the lists that tests have put."""

    def __init__(self, options: EmulatorOptions) -> None:
        self.options = options
        self.tenant = Tenant(options.seed, options.size, options.start)
        self.token_endpoint = LimioTokenEndpoint(options)
        self.cursors = CursorStore(options)
        self.custom_lists: dict[str, CustomList] = {}

    def configure(self, options: EmulatorOptions) -> None:
        """Use other options from now on; the data stay what they are."""
        self.options = self.token_endpoint.options = self.cursors.options = options

    def limit(self, text: str | None, name: str = "limit") -> int:
        """Return the page size that a parameter asks for.

        HttpError (502) when it is not a whole number of at least 1.
        """
        if text is None:
            wanted = self.options.default_limit
        elif _WHOLE_NUMBER.match(text) and int(text) > 0:
            wanted = int(text)
        else:
            raise HttpError(message_reply(502, f"Invalid value for {name}"))
        return wanted if self.options.max_limit is None else min(wanted, self.options.max_limit)
