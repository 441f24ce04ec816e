# Licensed under the Apache License, Version 2.0. See the LICENSE file.
# ruff: noqa: ARG001 - all renderers are called alike
"""Abandoned baskets and partner organisations, as records."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from limio_limitrail.emulator import words as w
from limio_limitrail.emulator.times import iso

if TYPE_CHECKING:
    from limio_limitrail.emulator.records import Links


def basket(links: Links, id_: str, position: int, draw: int, revision: int, created: int, updated: int, full: bool) -> str:
    """A checkout that was begun; a completed one stays in the list with ``completed`` true."""
    plan = (draw >> 20) & 7
    completed = revision > 0 or (draw >> 24) & 15 == 0
    names = f'"firstName":"{w.FIRST_NAMES[(draw >> 28) & 15]}","lastName":"{w.LAST_NAMES[(draw >> 32) & 15]}"'
    # An anonymous checkout has no email, and the earliest ones have no details whatever.
    details = f'{{"email":"shopper{position}@example.com",{names}}}'
    if (draw >> 36) & 3 == 0:
        details = "{}" if (draw >> 38) & 1 else f"{{{names}}}"
    campaign = f'"/campaigns/c{draw >> 44 & 31}"' if (draw >> 40) & 3 else "null"
    return (
        f'{{"id":"{id_}","created":"{iso(created)}","completed":{"true" if completed else "false"},"entry":"/checkout",'
        f'"status":"{"completed" if completed else "active"}","customerDetails":{details},'
        f'"orderItems":[{{"name":"{w.PLANS[plan]}","path":"/offers2/{w.PLANS[plan]}","quantity":1,"products":'
        f'[{{"path":"/products/{w.PLANS[plan]}","productCode":"SKU-{plan}"}}]}}],"customFields":{{"consent":true,'
        f'"note":"{w.HEADLINES[plan % 6]}"}},"tracking":{{"offers":["/offers2/{w.PLANS[plan]}"],"campaign":{campaign},'
        f'"tag":"/tags/{w.COUNTRIES[(draw >> 47) & 7].lower()}/default"}},"identities":[],'
        f'"recoveryLink":"/api/checkout/recover?basket={id_}&recover={draw:016x}"}}'
    )


def partner(links: Links, id_: str, position: int, draw: int, revision: int, created: int, updated: int, full: bool) -> str:
    """A partner organisation."""
    record = {
        "id": id_,
        "name": f"Partner {position} \u2013 {json.loads(chr(34) + w.COMPANIES[draw % 6] + chr(34))}",
        "record_type": "partner_org",
        "service": links.service,
        "status": "active",
        "created": iso(created),
        "updated": iso(updated),
        "data": {"country": w.COUNTRIES[draw >> 8 & 7], "seats": draw >> 16 & 255, "revision": revision},
    }
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))
