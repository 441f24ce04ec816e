# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The emulated LimitRail API: authentication, routes, and the endpoints of lists.

LimitRail's public pages show two paths, ``/connect/token`` and ``/v1/usage/commit``, and that runtime lists need
``from`` and ``to`` and answer ``items``. All other paths and members here are made up.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from limio_limitrail.emulator.core.http_messages import Call, EmulatedPage, HttpError, Reply, dumps
from limio_limitrail.emulator.core.times import parse_datetime
from limio_limitrail.emulator.limitrail.errors import ProblemError, problem_reply
from limio_limitrail.emulator.limitrail.usage import UsageEndpoints
from limio_limitrail.emulator.options import ACCOUNTS_READ, USAGE_READ, USAGE_WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from limio_limitrail.emulator.core.tokens import Grant
    from limio_limitrail.emulator.limitrail.account import LimitRailAccount, LimitRailTokenEndpoint
    from limio_limitrail.emulator.limitrail.records import Reservation, Timeline, UsageRecord

    Timelines = Mapping[str, Timeline[UsageRecord]] | Mapping[str, Timeline[Reservation]]

_RESERVATION = re.compile(r"/v1/usage/reservations/([^/]+)/(commit|cancel)\Z")
_WHOLE_NUMBER = re.compile(r"[0-9]{1,9}\Z")


class TokenOnlyApi:
    """What a port serves that is for the token endpoint alone."""

    def __init__(self, token_endpoint: LimitRailTokenEndpoint) -> None:
        self._token_endpoint = token_endpoint
        self.error = token_endpoint.error

    def owns(self, path: str) -> bool:  # noqa: ARG002 - whatever the path is
        """Return True for every path."""
        return True

    def handle(self, call: Call) -> Reply:
        """Answer a token request; 404 for any other path."""
        if self._token_endpoint.owns(call.path):
            return self._token_endpoint.handle(call)
        return problem_reply(call, 404, "There is nothing here")


class _Route(NamedTuple):
    method: str
    scope: str
    handle: Callable[[Call, str], Reply]


class LimitRailApi:
    """Answers ``/v1/...``. The token endpoint is an API of its own; nothing else below ``/connect/`` exists."""

    def __init__(self, account: LimitRailAccount) -> None:
        self._account = account
        self._usage = UsageEndpoints(account)
        lists = ListEndpoints(account)
        self._routes = {
            "/v1/usage/commit": _Route("POST", USAGE_WRITE, self._usage.commit),
            "/v1/usage/preview": _Route("POST", USAGE_WRITE, self._usage.preview),
            "/v1/usage/reserve": _Route("POST", USAGE_WRITE, self._usage.reserve),
            "/v1/usage": _Route("GET", USAGE_READ, partial(lists.records, account.usage)),
            "/v1/usage/reservations": _Route("GET", USAGE_READ, partial(lists.records, account.reservations)),
            "/v1/accounts": _Route("GET", ACCOUNTS_READ, lists.accounts),
        }

    def owns(self, path: str) -> bool:
        """Return whether a path is LimitRail's: everything below ``/v1/`` and ``/connect/``."""
        return path.startswith(("/v1/", "/connect/"))

    def error(self, call: Call, status: int, text: str) -> Reply:
        """Return an error in LimitRail's form."""
        return problem_reply(call, status, text)

    def handle(self, call: Call) -> Reply:
        """Answer one request."""
        try:
            if not call.path.startswith("/v1/"):
                raise ProblemError(call, 404, "There is nothing here")
            return self._route(call, self._authenticate(call))
        except HttpError as refused:
            return refused.reply

    def _authenticate(self, call: Call) -> Grant:
        scheme, _, token = call.headers.get("authorization", "").partition(" ")
        grant = self._account.token_endpoint.use(token) if scheme.lower() == "bearer" else None
        if grant is None:
            detail = "The bearer token is missing, expired or not valid for this host"
            raise ProblemError(call, 401, detail, headers={"www-authenticate": "Bearer"})
        return grant

    def _route(self, call: Call, grant: Grant) -> Reply:
        route = self._routes.get(call.path)
        if route is not None:
            _authorize(call, grant, route.method, route.scope)
            return route.handle(call, grant.tenant)
        found = _RESERVATION.match(call.path)
        if found is None:
            raise ProblemError(call, 404, "There is nothing here")
        id_, action = found.groups()
        template = f"/v1/usage/reservations/{{id}}/{action}"
        _authorize(call, grant, "POST", USAGE_WRITE, template=template)
        try:
            reply = self._usage.close_reservation(call, grant.tenant, id_, action)
        except HttpError as refused:
            reply = refused.reply
        return replace(reply, template=template)


