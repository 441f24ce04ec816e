# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The made-up tenant: its clock, its records, and how both advance. The same every time for the same seed."""

from __future__ import annotations

import json
import threading
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator.core.lru_cache import LruCache
from limio_limitrail.emulator.core.random_values import mix, pick
from limio_limitrail.emulator.core.times import DAY_MS, iso, parse_millis
from limio_limitrail.emulator.limio.record_store import Links, RecordStore
from limio_limitrail.emulator.limio.records import customer, event, order, subscription
from limio_limitrail.emulator.limio.small_records import CATALOG_FOLDERS, SMALL_RENDERERS, basket, catalog_item, partner
from limio_limitrail.emulator.options import TenantSize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limio_limitrail.emulator.limio.records import Renderer

SERVICES = ("limio", "zuora", "salesforce")
BASKETS = "baskets"
PARTNERS = "partner_organisations"
_PAGE_CACHE_BYTES = 64 * 1024 * 1024
_PREFIXES = {
    "subscriptions": "sub-",
    "customers": "cus-",
    "orders": "order-",
    "events": "event-",
    "identities": "id-",
    "address": "address-",
    "schedules": "schedule-",
    "payment_methods": "payment_method-",
    "subscription_offers": "subscription_offer-",
    "user_entitlements": "user_entitlement-",
    "gift_code": "gift_code-",
    "promo_codes_v2": "promo_code_v2-",
    "process": "process_event-",
}
PATH_TYPES = tuple(_PREFIXES)
_RENDERERS: dict[str, Renderer] = {
    "subscriptions": subscription,
    "customers": customer,
    "orders": order,
    "events": event,
    **SMALL_RENDERERS,
    BASKETS: basket,
    PARTNERS: partner,
}


@dataclass(frozen=True)
class Advance:
    """What one step of the clock changed and added: ids by kind."""

    now: str
    changed: dict[str, list[str]] = field(default_factory=dict)
    added: dict[str, list[str]] = field(default_factory=dict)


