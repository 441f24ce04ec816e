# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The emulated Limio account: what its endpoints share."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limio_limitrail.emulator.cursors import CursorBook
from limio_limitrail.emulator.exchange import Page, RefusedError, Reply, message
from limio_limitrail.emulator.oauth import TokenDesk
from limio_limitrail.emulator.tenant import Tenant

if TYPE_CHECKING:
    from collections.abc import Callable

    from limio_limitrail.emulator.exchange import Call
    from limio_limitrail.emulator.options import EmulatorOptions
    from limio_limitrail.emulator.overrides import Placed

_WHOLE = re.compile(r"^[0-9]{1,9}$")


@dataclass
class Account:
    """The options, the data, the tokens, the cursors and the lists that tests have put."""

    options: EmulatorOptions
    tenant: Tenant
    desk: TokenDesk
    cursors: CursorBook
    placed: dict[str, Placed] = field(default_factory=dict)

    @classmethod
    def of(cls, options: EmulatorOptions) -> Account:
        """A fresh account."""
        tenant = Tenant(options.seed, options.size, options.start)
        return cls(options, tenant, TokenDesk(options), CursorBook(options))

    def configure(self, options: EmulatorOptions) -> None:
        """Use other options from now on; the data stay what they are."""
        self.options = self.desk.options = self.cursors.options = options

    def limit(self, text: str | None, name: str = "limit") -> int:
        """The page size asked for; something else than a whole number of at least 1 is answered with 502."""
        if text is None:
            wanted = self.options.default_limit
        elif _WHOLE.match(text) and int(text) > 0:
            wanted = int(text)
        else:
            raise RefusedError(message(502, f"Invalid value for {name}"))
        return wanted if self.options.max_limit is None else min(wanted, self.options.max_limit)

    def cursor_page(
        self, call: Call, place: str, first: int, total: int, limit: int | None, rows: Callable[[int, int], bytes]
    ) -> Page:
        """A page of a list that is read with the cursor string ``queryMore``."""
        sent = call.params.get("queryMore")
        if self.options.object_cursor == "scroll":
            return self._scroll_page(place, first, total, limit, rows, sent)
        start = self.cursors.offset(place, sent) if sent else first
        stop = min(start + (limit or self.options.default_limit), total)
        body = rows(start, stop) if stop > start else b""
        last_is_empty = self.options.end_form == "empty_items" and stop > start
        cursor = self.cursors.issue(place, stop) if stop < total or last_is_empty else None
        return Page((("items", body),), cursor, sent, end=self.options.end_form)

    def _scroll_page(
        self, place: str, first: int, total: int, limit: int | None, rows: Callable[[int, int], bytes], sent: str | None
    ) -> Page:
        """The page where a scroll stands, which is the next one from now on. It has rows or not, it has an id."""
        if sent is None:
            size = limit or self.options.default_limit
            cursor = self.cursors.open_scroll(place, at=first, total=total, size=size, rows=rows)
        else:
            cursor = sent
        state = self.cursors.scroll(cursor, place)
        start, stop = state["at"], min(state["at"] + state["size"], state["total"])
        state["at"] = max(start, stop)
        if sent is not None and self.options.scroll_ids == "change":
            cursor = self.cursors.another_id(sent)
        body = state["rows"](start, stop) if stop > start else b""
        return Page((("items", body),), cursor, sent)


def page_reply(page: Page, template: str) -> Reply:
    """The answer that carries a page."""
    return Reply(page=page, template=template)
