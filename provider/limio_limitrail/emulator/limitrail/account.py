# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The emulated LimitRail's state, tenant by tenant, and its token endpoint; ``server.limitrail`` to a test."""

from __future__ import annotations

import hmac
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator.core.http_messages import Call, Reply, json_reply
from limio_limitrail.emulator.core.times import iso
from limio_limitrail.emulator.core.tokens import TokenStore, read_form
from limio_limitrail.emulator.limitrail.errors import problem_reply
from limio_limitrail.emulator.limitrail.records import Journal, JournalEntry, Reservation, Timeline, UsageRecord, usage_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from limio_limitrail.emulator.core.tokens import Grant
    from limio_limitrail.emulator.limio.tenant import Tenant
    from limio_limitrail.emulator.options import LimitRailClient, LimitRailOptions

TOKEN_PATH = "/connect/token"  # nosec B105 # noqa: S105 - a path
#: The tenant whose accounts are the customers of the emulated Limio.
LIMIO_TENANT = "demo"
_CUSTOMERS = "limio/customers"


class LimitRailTokenEndpoint:
    """``/connect/token``: issues tokens to the clients in the options. An API of its own, as it may have its own port."""

    def __init__(self, options: Callable[[], LimitRailOptions]) -> None:
        self._options = options
        self.tokens = TokenStore()
        self.on_mint: Callable[[], None] = lambda: None

    def use(self, token: str) -> Grant | None:
        """Count one more use of a live token and return its grant; return None for any other token."""
        options = self._options()
        return self.tokens.use(token, max_seconds=options.token_seconds, max_requests=options.token_requests)

    def owns(self, path: str) -> bool:
        """Return whether a path is the token path."""
        return path == TOKEN_PATH

    def error(self, call: Call, status: int, text: str) -> Reply:
        """Return an error in LimitRail's form, which is not OAuth's."""
        return problem_reply(call, status, text)

    def handle(self, call: Call) -> Reply:
        """Answer a token request; errors in the form are OAuth's."""
        if call.method != "POST":
            return problem_reply(call, 405, "Only POST is allowed here", headers={"allow": "POST"})
        form = read_form(call)
        if form is None:
            return json_reply(400, {"error": "invalid_request"})
        if form.get("grant_type") != "client_credentials":
            return json_reply(400, {"error": "unsupported_grant_type"})
        wanted = form.get("scope", "").split()
        if not wanted:
            return json_reply(400, {"error": "invalid_request"})
        client = self._client(form.get("client_id", ""), form.get("client_secret", ""))
        if client is None:
            return json_reply(401, {"error": "invalid_client"})
        granted = tuple(scope for scope in dict.fromkeys(wanted) if scope in client.scopes)
        options = self._options()
        if options.refuse_unknown_scopes and len(granted) < len(set(wanted)):
            return json_reply(400, {"error": "invalid_scope"})
        body: dict[str, Any] = {
            "access_token": self.tokens.mint(granted, tenant=client.tenant),
            "token_type": "Bearer",  # nosec B105 # a term of the protocol
            "expires_in": int(options.token_seconds) if options.expires_in is None else options.expires_in,
        }
        if not options.omit_scope:
            body["scope"] = " ".join(granted)
        self.on_mint()
        return json_reply(200, body, cache_control="no-store")

    def _client(self, client_id: str, client_secret: str) -> LimitRailClient | None:
        client = next((one for one in self._options().clients if one.client_id == client_id), None)
        if client is not None and hmac.compare_digest(client_secret.encode(), client.client_secret.encode()):
            return client
        return None


class LimitRailAccount:
    """Tokens, accounts, usage, reservations and the journal."""

    def __init__(self, options: LimitRailOptions, limio: Tenant) -> None:
        self.options = options
        self.token_endpoint = LimitRailTokenEndpoint(lambda: self.options)
        self.journal_store = Journal()
        self.usage: defaultdict[str, Timeline[UsageRecord]] = defaultdict(Timeline)
        self.reservations: defaultdict[str, Timeline[Reservation]] = defaultdict(Timeline)
        #: How many previews were answered with a decision.
        self.previews = 0
        self._limio = limio
        self._added: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self.add_accounts([f"other-{number}" for number in range(1, 6)], tenant="other")

    @property
    def journal(self) -> list[JournalEntry]:
        """What was carried out, in order."""
        return self.journal_store.entries()

    def clear_journal(self) -> None:
        """Delete the journal of what was carried out so far; the usage it made stays."""
        self.journal_store.clear()

    @property
    def tokens(self) -> list[str]:
        """Every token ever issued, to search logs for."""
        return self.token_endpoint.tokens.minted

    def expire_tokens(self) -> None:
        """Accept none of the tokens issued so far from now on."""
        self.token_endpoint.tokens.revoke_all()

    # -- accounts ----------------------------------------------------------------------------------------------------

    @property
    def accounts(self) -> list[str]:
        """The external accounts of the first client's tenant."""
        return self.accounts_of(self.options.clients[0].tenant)

    def accounts_of(self, tenant: str) -> list[str]:
        """Return the external accounts of a tenant, in the order of the list."""
        return [ref for ref, _ in self.created(tenant)]

    def add_accounts(self, refs: Iterable[str], tenant: str = LIMIO_TENANT) -> None:
        """Add external accounts to a tenant; those it has already stay as they are."""
        for ref in refs:
            if not self.has_account(tenant, ref):
                self._added[tenant][ref] = self._limio.now

    def has_account(self, tenant: str, ref: str) -> bool:
        """Return whether a tenant has an external account."""
        if ref in self._added[tenant]:
            return True
        return tenant == LIMIO_TENANT and self._limio.stores[_CUSTOMERS].position(ref) is not None

    def created(self, tenant: str) -> list[tuple[str, str]]:
        """Return the external accounts of a tenant, each with the time it was created."""
        added = list(self._added[tenant].items())
        if tenant != LIMIO_TENANT:
            return added
        store = self._limio.stores[_CUSTOMERS]
        positions = range(store.count)
        return [(store.ids.at(each), iso(store.created(each, store.bits(each)))) for each in positions] + added

    # -- usage -------------------------------------------------------------------------------------------------------

    def add_usage(self, records: Iterable[dict[str, Any]], tenant: str = LIMIO_TENANT) -> list[str]:
        """Add usage to the list at the times it names, as if committed then; return the ids.

        A record has the members of the list's items; all but ``committedAt`` are optional. The journal does not show
        it. ValueError for unknown members, without ``committedAt``, and for an id that is taken.
        """
        known = self.accounts_of(tenant)
        added = [usage_record(record, account=known[0] if known else "") for record in records]
        for usage in added:
            self.usage[tenant].add(usage)
        return [usage.id for usage in added]