class Tenant:
    """Everything the emulated account holds, derived from a seed on demand.

    A *kind* is an object path type (``subscriptions``, or ``zuora/subscriptions`` for another service), ``baskets``,
    ``partner_organisations``, or a catalog kind: ``catalog/offers2`` for all items of a type and
    ``published/offers2`` for those that are live.
    """

    def __init__(self, seed: int = 7, size: TenantSize | None = None, start: str = "2026-11-01T00:00:00Z") -> None:
        self.seed = seed
        self.size = size or TenantSize()
        self.now_ms = parse_millis(start)
        self.version = 0
        self._lock = threading.RLock()
        self._pages = LruCache(_PAGE_CACHE_BYTES)
        self._catalog: dict[str, tuple[int, list[dict[str, Any]]]] = {}
        self.stores: dict[str, RecordStore] = {}
        for share, service in ((1, "limio"), (2, "zuora"), (4, "salesforce")):
            for kind, prefix in _PREFIXES.items():
                self._add_store(f"{service}/{kind}", prefix, self.size.of(kind) // share)
        for record_type in CATALOG_FOLDERS:
            self._add_store(f"catalog/{record_type}", "", self.size.catalog)
        self._add_store(BASKETS, "basket-", self.size.baskets, days=60, ordered=True)
        self._add_store(PARTNERS, "partner-", self.size.partners)
        self.links = {
            service: Links(service, {kind: self.stores[f"{service}/{kind}"] for kind in PATH_TYPES}) for service in SERVICES
        }

    def _add_store(self, name: str, prefix: str, size: int, *, days: int = 730, ordered: bool = False) -> None:
        begin = self.now_ms - days * DAY_MS
        self.stores[name] = RecordStore(name, prefix, self.seed, size=size, begin=begin, end=self.now_ms, ordered=ordered)

    @property
    def now(self) -> str:
        """The tenant's time, as the API writes instants."""
        return iso(self.now_ms)

    # -- reading -----------------------------------------------------------------------------------------------------

    def count(self, kind: str) -> int:
        """Return how many records of a kind there are."""
        kind = self._full(kind)
        if kind in self.stores:
            return self.stores[kind].count
        return len(self.catalog(kind))

    def ids(self, kind: str) -> list[str]:
        """Return the ids of a kind, in the order of their list."""
        kind = self._full(kind)
        if kind.startswith(("catalog/", "published/")):
            return [item["id"] for item in self.catalog(kind)]
        store = self.stores[kind]
        return [store.ids.at(position) for position in range(store.count)]

    def record(self, kind: str, id_: str) -> dict[str, Any]:
        """Return the full record, as a read by id shows it. KeyError when there is none."""
        kind = self._full(kind)
        if kind.startswith(("catalog/", "published/")):
            return next(item for item in self.catalog(kind) if item["id"] == id_)
        text = self.text(kind, id_)
        if text is None:
            raise KeyError(f"{kind} {id_}")
        record: dict[str, Any] = json.loads(text)
        return record

    def rows_of(self, kind: str) -> Iterator[dict[str, Any]]:
        """Yield every record of a kind as its list shows it."""
        kind = self._full(kind)
        if kind.startswith(("catalog/", "published/")):
            yield from self.catalog(kind)
            return
        for first in range(0, self.stores[kind].count, 1000):
            yield from json.loads(b"[" + self.rows(kind, first, first + 1000) + b"]")

    def text(self, kind: str, id_: str) -> str | None:
        """Return the full record as JSON text, or None."""
        kind = self._full(kind)
        position = self.stores[kind].position(id_)
        return None if position is None else self.at(kind, position, full=True)

    def at(self, kind: str, position: int, *, full: bool) -> str:
        """Return the record at a position as JSON text."""
        with self._lock:
            return self._texts(kind, range(position, position + 1), full=full)[0]

    def rows(self, kind: str, start: int, stop: int) -> bytes:
        """Return rows start..stop-1 of a list, joined by commas."""
        kind = self._full(kind)
        with self._lock:
            stop = min(stop, self.stores[kind].count)
            wanted = range(start, stop)
            return self._pages.fetch(
                (kind, start, stop, self.version), lambda: ",".join(self._texts(kind, wanted, full=False)).encode()
            )

    def _texts(self, kind: str, positions: range, *, full: bool) -> list[str]:
        store = self.stores[kind]
        service, _, path_type = kind.partition("/")
        render = _RENDERERS[path_type or kind]
        links = self.links[service if path_type else "limio"]
        texts = []
        for position in positions:
            bits = store.bits(position)
            created = store.created(position, bits)
            revision, updated = store.updated(position, bits, created)
            texts.append(render(links, store.ids.at(position), position, bits, revision, created, updated, full))
        return texts

    def catalog(self, kind: str) -> list[dict[str, Any]]:
        """Return the items of ``catalog/<record type>`` or ``published/<record type>``."""
        folder, _, record_type = kind.partition("/")
        with self._lock:
            store = self.stores[f"catalog/{record_type}"]
            known = self._catalog.get(record_type)
            if known is None or known[0] != self.version:
                items = [catalog_item(store, record_type, position) for position in range(store.count)]
                known = self._catalog[record_type] = (self.version, items)
        if folder == "catalog":
            return known[1]
        return [item for item in known[1] if item["data"]["status"] == "published"]

    def first_basket(self, created_after: int) -> int:
        """Return the position of the first basket created at or after an instant; baskets are in that order."""
        store = self.stores[BASKETS]
        return bisect_left(range(store.count), created_after, key=lambda position: store.created(position, store.bits(position)))

    def _full(self, kind: str) -> str:
        return f"limio/{kind}" if kind in _PREFIXES else kind

    # -- changing ----------------------------------------------------------------------------------------------------

    def advance(
        self,
        seconds: float = 0,
        *,
        changed: int = 0,
        added: int = 0,
        baskets_added: int | None = None,
        baskets_completed: int | None = None,
        catalog_modified: int | None = None,
    ) -> Advance:
        """Advance the clock, change existing subscriptions (and their orders and customers), and add new ones.

        A new subscription comes with its order, its event and, in proportion, its customer. What is not said about
        baskets and the catalog follows: a tenth of the added and changed subscriptions, and a twentieth of the
        changed ones. All of it is made between the old and the new time of the clock.
        """
        with self._lock:
            before, self.now_ms = self.now_ms, self.now_ms + round(seconds * 1000)
            self.version += 1
            result = Advance(self.now)
            self._change(changed, before, result)
            self._add(added, before, result)
            completed = -(-changed // 10) if baskets_completed is None else baskets_completed
            self._complete_baskets(completed, before, result)
            baskets = -(-added // 10) if baskets_added is None else baskets_added
            self._grow(BASKETS, baskets, before, result)
            modified = -(-changed // 20) if catalog_modified is None else catalog_modified
            for number, record_type in enumerate(("offers2", "product", "page", "campaign")):
                wanted = (modified + number) // 4
                positions = pick(self.size.catalog, wanted, self.seed, self.version, record_type)
                self._touch(f"catalog/{record_type}", positions, before, result)
            return result

    def _change(self, wanted: int, before: int, result: Advance) -> None:
        count = self.stores["limio/subscriptions"].count
        positions = pick(count, wanted, self.seed, self.version, "subscriptions")
        self._touch("limio/subscriptions", positions, before, result)
        self._touch("limio/orders", positions[::2], before, result)
        owners = dict.fromkeys(self.links["limio"].owner(position) for position in positions[::3])
        self._touch("limio/customers", list(owners), before, result)

    def _add(self, wanted: int, before: int, result: Advance) -> None:
        if wanted <= 0:
            return
        customers = self.stores["limio/customers"]
        old = self.stores["limio/subscriptions"].count
        for kind in ("subscriptions", "orders", "events"):
            self._grow(f"limio/{kind}", wanted, before, result)
        first_owner = self.links["limio"].owner(old)
        if first_owner < customers.count:
            # Someone who was here already holds one more, and their record shows it.
            self._touch("limio/customers", [first_owner], before, result)
        self._grow("limio/customers", self.links["limio"].owner(old + wanted - 1) + 1 - customers.count, before, result)

    def _complete_baskets(self, wanted: int, before: int, result: Advance) -> None:
        store = self.stores[BASKETS]
        candidates = [position for position in range(store.count) if position not in store.changes]
        chosen = pick(len(candidates), wanted, self.seed, self.version, BASKETS)
        self._touch(BASKETS, [candidates[index] for index in chosen], before, result)

    def _grow(self, kind: str, wanted: int, before: int, result: Advance) -> None:
        store = self.stores[kind]
        new = store.grow(wanted, before, self.now_ms)
        if new:
            result.added[kind.removeprefix("limio/")] = [store.ids.at(position) for position in new]

    def _touch(self, kind: str, positions: list[int], before: int, result: Advance) -> None:
        store = self.stores[kind]
        for position in positions:
            at = self.now_ms - mix(store.bits(position) ^ self.version) % max(1, self.now_ms - before)
            store.change(position, at)
        if positions:
            if kind.startswith("catalog/"):
                items = self.catalog(kind)
                ids = [items[position]["id"] for position in positions]
            else:
                ids = [store.ids.at(position) for position in positions]
            result.changed.setdefault(kind.removeprefix("limio/"), []).extend(ids)
