# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The emulated Limio API: authentication, routes, and the endpoints of objects and baskets."""

from __future__ import annotations

import hmac
from functools import partial
from typing import TYPE_CHECKING

from limio_limitrail.emulator.core.http_messages import EmulatedPage, HttpError, Reply, message_reply
from limio_limitrail.emulator.core.times import parse_millis
from limio_limitrail.emulator.limio.account import TOKEN_PATH
from limio_limitrail.emulator.limio.catalog import KEY_PATHS, LEGACY, UNIFIED, CatalogEndpoints
from limio_limitrail.emulator.limio.tenant import BASKETS, PARTNERS, PATH_TYPES, SERVICES

if TYPE_CHECKING:
    from limio_limitrail.emulator.core.http_messages import Call
    from limio_limitrail.emulator.core.tokens import Grant
    from limio_limitrail.emulator.limio.account import CustomList, LimioAccount

_PREFIX = "/api/"
_SINGULAR = {"customer": "customers", "subscription": "subscriptions"}
_LIST_PARAMETERS = {"limit", "queryMore"}


class LimioApi:
    """Answers ``/oauth2/token`` and ``/api/...``."""

    def __init__(self, account: LimioAccount) -> None:
        self.account = account
        self._objects = ObjectEndpoints(account)
        self._catalog = CatalogEndpoints(account)

    def owns(self, path: str) -> bool:
        """Return whether a path is Limio's: the token path, and everything below ``/api/``."""
        return path == TOKEN_PATH or path.startswith(_PREFIX)

    def handle(self, call: Call) -> Reply:
        """Answer one request."""
        if call.path == TOKEN_PATH:
            return self.account.token_endpoint.handle(call)
        self.account.cursors.count_request()
        path = call.path[len(_PREFIX) :].rstrip("/")
        try:
            return self._route(call, path, self._authenticate(call, path))
        except HttpError as refused:
            return refused.reply

    def error(self, call: Call, status: int, text: str) -> Reply:  # noqa: ARG002 - the form is the same everywhere
        """Return an error in Limio's form."""
        return message_reply(status, text)

    def _authenticate(self, call: Call, path: str) -> Grant | None:
        """Return the grant of the caller's token, or None for the publishable key where that is accepted."""
        value = call.headers.get("authorization", "")
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer":
            grant = self.account.token_endpoint.use(token)
            if grant is not None:
                return grant
            raise HttpError(message_reply(401, "The incoming token has expired or is not valid"))
        if path in KEY_PATHS and hmac.compare_digest(value.encode(), self.account.options.api_key.encode()):
            return None
        raise HttpError(message_reply(401, "Unauthorized"))

    def _route(self, call: Call, path: str, grant: Grant | None) -> Reply:
        custom = self.account.custom_lists.get(path)
        if call.method != "GET":
            return message_reply(405, "Method Not Allowed")
        if path in UNIFIED or path in LEGACY:
            return self._catalog.handle(call, path)
        if path == "partner-organisations" and (grant is None or "partner" not in grant.scopes):
            return message_reply(403, "The token lacks the scope: partner")
        if custom is not None:
            return self._custom_list(call, path, custom)
        if path == "partner-organisations":
            return self._objects.list_records(call, PARTNERS, _PREFIX + path)
        if path == "checkout/abandoned":
            return abandoned_baskets(self.account, call, None, _PREFIX + path)
        head, _, rest = path.partition("/")
        if head == "objects":
            return self._objects.handle(call, rest.split("/"))
        parent, _, id_ = path.rpartition("/")
        custom = self.account.custom_lists.get(parent)
        body = None if custom is None else custom.by_id(id_)
        return message_reply(404, "Not Found") if body is None else Reply(200, body, template=f"{_PREFIX}{parent}/{{id}}")

    def _custom_list(self, call: Call, path: str, custom: CustomList) -> Reply:
        """Answer a list whose records a test has put, on a known path or on one of its own."""
        template = _PREFIX + path
        if custom.style == "baskets":
            return abandoned_baskets(self.account, call, custom, template)
        if custom.style == "catalog":
            return self._catalog.custom_list(call, path, custom)
        if path.startswith("objects/") and set(call.params) - _LIST_PARAMETERS:
            return message_reply(400, "Unknown query parameter")
        limit = self.account.limit(call.params.get("limit"))
        page = self.account.cursors.page(call, f"placed {path}", total=len(custom.rows), limit=limit, rows=custom.joined)
        return Reply(page=page, template=template)


