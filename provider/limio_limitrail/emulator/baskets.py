# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""``GET /api/checkout/abandoned``: the window is on creation, and both parameters are required."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limio_limitrail.emulator.account import Account, page_reply
from limio_limitrail.emulator.exchange import Reply, message
from limio_limitrail.emulator.overrides import Placed
from limio_limitrail.emulator.tenant import BASKETS
from limio_limitrail.emulator.times import parse

if TYPE_CHECKING:
    from limio_limitrail.emulator.exchange import Call

TEMPLATE = "/api/checkout/abandoned"


def abandoned(account: Account, call: Call, placed: Placed | None, template: str = TEMPLATE) -> Reply:
    """A page of the baskets created at or after ``createdAfter``, completed ones among them."""
    for name in ("limit", "createdAfter"):
        if name not in call.params:
            return message(400, f"Missing required parameter: {name}")
    limit = account.limit(call.params["limit"])
    try:
        after = parse(call.params["createdAfter"])
    except ValueError:
        return message(400, "createdAfter must be an ISO date-time")
    if placed is not None:
        rows = [row for row, value in zip(placed.rows, placed.parsed(), strict=True) if _created(value) >= after]
        page = account.cursor_page(
            call, f"placed {template}", 0, len(rows), limit, lambda start, stop: b",".join(rows[start:stop])
        )
        return page_reply(page, template)
    tenant = account.tenant
    page = account.cursor_page(
        call,
        BASKETS,
        tenant.baskets_from(after),
        tenant.count(BASKETS),
        limit,
        lambda start, stop: tenant.rows(BASKETS, start, stop),
    )
    return page_reply(page, template)


def _created(value: object) -> int:
    """When a put record says it was created; one that does not say is always inside the window."""
    try:
        return parse(value["created"])  # type: ignore[index]
    except (TypeError, KeyError, ValueError, AttributeError):
        return 1 << 62
