# Licensed under the Apache License, Version 2.0. See the LICENSE file.
# ruff: noqa: ARG001 - all of these are called alike
"""The smaller kinds of object: identities, addresses, schedules, payment methods and the like."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator import words as w
from limio_limitrail.emulator.times import DAY_MS, date, iso

if TYPE_CHECKING:
    from limio_limitrail.emulator.records import Links, Renderer


def _renderer(record_type: str, status: str, data: Any) -> Renderer:
    def render(links: Links, id_: str, position: int, draw: int, revision: int, created: int, updated: int, full: bool) -> str:
        body = data(links, position, draw, created)
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


def _plain(escaped: str) -> str:
    text: str = json.loads(f'"{escaped}"')
    return text


def _identity(links: Links, position: int, draw: int, created: int) -> dict[str, Any]:
    return {
        "customer": links.link("customers", position),
        "email": f"user{position}@example.com" if draw & 7 else None,
        "external": [{"iss": "https://login.example.com/", "sub": f"auth0|{draw:016x}"}],
        "lastSeen": iso(created),
    }


def _address(links: Links, position: int, draw: int, created: int) -> dict[str, Any]:
    return {
        "subscription": links.link("subscriptions", position),
        "type": "delivery" if draw & 1 else "billing",
        "address1": f"{draw & 127} {_plain(w.STREETS[draw % 6])}",
        "city": _plain(w.CITIES[(draw >> 8) & 7]),
        "countryCode": w.COUNTRIES[(draw >> 8) & 7],
        "postalCode": f"{(draw >> 16) & 0xFFFF:05d}",
        "validFrom": date(created),
    }


def _schedule(links: Links, position: int, draw: int, created: int) -> dict[str, Any]:
    return {
        "subscription": links.link("subscriptions", position),
        "date": date(created + 30 * DAY_MS),
        "type": "payment",
        "amount": {"amount": float(w.PRICES[draw & 7]), "currency": w.CURRENCIES[(draw >> 8) & 7]},
    }


def _payment_method(links: Links, position: int, draw: int, created: int) -> dict[str, Any]:
    return {
        "subscription": links.link("subscriptions", position),
        "type": "zuora",
        "zuora": {
            "id": f"{draw:032x}",
            "result": {
                "CreditCardType": w.CARDS[draw & 3],
                "CreditCardMaskNumber": f"************{(draw >> 4) % 10000:04d}",
                "CreditCardHolderName": f"{_plain(w.FIRST_NAMES[draw >> 8 & 15])} {_plain(w.LAST_NAMES[draw >> 12 & 15])}",
                "CreditCardExpirationMonth": 1 + (draw >> 16) % 12,
                "CreditCardExpirationYear": 2027 + (draw >> 20) % 5,
            },
        },
    }


def _subscription_offer(links: Links, position: int, draw: int, created: int) -> dict[str, Any]:
    plan = _plain(w.PLANS[draw & 7])
    return {
        "subscription": links.link("subscriptions", position),
        "quantity": 1 + (draw >> 8 & 3),
        "offer": {"path": f"/offers2/{plan}", "data": {"name": plan, "attributes": {"display_name__limio": plan}}},
        "start": iso(created),
    }


def _entitlement(links: Links, position: int, draw: int, created: int) -> dict[str, Any]:
    return {
        "subscription": links.link("subscriptions", position),
        "entitlements": ["/entitlements/web", "/entitlements/app"][: 1 + (draw & 1)],
        "validTo": None if draw & 2 else date(created + 365 * DAY_MS),
    }


def _gift_code(links: Links, position: int, draw: int, created: int) -> dict[str, Any]:
    return {
        "code": f"GIFT-{draw & 0xFFFFFFFF:08X}",
        "redeemed": bool(draw >> 40 & 1),
        "order": links.link("orders", position),
        "expires": date(created + 180 * DAY_MS),
    }


def _promo_code(links: Links, position: int, draw: int, created: int) -> dict[str, Any]:
    name = f"SAVE{position}"
    return {
        "_name": name,
        "promoCode": name,
        "status": True,
        "applicationLevel": "wholeBasket" if draw & 1 else "selectedItems",
        "description": _plain(w.HEADLINES[draw % 6]),
        "promoStartDate": date(created),
        "promoExpiryDate": date(created + 90 * DAY_MS),
        "productDetails": [{"product": {"path": "/products/P1"}, "ratePlan": {"path": "/products/P1/monthly"}}],
        "usage": {"availableQuantity": draw >> 8 & 1023},
        "discount": {"discountType": "percentage", "percentageDiscount": 5 * (1 + (draw >> 20 & 7)), "durationLength": 3,
                     "durationType": "months"},
    }  # fmt: skip


def _process(links: Links, position: int, draw: int, created: int) -> dict[str, Any]:
    return {
        "order": links.link("orders", position),
        "criticalPluginErrors": [],
        "event": links.link("events", position),
        "callouts": [{"plugin": "zuora", "status": 200, "took": draw & 1023}],
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
