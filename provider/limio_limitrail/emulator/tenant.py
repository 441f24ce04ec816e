# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The made-up tenant: its clock, its records, and how both move on. The same every time for the same seed."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator import catalog_data, draws
from limio_limitrail.emulator.baskets_data import basket, partner
from limio_limitrail.emulator.records import customer, event, order, subscription
from limio_limitrail.emulator.shelves import Shelf, Span
from limio_limitrail.emulator.small_records import SMALL_RENDERERS
from limio_limitrail.emulator.times import DAY_MS, iso, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limio_limitrail.emulator.records import Renderer

SERVICES = ("limio", "zuora", "salesforce")
BASKETS = "baskets"
PARTNERS = "partner_organisations"
_HISTORY_MS = 730 * DAY_MS
_PAGE_BYTES = 64 * 1024 * 1024
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
}


@dataclass(frozen=True)
class TenantSize:
    """How many records of each kind there are at the start.

    ``None`` follows from the number of subscriptions. Orders and events are one a subscription.
    The other services hold a part of what Limio holds: Zuora a half, Salesforce a quarter.
    """

    subscriptions: int = 200
    customers: int | None = None
    small: int | None = None
    baskets: int = 40
    catalog: int = 30
    partners: int = 12

    def of(self, kind: str) -> int:
        """The number of records of an object kind in the service ``limio``."""
        if kind in ("subscriptions", "orders", "events"):
            return self.subscriptions
        if kind == "customers":
            fitting = -(-self.subscriptions * 4 // 5)
            return fitting if self.customers is None else self.customers
        return self.subscriptions // 5 if self.small is None else self.small


@dataclass(frozen=True)
class Advance:
    """What one step of the clock changed and added: ids by kind."""

    now: str
    changed: dict[str, list[str]] = field(default_factory=dict)
    added: dict[str, list[str]] = field(default_factory=dict)


class _Service:
    """Links between the records of one service."""

    def __init__(self, tenant: Tenant, service: str) -> None:
        self.service = service
        self._shelves = {kind: tenant.shelves[f"{service}/{kind}"] for kind in PATH_TYPES}
        self._subscriptions = self._shelves["subscriptions"]
        self._ratio = (self._subscriptions.count or 1, self._shelves["customers"].count or 1)

    def link(self, kind: str, position: int) -> str:
        shelf = self._shelves[kind]
        return shelf.ids.at(position % shelf.count if shelf.count else position)

    def owner(self, subscription: int) -> int:
        return subscription * self._ratio[1] // self._ratio[0]

    def held(self, customer: int) -> range:
        subscriptions, customers = self._ratio
        first = -(-customer * subscriptions // customers)
        last = -(-(customer + 1) * subscriptions // customers)
        return range(min(first, self._subscriptions.count), min(last, self._subscriptions.count))


class Tenant:
    """Everything the emulated account holds, derived from a seed on demand.

    A *kind* is an object path type (``subscriptions``, or ``zuora/subscriptions`` for another service), ``baskets``,
    ``partner_organisations``, or a catalog kind: ``catalog/offers2`` for all items of a type and
    ``published/offers2`` for those that are live.
    """

    def __init__(self, seed: int = 7, size: TenantSize | None = None, start: str = "2026-11-01T00:00:00Z") -> None:
        self.seed = seed
        self.size = size or TenantSize()
        self.now_ms = parse(start)
        self.version = 0
        self._lock = threading.RLock()
        self._pages: OrderedDict[tuple[str, int, int, int], bytes] = OrderedDict()
        self._page_room = _PAGE_BYTES
        self._catalog: dict[str, tuple[int, list[dict[str, Any]]]] = {}
        begin = self.now_ms - _HISTORY_MS
        self.shelves: dict[str, Shelf] = {}
        for share, service in ((1, "limio"), (2, "zuora"), (4, "salesforce")):
            for kind, prefix in _PREFIXES.items():
                span = Span(0, self.size.of(kind) // share, begin, self.now_ms)
                self.shelves[f"{service}/{kind}"] = Shelf(f"{service}/{kind}", prefix, seed, span)
        for record_type in catalog_data.FOLDERS:
            span = Span(0, self.size.catalog, begin, self.now_ms)
            self.shelves[f"catalog/{record_type}"] = Shelf(f"catalog/{record_type}", "", seed, span)
        span = Span(0, self.size.baskets, self.now_ms - 60 * DAY_MS, self.now_ms)
        self.shelves[BASKETS] = Shelf(BASKETS, "basket-", seed, span, ordered=True)
        self.shelves[PARTNERS] = Shelf(PARTNERS, "partner-", seed, Span(0, self.size.partners, begin, self.now_ms))
        self._services = {service: _Service(self, service) for service in SERVICES}

    @property
    def now(self) -> str:
        """The tenant's clock, as the API writes instants."""
        return iso(self.now_ms)

    # -- reading ---------------------------------------------------------------------------------------------------

    def count(self, kind: str) -> int:
        """How many records of a kind there are."""
        kind = self._full(kind)
        if kind in self.shelves:
            return self.shelves[kind].count
        return len(self.catalog(kind))

    def ids(self, kind: str) -> list[str]:
        """The ids of a kind, in the order lists show them."""
        kind = self._full(kind)
        if kind.startswith(("catalog/", "published/")):
            return [item["id"] for item in self.catalog(kind)]
        shelf = self.shelves[kind]
        return [shelf.ids.at(position) for position in range(shelf.count)]

    def record(self, kind: str, id_: str) -> dict[str, Any]:
        """The full record, as a read by id gives it. KeyError when there is none."""
        kind = self._full(kind)
        if kind.startswith(("catalog/", "published/")):
            return next(item for item in self.catalog(kind) if item["id"] == id_)
        text = self.text(kind, id_)
        if text is None:
            raise KeyError(f"{kind} {id_}")
        record: dict[str, Any] = json.loads(text)
        return record

    def rows_of(self, kind: str) -> Iterator[dict[str, Any]]:
        """Every record of a kind as its list shows it."""
        kind = self._full(kind)
        if kind.startswith(("catalog/", "published/")):
            yield from self.catalog(kind)
            return
        for first in range(0, self.shelves[kind].count, 1000):
            yield from json.loads(b"[" + self.rows(kind, first, first + 1000) + b"]")

    def text(self, kind: str, id_: str) -> str | None:
        """The full record as JSON text, or None."""
        kind = self._full(kind)
        position = self.shelves[kind].position(id_)
        return None if position is None else self.at(kind, position, full=True)

    def at(self, kind: str, position: int, *, full: bool) -> str:
        """The record at a position as JSON text."""
        with self._lock:
            return self._texts(kind, range(position, position + 1), full=full)[0]

    def rows(self, kind: str, start: int, stop: int) -> bytes:
        """Rows start..stop-1 of a list, joined by commas."""
        kind = self._full(kind)
        with self._lock:
            wanted = (kind, start, min(stop, self.shelves[kind].count), self.version)
            page = self._pages.get(wanted)
            if page is None:
                page = ",".join(self._texts(kind, range(start, wanted[2]), full=False)).encode()
                self._pages[wanted] = page
                self._page_room -= len(page)
                while self._page_room < 0:
                    self._page_room += len(self._pages.popitem(last=False)[1])
            else:
                self._pages.move_to_end(wanted)
            return page

    def _texts(self, kind: str, positions: range, *, full: bool) -> list[str]:
        shelf = self.shelves[kind]
        service, _, path_type = kind.partition("/")
        render = _RENDERERS[path_type] if path_type else {BASKETS: basket, PARTNERS: partner}[kind]
        links = self._services[service if path_type else "limio"]
        texts = []
        for position in positions:
            draw = shelf.draw(position)
            created = shelf.created(position, draw)
            revision, updated = shelf.updated(position, draw, created)
            texts.append(render(links, shelf.ids.at(position), position, draw, revision, created, updated, full))
        return texts

    def catalog(self, kind: str) -> list[dict[str, Any]]:
        """The items of ``catalog/<record type>`` or ``published/<record type>``."""
        folder, _, record_type = kind.partition("/")
        with self._lock:
            shelf = self.shelves[f"catalog/{record_type}"]
            known = self._catalog.get(record_type)
            if known is None or known[0] != self.version:
                items = [catalog_data.item(shelf, record_type, position) for position in range(shelf.count)]
                known = self._catalog[record_type] = (self.version, items)
        if folder == "catalog":
            return known[1]
        return [item for item in known[1] if item["data"]["status"] == "published"]

    def baskets_from(self, created_after: int) -> int:
        """The position of the first basket created at or after an instant; baskets are in that order."""
        shelf = self.shelves[BASKETS]
        low, high = 0, shelf.count
        while low < high:
            middle = (low + high) // 2
            if shelf.created(middle, shelf.draw(middle)) < created_after:
                low = middle + 1
            else:
                high = middle
        return low

    def held(self, service: str, customer: int) -> range:
        """The positions of the subscriptions that a customer (by position) holds."""
        return self._services[service].held(customer)

    def owner(self, service: str, subscription: int) -> int:
        """The position of the customer who holds a subscription."""
        return self._services[service].owner(subscription)

    def _full(self, kind: str) -> str:
        return f"limio/{kind}" if kind in _PREFIXES else kind

    # -- moving on -------------------------------------------------------------------------------------------------

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
        """Move the clock, change existing subscriptions (and their orders and customers), and add new ones.

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
            fresh = -(-added // 10) if baskets_added is None else baskets_added
            self._grow(BASKETS, fresh, before, result)
            modified = -(-changed // 20) if catalog_modified is None else catalog_modified
            for number, record_type in enumerate(("offers2", "product", "page", "campaign")):
                wanted = (modified + number) // 4
                positions = draws.pick(self.size.catalog, wanted, self.seed, self.version, record_type)
                self._touch(f"catalog/{record_type}", positions, before, result)
            return result

    def _change(self, wanted: int, before: int, result: Advance) -> None:
        count = self.shelves["limio/subscriptions"].count
        positions = draws.pick(count, wanted, self.seed, self.version, "subscriptions")
        self._touch("limio/subscriptions", positions, before, result)
        self._touch("limio/orders", positions[::2], before, result)
        owners = dict.fromkeys(self.owner("limio", position) for position in positions[::3])
        self._touch("limio/customers", list(owners), before, result)

    def _add(self, wanted: int, before: int, result: Advance) -> None:
        if wanted <= 0:
            return
        customers = self.shelves["limio/customers"]
        old = self.shelves["limio/subscriptions"].count
        for kind in ("subscriptions", "orders", "events"):
            self._grow(f"limio/{kind}", wanted, before, result)
        first_owner = self.owner("limio", old)
        if first_owner < customers.count:
            # Someone who was here already holds one more, and their record shows it.
            self._touch("limio/customers", [first_owner], before, result)
        self._grow("limio/customers", self.owner("limio", old + wanted - 1) + 1 - customers.count, before, result)

    def _complete_baskets(self, wanted: int, before: int, result: Advance) -> None:
        shelf = self.shelves[BASKETS]
        candidates = [position for position in range(shelf.count) if position not in shelf.changes]
        chosen = draws.pick(len(candidates), wanted, self.seed, self.version, BASKETS)
        self._touch(BASKETS, [candidates[index] for index in chosen], before, result)

    def _grow(self, kind: str, wanted: int, before: int, result: Advance) -> None:
        shelf = self.shelves[kind]
        new = shelf.grow(wanted, before, self.now_ms)
        if new:
            result.added[_short(kind)] = [shelf.ids.at(position) for position in new]

    def _touch(self, kind: str, positions: list[int], before: int, result: Advance) -> None:
        shelf = self.shelves[kind]
        for position in positions:
            at = self.now_ms - draws.mix(shelf.draw(position) ^ self.version) % max(1, self.now_ms - before)
            shelf.change(position, at)
        if positions:
            if kind.startswith("catalog/"):
                items = self.catalog(kind)
                ids = [items[position]["id"] for position in positions]
            else:
                ids = [shelf.ids.at(position) for position in positions]
            result.changed.setdefault(_short(kind), []).extend(ids)


def _short(kind: str) -> str:
    return kind.removeprefix("limio/")
