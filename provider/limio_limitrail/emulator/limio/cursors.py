# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Limio's cursors: opaque strings that name the start of the next page and can expire, and the pages read with them."""

from __future__ import annotations

import base64
import binascii
import struct
import time
from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator.core.http_messages import EmulatedPage, HttpError, message_reply
from limio_limitrail.emulator.core.random_values import hash64

if TYPE_CHECKING:
    from collections.abc import Callable

    from limio_limitrail.emulator.core.http_messages import Call
    from limio_limitrail.emulator.options import EmulatorOptions

# In base64 this begins with "+/+/", and the packed length leaves "=" at the end: a cursor that
# is not URL-encoded arrives broken, as it would at the real service.
_MARK = b"\xfb\xff\xbf"
_FORMAT = struct.Struct(">3sQIIQQH")
_MAX_SCROLLS = 2000
_ELASTIC = b"\x0equeryThenFetch"


class CursorStore:
    """Issues cursors and reads them back. A plain cursor holds its position itself; a scroll's is held here."""

    def __init__(self, options: EmulatorOptions) -> None:
        self.options = options
        self._epoch = 1
        self._request = 0
        self._serial = 0
        self._used: set[str] = set()
        self._scrolls: dict[str, dict[str, Any]] = {}

    def count_request(self) -> None:
        """Count one more API request, for cursors that expire after a number of them."""
        self._request += 1

    def expire(self) -> None:
        """Accept none of the cursors issued so far from now on."""
        self._epoch += 1
        self._used.clear()
        self._scrolls.clear()

    # -- pages -------------------------------------------------------------------------------------------------------

    def page(
        self, call: Call, list_name: str, *, total: int, limit: int, rows: Callable[[int, int], bytes], first: int = 0
    ) -> EmulatedPage:
        """Return the page of a list that the cursor ``queryMore`` of a request asks for.

        ``rows`` returns the rows from one position up to another, joined by commas; the list has those from ``first``
        up to ``total``.
        """
        sent = call.params.get("queryMore")
        if self.options.object_cursor == "scroll":
            return self._scroll_page(list_name, sent, {"at": first, "total": total, "size": limit, "rows": rows})
        start = self._offset(list_name, sent) if sent else first
        stop = min(start + limit, total)
        body = rows(start, stop) if stop > start else b""
        last_is_empty = self.options.end_form == "empty_items" and stop > start
        cursor = self._issue(list_name, stop) if stop < total or last_is_empty else None
        return EmulatedPage((("items", body),), cursor, sent, end=self.options.end_form)

    def _scroll_page(self, list_name: str, sent: str | None, opened: dict[str, Any]) -> EmulatedPage:
        """Return the page where a scroll stands, and move it on. Each page has an id, an empty one too."""
        cursor = self.open_scroll(list_name, **opened) if sent is None else sent
        state = self.scroll(cursor, list_name)
        start, stop = state["at"], min(state["at"] + state["size"], state["total"])
        state["at"] = max(start, stop)
        if sent is not None and self.options.scroll_ids == "change":
            cursor = self._name_scroll(self._scrolls[sent])  # the ids before it stay good as well
        body = state["rows"](start, stop) if stop > start else b""
        return EmulatedPage((("items", body),), cursor, sent)

    # -- cursors that hold their position ----------------------------------------------------------------------------

    def _issue(self, list_name: str, offset: int) -> str:
        options = self.options
        # Without limits on its life a cursor is the same every time, as the pages are.
        expires = options.cursor_ttl_seconds is not None or options.cursor_ttl_requests is not None
        single_use = options.object_cursor == "single_use"
        self._serial += single_use
        issued = (self._request, _now_ms()) if expires else (0, 0)
        serial = self._serial & 0xFFFF if single_use else 0
        body = _FORMAT.pack(_MARK, hash64(list_name), offset, self._epoch, *issued, serial)
        return base64.b64encode(body + struct.pack(">I", hash64(body) & 0xFFFFFFFF)).decode()

    def _offset(self, list_name: str, cursor: str) -> int:
        """Return the position of a cursor; refuse a broken (502) and an expired one."""
        try:
            packed = base64.b64decode(cursor, validate=True)
            body = packed[:-4]
            mark, name_hash, offset, epoch, request, issued_ms, _ = _FORMAT.unpack(body)
        except (binascii.Error, struct.error, ValueError):
            raise HttpError(message_reply(502, "Invalid queryMore")) from None
        if mark != _MARK or name_hash != hash64(list_name) or packed[-4:] != struct.pack(">I", hash64(body) & 0xFFFFFFFF):
            raise HttpError(message_reply(502, "Invalid queryMore"))
        if epoch != self._epoch or self._is_expired(request, issued_ms):
            raise self._expired_error()
        if self.options.object_cursor == "single_use":
            if cursor in self._used:
                raise self._expired_error()
            self._used.add(cursor)
        return int(offset)

    # -- scrolls -----------------------------------------------------------------------------------------------------

    def open_scroll(self, alias: str, **state: Any) -> str:
        """Open a scroll with a state, and return its id."""
        return self._name_scroll({**state, "alias": alias, "request": self._request, "issued_ms": _now_ms()})

    def scroll(self, cursor: str, alias: str) -> dict[str, Any]:
        """Return the state of a scroll, and renew its life as Elasticsearch does."""
        state = self._scrolls.get(cursor)
        if state is None or state["alias"] != alias:
            raise self._expired_error()
        if self._is_expired(state["request"], state["issued_ms"]):
            del self._scrolls[cursor]
            raise self._expired_error()
        state.update(request=self._request, issued_ms=_now_ms())
        return state

    def _name_scroll(self, state: dict[str, Any]) -> str:
        self._serial += 1
        if len(self._scrolls) >= _MAX_SCROLLS:
            del self._scrolls[next(iter(self._scrolls))]
        text = _ELASTIC + _MARK + struct.pack(">QI", hash64(state["alias"], self._serial), self._epoch) + b"\x00"
        cursor = base64.b64encode(text).decode()
        self._scrolls[cursor] = state
        return cursor

    def _expired_error(self) -> HttpError:
        return HttpError(message_reply(self.options.cursor_expired_status, "The cursor has expired or is not known"))

    def _is_expired(self, request: int, issued_ms: int) -> bool:
        seconds, requests = self.options.cursor_ttl_seconds, self.options.cursor_ttl_requests
        if seconds is not None and _now_ms() - issued_ms > seconds * 1000:
            return True
        return requests is not None and self._request - request > requests


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