def _authorize(call: Call, grant: Grant, method: str, scope: str, *, template: str | None = None) -> None:
    if call.method != method:
        detail = f"Only {method} is allowed here"
        raise ProblemError(call, 405, detail, headers={"allow": method}, template=template)
    if scope not in grant.scopes:
        raise ProblemError(call, 403, f"The token lacks the scope {scope}", template=template)


class ListEndpoints:
    """The lists of accounts, usage and reservations."""

    def __init__(self, account: LimitRailAccount) -> None:
        self._account = account

    def accounts(self, call: Call, tenant: str) -> Reply:
        """Answer the external accounts of the tenant."""
        return self._page(call, tenant, self._account.created(tenant), _account_row)

    def records(self, records: Timelines, call: Call, tenant: str) -> Reply:
        """Answer the usage that was counted, or the reservations that were made, in a time range."""
        start, stop = self._time_range(call)
        options, now = self._account.options, datetime.now(UTC)
        stop = min(stop, now - timedelta(seconds=options.list_lag_seconds)) if options.list_lag_seconds else stop
        if options.list_keeps_seconds is not None:
            start = max(start, now - timedelta(seconds=options.list_keeps_seconds))
        return self._page(call, tenant, records[tenant].between(start, stop), _record_row)

    def _time_range(self, call: Call) -> tuple[datetime, datetime]:
        start, stop = _read_instant(call, "from"), _read_instant(call, "to")
        if stop < start:
            raise ProblemError(call, 400, "to is before from", code="WINDOW_INVALID", field="To")
        longest = self._account.options.max_window_seconds
        if longest is not None and stop - start > timedelta(seconds=longest):
            detail = f"from and to are more than {longest:g} seconds apart"
            raise ProblemError(call, 400, detail, code="WINDOW_TOO_LONG", field="To")
        return start, stop

    def _page(self, call: Call, tenant: str, records: Sequence[Any], row: Callable[[Any], bytes]) -> Reply:
        size = self._account.options.page_size
        if size is None:
            return Reply(page=EmulatedPage((("items", b",".join(map(row, records))),)), template=call.path)
        text = call.params.get("limit")
        if text is not None:
            if not _WHOLE_NUMBER.match(text) or int(text) < 1:
                raise ProblemError(call, 400, "limit must be a whole number of at least 1", field="Limit")
            size = min(size, int(text))
        list_name = f"{tenant} {call.path} {call.params.get('from')} {call.params.get('to')}"
        sent = call.params.get("cursor")
        start = _read_cursor(call, list_name, sent) if sent else 0
        stop = start + size
        cursor = _cursor(list_name, stop) if stop < len(records) else None
        body = b",".join(map(row, records[start:stop]))
        return Reply(page=EmulatedPage((("items", body),), cursor, sent, cursor_name="nextCursor"), template=call.path)


def _account_row(account: tuple[str, str]) -> bytes:
    ref, created = account
    return dumps({"id": f"acc-{ref}", "externalAccount": ref, "createdAt": created})


def _record_row(record: UsageRecord | Reservation) -> bytes:
    return record.as_json().encode()


def _read_instant(call: Call, name: str) -> datetime:
    text = call.params.get(name)
    if text is None:
        raise ProblemError(call, 400, f"{name} is required", field=name.capitalize())
    try:
        return parse_datetime(text)
    except ValueError:
        detail = f"{name} must be a date or date-time of ISO 8601"
        raise ProblemError(call, 400, detail, field=name.capitalize()) from None


def _cursor(list_name: str, offset: int) -> str:
    return base64.urlsafe_b64encode(f"{offset} {list_name}".encode("utf-8", "replace")).decode()


def _read_cursor(call: Call, list_name: str, cursor: str) -> int:
    """Return the position of a cursor, which is valid only for the list and the time range it was issued for."""
    try:
        offset = int(base64.b64decode(cursor, altchars=b"-_", validate=True).partition(b" ")[0])
    except (binascii.Error, ValueError):
        offset = -1
    if offset < 0 or _cursor(list_name, offset) != cursor:
        raise ProblemError(call, 400, "cursor is not one of this list and window", field="Cursor")
    return offset
