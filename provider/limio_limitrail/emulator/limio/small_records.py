# Licensed under the Apache License, Version 2.0. See the LICENSE file.
# ruff: noqa: ARG001 - all renderers are called alike
"""The smaller kinds of record: identities, addresses and the like, baskets, partner organisations and catalog items."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator.core.times import DAY_MS, compact_date, date, iso, iso_with_offset
from limio_limitrail.emulator.limio.records import (
    CARDS,
    CITIES,
    COMPANIES,
    COUNTRIES,
    CURRENCIES,
    FIRST_NAMES,
    HEADLINES,
    LAST_NAMES,
    PLANS,
    PRICES,
    STREETS,
)

if TYPE_CHECKING:
    from limio_limitrail.emulator.limio.record_store import Links, RecordStore
    from limio_limitrail.emulator.limio.records import Renderer


def _renderer(record_type: str, status: str, data: Any) -> Renderer:
    def render(links: Links, id_: str, position: int, bits: int, revision: int, created: int, updated: int, full: bool) -> str:
        body = data(links, position, bits, created)
        record = {
            "id": id_,
            "name": body.pop("_name", id_),
            "record_type": record_type,
            "service": links.service,
            "status": status,
            "created": iso(created),
            "updated": iso(updated),
            "data": body if full else {name: body[name] for name in list(body)[:2]},
        }
        if full:
            record["revision"] = revision
        return json.dumps(record, ensure_ascii=False, separators=(",", ":"))

    return render


def _unescaped(escaped: str) -> str:
    text: str = json.loads(f'"{escaped}"')
    return text


def _identity(links: Links, position: int, bits: int, created: int) -> dict[str, Any]:
    return {
        "customer": links.link("customers", position),
        "email": f"user{position}@example.com" if bits & 7 else None,
        "external": [{"iss": "https://login.example.com/", "sub": f"auth0|{bits:016x}"}],
        "lastSeen": iso(created),
    }


def _address(links: Links, position: int, bits: int, created: int) -> dict[str, Any]:
    return {
        "subscription": links.link("subscriptions", position),
        "type": "delivery" if bits & 1 else "billing",
        "address1": f"{bits & 127} {_unescaped(STREETS[bits % 6])}",
        "city": _unescaped(CITIES[(bits >> 8) & 7]),
        "countryCode": COUNTRIES[(bits >> 8) & 7],
        "postalCode": f"{(bits >> 16) & 0xFFFF:05d}",
        "validFrom": date(created),
    }


def _schedule(links: Links, position: int, bits: int, created: int) -> dict[str, Any]:
    return {
        "subscription": links.link("subscriptions", position),
        "date": date(created + 30 * DAY_MS),
        "type": "payment",
        "amount": {"amount": float(PRICES[bits & 7]), "currency": CURRENCIES[(bits >> 8) & 7]},
    }


def _payment_method(links: Links, position: int, bits: int, created: int) -> dict[str, Any]:
    return {
        "subscription": links.link("subscriptions", position),
        "type": "zuora",
        "zuora": {
            "id": f"{bits:032x}",
            "result": {
                "CreditCardType": CARDS[bits & 3],
                "CreditCardMaskNumber": f"************{(bits >> 4) % 10000:04d}",
                "CreditCardHolderName": f"{_unescaped(FIRST_NAMES[bits >> 8 & 15])} {_unescaped(LAST_NAMES[bits >> 12 & 15])}",
                "CreditCardExpirationMonth": 1 + (bits >> 16) % 12,
                "CreditCardExpirationYear": 2027 + (bits >> 20) % 5,
            },
        },
    }


def _subscription_offer(links: Links, position: int, bits: int, created: int) -> dict[str, Any]:
    plan = _unescaped(PLANS[bits & 7])
    return {
        "subscription": links.link("subscriptions", position),
        "quantity": 1 + (bits >> 8 & 3),
        "offer": {"path": f"/offers2/{plan}", "data": {"name": plan, "attributes": {"display_name__limio": plan}}},
        "start": iso(created),
    }


def _entitlement(links: Links, position: int, bits: int, created: int) -> dict[str, Any]:
    return {
        "subscription": links.link("subscriptions", position),
        "entitlements": ["/entitlements/web", "/entitlements/app"][: 1 + (bits & 1)],
        "validTo": None if bits & 2 else date(created + 365 * DAY_MS),
    }


def _gift_code(links: Links, position: int, bits: int, created: int) -> dict[str, Any]:
    return {
        "code": f"GIFT-{bits & 0xFFFFFFFF:08X}",
        "redeemed": bool(bits >> 40 & 1),
        "order": links.link("orders", position),
        "expires": date(created + 180 * DAY_MS),
    }


def _promo_code(links: Links, position: int, bits: int, created: int) -> dict[str, Any]:
    name = f"SAVE{position}"
    return {
        "_name": name,
        "promoCode": name,
        "status": True,
        "applicationLevel": "wholeBasket" if bits & 1 else "selectedItems",
        "description": _unescaped(HEADLINES[bits % 6]),
        "promoStartDate": date(created),
        "promoExpiryDate": date(created + 90 * DAY_MS),
        "productDetails": [{"product": {"path": "/products/P1"}, "ratePlan": {"path": "/products/P1/monthly"}}],
        "usage": {"availableQuantity": bits >> 8 & 1023},
        "discount": {"discountType": "percentage", "percentageDiscount": 5 * (1 + (bits >> 20 & 7)), "durationLength": 3,
                     "durationType": "months"},
    }  # fmt: skip


def _process(links: Links, position: int, bits: int, created: int) -> dict[str, Any]:
    return {
        "order": links.link("orders", position),
        "criticalPluginErrors": [],
        "event": links.link("events", position),
        "callouts": [{"plugin": "zuora", "status": 200, "took": bits & 1023}],
        "logs": [f"{iso(created)} started", f"{iso(created + 900)} done"],
    }


SMALL_RENDERERS: dict[str, Renderer] = {
    "identities": _renderer("identity", "active", _identity),
    "address": _renderer("address", "active", _address),
    "schedules": _renderer("schedule", "active", _schedule),
    "payment_methods": _renderer("payment_method", "active", _payment_method),
    "subscription_offers": _renderer("subscription_offer", "active", _subscription_offer),
    "user_entitlements": _renderer("user_entitlement", "active", _entitlement),
    "gift_code": _renderer("gift_code", "active", _gift_code),
    "promo_codes_v2": _renderer("promo_code_v2", "active", _promo_code),
    "process": _renderer("process", "processed", _process),
}


def basket(links: Links, id_: str, position: int, bits: int, revision: int, created: int, updated: int, full: bool) -> str:
    """Return a checkout that was begun; a completed one stays in the list with ``completed`` true."""
    plan = (bits >> 20) & 7
    completed = revision > 0 or (bits >> 24) & 15 == 0
    names = f'"firstName":"{FIRST_NAMES[(bits >> 28) & 15]}","lastName":"{LAST_NAMES[(bits >> 32) & 15]}"'
    # An anonymous checkout has no email, and the earliest ones have no details whatever.
    details = f'{{"email":"shopper{position}@example.com",{names}}}'
    if (bits >> 36) & 3 == 0:
        details = "{}" if (bits >> 38) & 1 else f"{{{names}}}"
    campaign = f'"/campaigns/c{bits >> 44 & 31}"' if (bits >> 40) & 3 else "null"
    return (
        f'{{"id":"{id_}","created":"{iso(created)}","completed":{"true" if completed else "false"},"entry":"/checkout",'
        f'"status":"{"completed" if completed else "active"}","customerDetails":{details},'
        f'"orderItems":[{{"name":"{PLANS[plan]}","path":"/offers2/{PLANS[plan]}","quantity":1,"products":'
        f'[{{"path":"/products/{PLANS[plan]}","productCode":"SKU-{plan}"}}]}}],"customFields":{{"consent":true,'
        f'"note":"{HEADLINES[plan % 6]}"}},"tracking":{{"offers":["/offers2/{PLANS[plan]}"],"campaign":{campaign},'
        f'"tag":"/tags/{COUNTRIES[(bits >> 47) & 7].lower()}/default"}},"identities":[],'
        f'"recoveryLink":"/api/checkout/recover?basket={id_}&recover={bits:016x}"}}'
    )


def partner(links: Links, id_: str, position: int, bits: int, revision: int, created: int, updated: int, full: bool) -> str:
    """Return a partner organisation."""
    record = {
        "id": id_,
        "name": f"Partner {position} \u2013 {_unescaped(COMPANIES[bits % 6])}",
        "record_type": "partner_org",
        "service": links.service,
        "status": "active",
        "created": iso(created),
        "updated": iso(updated),
        "data": {"country": COUNTRIES[bits >> 8 & 7], "seats": bits >> 16 & 255, "revision": revision},
    }
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


#: The folder of each record type in the catalog.
CATALOG_FOLDERS = {
    "add_on": "/add_ons",
    "offers": "/offers",
    "offers2": "/offers2",
    "discount": "/discounts",
    "product": "/products",
    "page": "/pages",
    "campaign": "/campaigns",
    "segment": "/segments",
    "asset": "/assets",
    "journey": "/journeys",
}

#: The members of an item's data that ``reducedData`` keeps.
REDUCED = ("status", "record_type", "tags", "created", "modified")


def _sha(*parts: object) -> str:
    return hashlib.sha1(":".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def catalog_item(store: RecordStore, record_type: str, position: int) -> dict[str, Any]:
    """Return a catalog item with the documented fields: seven in ten are live, the others only working copies."""
    bits = store.bits(position)
    created = store.created(position, bits)
    revision, modified = store.updated(position, bits, created)
    plan = _unescaped(PLANS[(bits >> 20) & 7])
    name = f"{plan} {position}"
    path = f"{CATALOG_FOLDERS[record_type]}/{name}"
    country = COUNTRIES[(bits >> 24) & 7].lower()
    attributes: dict[str, Any] = {
        "display_name__limio": plan,
        "label__limio": f"label-{bits >> 28 & 3}",
        "channel": ("web", "app", "print")[(bits >> 30) % 3],
    }
    data: dict[str, Any] = {
        "record_type": "offer" if record_type in ("offers", "offers2") else record_type,
        "headline": _unescaped(HEADLINES[(bits >> 32) % 6]),
        "subline": None if bits >> 35 & 1 else "Cancel anytime",
        "description": f"<p>{plan} \u2013 {position}</p>",
        "tags": ["/tags/default", f"/tags/{country}/default"],
        "status": "published" if (bits >> 13) % 10 < 7 else "draft",
        "validFrom": compact_date(created),
        "validTo": compact_date(created + 365 * DAY_MS),
        "created": iso_with_offset(created),
        "modified": iso_with_offset(modified),
        "version": _sha(store.key, position, revision),
        "revision": revision,
        "assets": [],
    }
    if record_type in ("offers", "offers2", "add_on", "discount"):
        attributes["price__limio"] = [
            {
                "name": "charge",
                "label": plan,
                "value": PRICES[bits >> 40 & 7],
                "currencyCode": CURRENCIES[bits >> 24 & 7],
                "type": "recurring",
                "repeat_interval": 1,
                "repeat_interval_type": "months",
            }
        ]
        attributes["term__limio"] = {"length": 12, "type": "months", "renewal_type": "perpetual"}
        data["productBundles"] = [{"revenue_split": "100", "product_path": f"/products/{plan}", "rate_plan": "monthly"}]
        data["associatedOffers"] = [
            {"type": "cross-sell", "offer": {"id": _sha(position, "x"), "path": f"/offers2/{plan}", "data": {}}}
        ][: bits >> 44 & 1]
    elif record_type == "product":
        attributes["product_code__limio"] = f"SKU-{position}"
        data["entitlements"] = ["/entitlements/web"]
        data["synced"] = bool(bits >> 45 & 1)
    elif record_type == "page":
        data["components"] = [{"id": f"c{n}", "type": "text", "props": {"html": data["headline"]}} for n in range(3)]
    return {
        "id": f"{_sha(store.key, position)}.{_sha(store.key, position, revision)}",
        "parent_path": CATALOG_FOLDERS[record_type],
        "path": path,
        "name": name,
        "attributes": attributes,
        "data": data,
    }
