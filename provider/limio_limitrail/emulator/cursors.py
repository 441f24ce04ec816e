# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Cursors: opaque strings that say where the next page begins, and that can expire."""

from __future__ import annotations

import base64
import binascii
import struct
import time
from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator.draws import key
from limio_limitrail.emulator.exchange import RefusedError, message

if TYPE_CHECKING:
    from limio_limitrail.emulator.options import EmulatorOptions

# In base64 this begins with "+/+/", and the packed length leaves "=" at the end: a cursor that
# is not URL-encoded arrives broken, as it would at the real service.
_MARK = b"\xfb\xff\xbf"
_FORM = struct.Struct(">3sQIIQQH")
_MOST_SCROLLS = 2000
_ELASTIC = b"\x0equeryThenFetch"


class CursorBook:
    """Issues cursors and reads them back; cursors of lists carry their position themselves."""

    def __init__(self, options: EmulatorOptions) -> None:
        self.options = options
        self._epoch = 1
        self._tick = 0
        self._serial = 0
        self._used: set[str] = set()
        self._scrolls: dict[str, dict[str, Any]] = {}

    def tick(self) -> None:
        """One more API request was seen."""
        self._tick += 1

    def expire(self) -> None:
        """No cursor issued so far is any good from now on."""
        self._epoch += 1
        self._used.clear()
        self._scrolls.clear()

    def issue(self, place: str, offset: int) -> str:
        """A cursor for the rows of ``place`` from ``offset`` on."""
        options = self.options
        # Without limits on its life a cursor is the same every time, as the pages are.
        lives = options.cursor_ttl_seconds is not None or options.cursor_ttl_requests is not None
        single = options.object_cursor == "single_use"
        self._serial += single
        issued = (self._tick, time.monotonic_ns() // 1_000_000) if lives else (0, 0)
        body = _FORM.pack(_MARK, key(place), offset, self._epoch, *issued, self._serial & 0xFFFF if single else 0)
        return base64.b64encode(body + struct.pack(">I", key(body) & 0xFFFFFFFF)).decode()

    def offset(self, place: str, cursor: str) -> int:
        """Where a cursor of ``place`` points; refuses a broken (502) and an expired one."""
        try:
            packed = base64.b64decode(cursor, validate=True)
            body = packed[:-4]
            mark, where, offset, epoch, tick, moment, _ = _FORM.unpack(body)
        except (binascii.Error, struct.error, ValueError):
            raise RefusedError(message(502, "Invalid queryMore")) from None
        if mark != _MARK or where != key(place) or packed[-4:] != struct.pack(">I", key(body) & 0xFFFFFFFF):
            raise RefusedError(message(502, "Invalid queryMore"))
        if epoch != self._epoch or self._is_old(tick, moment):
            raise self.expired()
        if self.options.object_cursor == "single_use":
            if cursor in self._used:
                raise self.expired()
            self._used.add(cursor)
        return int(offset)

    def open_scroll(self, alias: str, **state: Any) -> str:
        """A scroll id; what it stands for is held here, as the position is held on the server."""
        return self._name_scroll({**state, "alias": alias, **self._issued()})

    def another_id(self, cursor: str) -> str:
        """Another id of the same scroll; the ones before stay good as well."""
        return self._name_scroll(self._scrolls[cursor])

    def _name_scroll(self, state: dict[str, Any]) -> str:
        self._serial += 1
        if len(self._scrolls) >= _MOST_SCROLLS:
            del self._scrolls[next(iter(self._scrolls))]
        text = _ELASTIC + b"\xfb\xff\xbf" + struct.pack(">QI", key(state["alias"], self._serial), self._epoch) + b"\x00"
        cursor = base64.b64encode(text).decode()
        self._scrolls[cursor] = state
        return cursor

    def scroll(self, cursor: str, alias: str) -> dict[str, Any]:
        """The state of a scroll, with its life renewed as Elasticsearch does."""
        state = self._scrolls.get(cursor)
        if state is None or state["alias"] != alias:
            raise self.expired()
        if self._is_old(state["tick"], state["moment"]):
            del self._scrolls[cursor]
            raise self.expired()
        state.update(self._issued())
        return state

    def expired(self) -> RefusedError:
        """The answer to a cursor that has expired."""
        status = self.options.cursor_expired_status
        return RefusedError(message(status, "The cursor has expired or is not known"))

    def _issued(self) -> dict[str, int]:
        return {"tick": self._tick, "moment": time.monotonic_ns() // 1_000_000}

    def _is_old(self, tick: int, moment: int) -> bool:
        seconds, requests = self.options.cursor_ttl_seconds, self.options.cursor_ttl_requests
        if seconds is not None and time.monotonic_ns() // 1_000_000 - moment > seconds * 1000:
            return True
        return requests is not None and self._tick - tick > requests
