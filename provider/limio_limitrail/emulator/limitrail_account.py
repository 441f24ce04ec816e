# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The emulated LimitRail's state, tenant by tenant: what a test asks and changes as ``server.limitrail``."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator.limitrail_desk import LimitRailDesk
from limio_limitrail.emulator.limitrail_journal import Journal, JournalEntry
from limio_limitrail.emulator.limitrail_records import Reservation, Timeline, Usage, usage_of
from limio_limitrail.emulator.limitrail_replays import Replays
from limio_limitrail.emulator.times import iso

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limio_limitrail.emulator.limitrail_options import LimitRailOptions
    from limio_limitrail.emulator.tenant import Tenant

#: The tenant whose accounts are the customers of the emulated Limio.
LIMIO_TENANT = "demo"
_CUSTOMERS = "limio/customers"


class LimitRailAccount:
    """Tokens, accounts, usage, reservations and the journal."""

    def __init__(self, options: LimitRailOptions, limio: Tenant) -> None:
        self.options = options
        self.desk = LimitRailDesk(lambda: self.options)
        self.replays = Replays()
        self.book = Journal()
        self.usage: defaultdict[str, Timeline[Usage]] = defaultdict(Timeline)
        self.reservations: defaultdict[str, Timeline[Reservation]] = defaultdict(Timeline)
        #: How many previews were answered with a decision.
        self.previews = 0
        self._limio = limio
        self._added: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self.add_accounts([f"other-{number}" for number in range(1, 6)], tenant="other")

    @property
    def journal(self) -> list[JournalEntry]:
        """What was really carried out, in order."""
        return self.book.entries()

    def clear_journal(self) -> None:
        """Forget what was carried out so far; the usage it made stays."""
        self.book.clear()

    @property
    def tokens(self) -> list[str]:
        """Every token handed out, to search logs for."""
        return self.desk.book.minted

    def expire_tokens(self) -> None:
        """No token handed out so far is accepted from now on."""
        self.desk.book.revoke_all()

    # -- accounts --------------------------------------------------------------------------------------------------

    @property
    def accounts(self) -> list[str]:
        """The external accounts of the first client's tenant."""
        return self.accounts_of(self.options.clients[0].tenant)

    def accounts_of(self, tenant: str) -> list[str]:
        """The external accounts of a tenant, in the order of the list."""
        return [ref for ref, _ in self.created(tenant)]

    def add_accounts(self, refs: Iterable[str], tenant: str = LIMIO_TENANT) -> None:
        """Add external accounts to a tenant; those it has already stay as they are."""
        for ref in refs:
            if not self.has_account(tenant, ref):
                self._added[tenant][ref] = self._limio.now

    def has_account(self, tenant: str, ref: str) -> bool:
        """Whether a tenant has an external account."""
        if ref in self._added[tenant]:
            return True
        return tenant == LIMIO_TENANT and self._limio.shelves[_CUSTOMERS].position(ref) is not None

    def created(self, tenant: str) -> list[tuple[str, str]]:
        """The external accounts of a tenant and when each was made."""
        added = list(self._added[tenant].items())
        if tenant != LIMIO_TENANT:
            return added
        shelf = self._limio.shelves[_CUSTOMERS]
        times = ((position, shelf.created(position, shelf.draw(position))) for position in range(shelf.count))
        return [(shelf.ids.at(position), iso(created)) for position, created in times] + added

    # -- usage -----------------------------------------------------------------------------------------------------

    def add_usage(self, records: Iterable[dict[str, Any]], tenant: str = LIMIO_TENANT) -> list[str]:
        """Put usage into the list at the times it names, as if committed then; the ids.

        A record has the members of the list's items. All but ``committedAt`` may be left out. The journal knows
        nothing of it.
        """
        known = self.accounts_of(tenant)
        made = [usage_of(record, account=known[0] if known else "") for record in records]
        for usage in made:
            self.usage[tenant].add(usage)
        return [usage.id for usage in made]
