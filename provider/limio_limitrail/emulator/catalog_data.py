# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Catalog items: offers, products, pages and the like, published or only drafted."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator import words as w
from limio_limitrail.emulator.times import DAY_MS, compact, offset_form

if TYPE_CHECKING:
    from limio_limitrail.emulator.shelves import Shelf

#: record_type: folder in the catalog
FOLDERS = {
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

#: What ``reducedData`` leaves of an item's data.
REDUCED = ("status", "record_type", "tags", "created", "modified")


def _sha(*parts: object) -> str:
    return hashlib.sha1(":".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def _text(escaped: str) -> str:
    text: str = json.loads(f'"{escaped}"')
    return text


def is_published(draw: int) -> bool:
    """Seven items in ten are live; the others exist only as working copies."""
    return (draw >> 13) % 10 < 7


def item(shelf: Shelf, record_type: str, position: int) -> dict[str, Any]:
    """One catalog item with the documented fields."""
    draw = shelf.draw(position)
    created = shelf.created(position, draw)
    revision, modified = shelf.updated(position, draw, created)
    plan = _text(w.PLANS[(draw >> 20) & 7])
    name = f"{plan} {position}"
    path = f"{FOLDERS[record_type]}/{name}"
    country = w.COUNTRIES[(draw >> 24) & 7].lower()
    attributes: dict[str, Any] = {
        "display_name__limio": plan,
        "label__limio": f"label-{draw >> 28 & 3}",
        "channel": ("web", "app", "print")[(draw >> 30) % 3],
    }
    data: dict[str, Any] = {
        "record_type": "offer" if record_type in ("offers", "offers2") else record_type,
        "headline": _text(w.HEADLINES[(draw >> 32) % 6]),
        "subline": None if draw >> 35 & 1 else "Cancel anytime",
        "description": f"<p>{plan} \u2013 {position}</p>",
        "tags": ["/tags/default", f"/tags/{country}/default"],
        "status": "published" if is_published(draw) else "draft",
        "validFrom": compact(created),
        "validTo": compact(created + 365 * DAY_MS),
        "created": offset_form(created),
        "modified": offset_form(modified),
        "version": _sha(shelf.key, position, revision),
        "revision": revision,
        "assets": [],
    }
    if record_type in ("offers", "offers2", "add_on", "discount"):
        attributes["price__limio"] = [
            {
                "name": "charge",
                "label": plan,
                "value": w.PRICES[draw >> 40 & 7],
                "currencyCode": w.CURRENCIES[draw >> 24 & 7],
                "type": "recurring",
                "repeat_interval": 1,
                "repeat_interval_type": "months",
            }
        ]
        attributes["term__limio"] = {"length": 12, "type": "months", "renewal_type": "perpetual"}
        data["productBundles"] = [{"revenue_split": "100", "product_path": f"/products/{plan}", "rate_plan": "monthly"}]
        data["associatedOffers"] = [
            {"type": "cross-sell", "offer": {"id": _sha(position, "x"), "path": f"/offers2/{plan}", "data": {}}}
        ][: draw >> 44 & 1]
    elif record_type == "product":
        attributes["product_code__limio"] = f"SKU-{position}"
        data["entitlements"] = ["/entitlements/web"]
        data["synced"] = bool(draw >> 45 & 1)
    elif record_type == "page":
        data["components"] = [{"id": f"c{n}", "type": "text", "props": {"html": data["headline"]}} for n in range(3)]
    return {
        "id": f"{_sha(shelf.key, position)}.{_sha(shelf.key, position, revision)}",
        "parent_path": FOLDERS[record_type],
        "path": path,
        "name": name,
        "attributes": attributes,
        "data": data,
    }
