# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRail's lists. Public is that runtime lists need ``from`` and ``to`` and answer ``items``; the rest is made up."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from limio_limitrail.emulator.exchange import Call, Page, Reply, dumps
from limio_limitrail.emulator.limitrail_problems import RefusedCallError
from limio_limitrail.emulator.times import moment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from limio_limitrail.emulator.limitrail_account import LimitRailAccount
    from limio_limitrail.emulator.limitrail_records import Reservation, Usage

Row = TypeVar("Row")
_WHOLE = re.compile(r"[0-9]{1,9}\Z")


class Lists:
    """Answers the calls that read."""

    def __init__(self, account: LimitRailAccount) -> None:
        self._account = account

    def accounts(self, call: Call, tenant: str) -> Reply:
        """The external accounts of the tenant."""

        def row(one: tuple[str, str]) -> bytes:
            ref, created = one
            return dumps({"id": f"acc-{ref}", "externalAccount": ref, "createdAt": created})

        return self._page(call, tenant, self._account.created(tenant), row)

    def usage(self, call: Call, tenant: str) -> Reply:
        """What was counted in a window of time."""
        return self._page(call, tenant, self._account.usage[tenant].between(*self._window(call)), _text)

    def reservations(self, call: Call, tenant: str) -> Reply:
        """What was reserved in a window of time, whatever became of it."""
        return self._page(call, tenant, self._account.reservations[tenant].between(*self._window(call)), _text)

    def _window(self, call: Call) -> tuple[datetime, datetime]:
        start, stop = _instant(call, "from"), _instant(call, "to")
        if stop < start:
            raise RefusedCallError(call, 400, "to is before from", code="WINDOW_INVALID", field="To")
        longest = self._account.options.max_window_seconds
        if longest is not None and stop - start > timedelta(seconds=longest):
            raise RefusedCallError(
                call, 400, f"from and to are more than {longest:g} seconds apart", code="WINDOW_TOO_LONG", field="To"
            )
        return start, stop

    def _page(self, call: Call, tenant: str, rows: Sequence[Row], row: Callable[[Row], bytes]) -> Reply:
        size = self._account.options.page_size
        if size is None:
            return Reply(page=Page((("items", b",".join(map(row, rows))),)), template=call.path)
        text = call.params.get("limit")
        if text is not None:
            if not _WHOLE.match(text) or int(text) < 1:
                raise RefusedCallError(call, 400, "limit must be a whole number of at least 1", field="Limit")
            size = min(size, int(text))
        place = f"{tenant} {call.path} {call.params.get('from')} {call.params.get('to')}"
        sent = call.params.get("cursor")
        start = _read_cursor(call, place, sent) if sent else 0
        stop = start + size
        cursor = _cursor(place, stop) if stop < len(rows) else None
        body = b",".join(map(row, rows[start:stop]))
        page = Page((("items", body),), cursor, sent, cursor_name="nextCursor")
        return Reply(page=page, template=call.path)


def _text(record: Usage | Reservation) -> bytes:
    return record.as_json().encode()


def _instant(call: Call, name: str) -> datetime:
    text = call.params.get(name)
    if text is None:
        raise RefusedCallError(call, 400, f"{name} is required", field=name.capitalize())
    try:
        return moment(text)
    except ValueError:
        detail = f"{name} must be a date or date-time of ISO 8601"
        raise RefusedCallError(call, 400, detail, field=name.capitalize()) from None


def _cursor(place: str, offset: int) -> str:
    return base64.urlsafe_b64encode(f"{offset} {place}".encode("utf-8", "replace")).decode()


def _read_cursor(call: Call, place: str, cursor: str) -> int:
    """Where a cursor points; it is good only for the list and the window it was given for."""
    try:
        offset = int(base64.b64decode(cursor, altchars=b"-_", validate=True).partition(b" ")[0])
    except (binascii.Error, ValueError):
        offset = -1
    if offset < 0 or _cursor(place, offset) != cursor:
        raise RefusedCallError(call, 400, "cursor is not one of this list and window", field="Cursor")
    return offset