class ObjectEndpoints:
    """``/api/objects/...``: lists with a cursor string, reads by id, related objects."""

    def __init__(self, account: LimioAccount) -> None:
        self._account = account
        self._tenant = account.tenant

    def handle(self, call: Call, parts: list[str]) -> Reply:
        """Answer a path below ``/api/objects``, split at its slashes."""
        if parts[:2] == ["salesforce", "identities"] and parts[3:] == ["subscriptions"]:
            return self._of_identity(call, parts[2])
        if parts[:2] == ["limio", "events"] and parts[3:] == ["events"]:
            # Seen to be empty whatever one asks for; the events of a subscription are among its related objects.
            return Reply(200, b'{"items":[],"unpackedItems":[]}', template="/api/objects/limio/events/{id}/events")
        if len(parts) not in (2, 3, 4) or parts[0] not in SERVICES or "" in parts:
            return message_reply(404, "Not Found")
        service, name = parts[:2]
        path_type = _SINGULAR.get(name, name) if len(parts) > 2 else name
        if path_type not in PATH_TYPES or parts[3:] not in ([], ["related"]):
            return message_reply(404, "Not Found")
        kind = f"{service}/{path_type}"
        template = "/".join(["/api/objects", service, name, *(["{id}"] if parts[2:] else []), *parts[3:]])
        if len(parts) == 2:
            return self.list_records(call, kind, template)
        return self._one(kind, parts[2], template) if len(parts) == 3 else self._related(kind, parts[2], template)

    def list_records(self, call: Call, kind: str, template: str) -> Reply:
        """Answer the list of a kind of record."""
        unknown = sorted(set(call.params) - _LIST_PARAMETERS)
        if unknown:
            return message_reply(400, f"Unknown query parameter: {unknown[0]}")
        limit = self._account.limit(call.params.get("limit"))
        rows = partial(self._tenant.rows, kind)
        page = self._account.cursors.page(call, kind, total=self._tenant.count(kind), limit=limit, rows=rows)
        return Reply(page=page, template=template)

    def _one(self, kind: str, id_: str, template: str) -> Reply:
        custom = self._account.custom_lists.get(f"objects/{kind}")
        if custom is not None:
            body = custom.by_id(id_)
        else:
            text = self._tenant.text(kind, id_)
            body = None if text is None else text.encode()
        return _not_found(template) if body is None else Reply(200, body, template=template)

    def _related(self, kind: str, id_: str, template: str) -> Reply:
        tenant = self._tenant
        position = tenant.stores[kind].position(id_)
        if position is None:
            return _not_found(template)
        service, _, path_type = kind.partition("/")
        if path_type == "customers":
            held = tenant.links[service].subscriptions_of(position)
            rows = [tenant.at(f"{service}/subscriptions", one, full=True) for one in held]
            others: tuple[str, ...] = ("orders", "events", "identities")
        elif path_type == "subscriptions":
            rows = [tenant.at(f"{service}/customers", tenant.links[service].owner(position), full=True)]
            others = ("orders", "events", "payment_methods", "subscription_offers", "address", "schedules")
        else:
            rows, others = [], ("subscriptions",)
        rows += [
            tenant.at(f"{service}/{other}", position, full=True)
            for other in others
            if position < tenant.count(f"{service}/{other}")
        ]
        return Reply(page=EmulatedPage((("items", ",".join(rows).encode()),)), template=template)

    def _of_identity(self, call: Call, id_: str) -> Reply:
        template = "/api/objects/salesforce/identities/{id}/subscriptions"
        tenant = self._tenant
        position = tenant.stores["salesforce/identities"].position(id_)
        if position is None:
            return _not_found(template)
        held = tenant.links["salesforce"].subscriptions_of(position)
        rows = partial(tenant.rows, "salesforce/subscriptions")
        name = f"salesforce/identities/{id_}"
        page = self._account.cursors.page(call, name, first=held.start, total=held.stop, limit=1, rows=rows)
        owner = tenant.at("salesforce/customers", position, full=False).encode() if not page.sent else b""
        lists = (("subscriptions", page.lists[0][1]), ("customers", owner))
        return Reply(page=EmulatedPage(lists, page.cursor, page.sent, end=page.end), template=template)


def abandoned_baskets(account: LimioAccount, call: Call, custom: CustomList | None, template: str) -> Reply:
    """Answer a page of the baskets created at or after ``createdAfter``, completed ones among them.

    Both ``limit`` and ``createdAfter`` are required.
    """
    for name in ("limit", "createdAfter"):
        if name not in call.params:
            return message_reply(400, f"Missing required parameter: {name}")
    limit = account.limit(call.params["limit"])
    try:
        after = parse_millis(call.params["createdAfter"])
    except ValueError:
        return message_reply(400, "createdAfter must be an ISO date-time")
    if custom is not None:
        found = [row for row, value in zip(custom.rows, custom.parsed, strict=True) if _created(value) >= after]
        page = account.cursors.page(
            call, f"placed {template}", total=len(found), limit=limit, rows=lambda start, stop: b",".join(found[start:stop])
        )
    else:
        tenant = account.tenant
        rows, first = partial(tenant.rows, BASKETS), tenant.first_basket(after)
        page = account.cursors.page(call, BASKETS, first=first, total=tenant.count(BASKETS), limit=limit, rows=rows)
    return Reply(page=page, template=template)


def _not_found(template: str) -> Reply:
    return Reply(404, b'{"message":"Not Found"}', template=template)


def _created(value: object) -> int:
    """Return when a custom record was created; one that does not say is later than any ``createdAfter``."""
    try:
        return parse_millis(value["created"])  # type: ignore[index]
    except (TypeError, KeyError, ValueError, AttributeError):
        return 1 << 62
