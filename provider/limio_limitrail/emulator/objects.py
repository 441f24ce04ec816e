# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The objects endpoints: lists with a cursor string, reads by id, related objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limio_limitrail.emulator.account import Account, page_reply
from limio_limitrail.emulator.exchange import Page, Reply, message
from limio_limitrail.emulator.tenant import PARTNERS, PATH_TYPES, SERVICES

if TYPE_CHECKING:
    from limio_limitrail.emulator.exchange import Call

_SINGULAR = {"customer": "customers", "subscription": "subscriptions"}
_LIST_PARAMETERS = {"limit", "queryMore"}


class Objects:
    """``/api/objects/...`` and ``/api/partner-organisations``."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def answer(self, call: Call, parts: list[str]) -> Reply:
        """Answer a path below ``/api/objects``, given in its parts."""
        if parts[:2] == ["salesforce", "identities"] and parts[3:] == ["subscriptions"]:
            return self._of_identity(call, parts[2])
        if parts[:2] == ["limio", "events"] and parts[3:] == ["events"]:
            # Seen to be empty whatever one asks for; the events of a subscription are among its related objects.
            return Reply(200, b'{"items":[],"unpackedItems":[]}', template="/api/objects/limio/events/{id}/events")
        if len(parts) not in (2, 3, 4) or parts[0] not in SERVICES or "" in parts:
            return message(404, "Not Found")
        service, name = parts[:2]
        path_type = _SINGULAR.get(name, name) if len(parts) > 2 else name
        if path_type not in PATH_TYPES or parts[3:] not in ([], ["related"]):
            return message(404, "Not Found")
        kind = f"{service}/{path_type}"
        template = "/".join(["/api/objects", service, name, *(["{id}"] if parts[2:] else []), *parts[3:]])
        if len(parts) == 2:
            return self._list(call, kind, template)
        return self._one(kind, parts[2], template) if len(parts) == 3 else self._related(kind, parts[2], template)

    def partners(self, call: Call) -> Reply:
        """``GET /api/partner-organisations``."""
        return self._list(call, PARTNERS, "/api/partner-organisations")

    def _list(self, call: Call, kind: str, template: str) -> Reply:
        unknown = sorted(set(call.params) - _LIST_PARAMETERS)
        if unknown:
            return message(400, f"Unknown query parameter: {unknown[0]}")
        account = self._account
        limit = account.limit(call.params.get("limit"))
        tenant = account.tenant
        page = account.cursor_page(call, kind, 0, tenant.count(kind), limit, lambda start, stop: tenant.rows(kind, start, stop))
        return page_reply(page, template)

    def _one(self, kind: str, id_: str, template: str) -> Reply:
        placed = self._account.placed.get(f"objects/{kind}")
        if placed is not None:
            body = placed.by_id(id_)
        else:
            text = self._account.tenant.text(kind, id_)
            body = None if text is None else text.encode()
        return Reply(404, b'{"message":"Not Found"}', template=template) if body is None else Reply(200, body, template=template)

    def _related(self, kind: str, id_: str, template: str) -> Reply:
        tenant = self._account.tenant
        position = tenant.shelves[kind].position(id_)
        if position is None:
            return Reply(404, b'{"message":"Not Found"}', template=template)
        service, _, path_type = kind.partition("/")
        if path_type == "customers":
            rows = [tenant.at(f"{service}/subscriptions", one, full=True) for one in tenant.held(service, position)]
            others: tuple[str, ...] = ("orders", "events", "identities")
        elif path_type == "subscriptions":
            rows = [tenant.at(f"{service}/customers", tenant.owner(service, position), full=True)]
            others = ("orders", "events", "payment_methods", "subscription_offers", "address", "schedules")
        else:
            rows, others = [], ("subscriptions",)
        for other in others:
            count = tenant.count(f"{service}/{other}")
            if position < count:
                rows.append(tenant.at(f"{service}/{other}", position, full=True))
        return Reply(page=Page((("items", ",".join(rows).encode()),)), template=template)

    def _of_identity(self, call: Call, id_: str) -> Reply:
        template = "/api/objects/salesforce/identities/{id}/subscriptions"
        account = self._account
        tenant = account.tenant
        position = tenant.shelves["salesforce/identities"].position(id_)
        if position is None:
            return Reply(404, b'{"message":"Not Found"}', template=template)
        held = tenant.held("salesforce", position)
        place = f"salesforce/identities/{id_}"
        page = account.cursor_page(
            call, place, held.start, held.stop, 1, lambda start, stop: tenant.rows("salesforce/subscriptions", start, stop)
        )
        owner = tenant.at("salesforce/customers", position, full=False).encode() if not page.sent else b""
        lists = (("subscriptions", page.lists[0][1]), ("customers", owner))
        return page_reply(Page(lists, page.cursor, page.sent, end=page.end), template)
