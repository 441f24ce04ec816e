# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The ASGI application: counting, faults and control around the emulated APIs; knows none of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from limio_limitrail.emulator import start_page, wire
from limio_limitrail.emulator.compression import Compressor
from limio_limitrail.emulator.exchange import Call, Reply, message
from limio_limitrail.emulator.faults import EARLY_KINDS, Fault, early_reply, spoil

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from typing import Any

    from starlette.types import Receive, Scope, Send

    from limio_limitrail.emulator.counters import Counters
    from limio_limitrail.emulator.exchange import Surface
    from limio_limitrail.emulator.faults import FaultBoard

CONTROL_PREFIX = "/_emulator/"
_GZIP_FROM = 1024


class App:
    """Takes requests off the wire and sends answers, spoilt or not."""

    def __init__(
        self,
        surfaces: Sequence[Surface],
        control: Callable[[Call], Reply],
        counters: Counters,
        faults: FaultBoard,
        lines: wire.Lines,
        *,
        compress: Callable[[], bool],
        doors: Mapping[int, Sequence[Surface]] | None = None,
    ) -> None:
        """``doors`` are the ports at which other APIs than ``surfaces`` are served, and no control."""
        self.hooks: list[Callable[[Call], Reply | None]] = []
        self.pause: Callable[[float], Awaitable[None]] = asyncio.sleep
        self._compressor = Compressor()
        self._surfaces = surfaces
        self._doors = doors or {}
        self._control = control
        self._counters = counters
        self._faults = faults
        self._lines = lines
        self._compress = compress
        self._previous_rows: dict[str, bytes] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        call = Call(request.method, scope["path"], scope["query_string"].decode("latin-1"), headers, body)
        door = self._doors.get((scope.get("server") or ("", 0))[1])
        if door is None and (call.path.startswith(CONTROL_PREFIX) or _asks_for_start_page(call)):
            # In another thread, so that a long digest does not hold up the API.
            reply = await asyncio.to_thread(self._control, call)
            await self._respond(reply, reply.content(), reply.headers)(scope, receive, send)
            return
        surfaces = self._surfaces if door is None else door
        surface = next((one for one in surfaces if one.owns(call.path)), None)
        await self._counted(call, surface, scope, receive, send)

    async def _counted(self, call: Call, surface: Surface | None, scope: Scope, receive: Receive, send: Send) -> None:
        line = self._lines.find(scope.get("client"), scope.get("server"))
        if line is not None and not line.counted:
            line.counted = True
            self._counters.connection()
        entry = self._counters.begin(call)
        template, status, sent = call.path, 0, 0
        fault: Fault | None = None
        try:
            replaced = self._hooked(call)
            seconds, fault = self._faults.take(call) if replaced is None else (0.0, None)
            if seconds:
                await self.pause(seconds)
            if fault is not None and fault.kind == "reset":
                await self._break(line, receive)
                return
            reply = replaced or self._answer(call, surface, fault)
            template = reply.template or call.path
            if fault is not None and fault.kind == "latency_after":
                await self.pause(fault.seconds)
            if fault is not None and fault.kind == "reset_after":
                await self._break(line, receive)
                return
            content, headers = self._encoded(call, reply, fault)
            status = reply.status
            if fault is not None and fault.kind == "truncated" and line is not None:
                head = {"content-type": reply.content_type, **headers}
                sent = wire.send_truncated(line, status, head, content)
                await _gone(receive)
                return
            # Counted before it is sent: whoever has the answer also finds it counted.
            sent = len(content)
            self._counters.end(entry, template, status, sent, fault=fault.kind if fault else None)
            entry = None  # type: ignore[assignment]
            await self._respond(reply, content, headers)(scope, receive, send)
        finally:
            if entry is not None:
                self._counters.end(entry, template, status, sent, fault=fault.kind if fault else None)

    def _hooked(self, call: Call) -> Reply | None:
        for hook in list(self.hooks):
            try:
                replaced = hook(call)
            except Exception as problem:  # noqa: BLE001 - it is the test's own code: say in the answer what it raised
                return message(500, f"the on_request callback raised {type(problem).__name__}: {problem}")
            if replaced is not None:
                return replaced
        return None

    def _answer(self, call: Call, surface: Surface | None, fault: Fault | None) -> Reply:
        if fault is not None and fault.kind in EARLY_KINDS:
            early = early_reply(fault, message if surface is None else partial(surface.error, call))
            if early is not None:
                return early
        reply = surface.answer(call) if surface is not None else message(404, "Not Found")
        page = reply.page
        if fault is not None and fault.kind == "status_after":
            lost = early_reply(fault, message if surface is None else partial(surface.error, call))
            return replace(lost or reply, template=reply.template)
        if fault is not None:
            reply = spoil(fault, reply, self._previous_rows.get(call.path))
        if page is not None and (page.cursor or page.sent):
            self._previous_rows[call.path] = page.lists[0][1]
        return reply

    def _encoded(self, call: Call, reply: Reply, fault: Fault | None) -> tuple[bytes, dict[str, str]]:
        content = reply.content()
        if fault is not None and fault.kind == "wrong_encoding":
            return content, {**reply.headers, "content-encoding": "gzip"}
        accepts = "gzip" in call.headers.get("accept-encoding", "")
        if accepts and len(content) >= _GZIP_FROM and self._compress():
            return self._compressor.gzip(content), {**reply.headers, "content-encoding": "gzip"}
        return content, dict(reply.headers)

    def _respond(self, reply: Reply, content: bytes, headers: dict[str, str]) -> Response:
        return Response(content, reply.status, headers, media_type=reply.content_type)

    async def _break(self, line: wire.Line | None, receive: Receive) -> None:
        if line is not None:
            wire.reset(line)
        await _gone(receive)


def _asks_for_start_page(call: Call) -> bool:
    return call.path in start_page.PATHS and call.method in {"GET", "HEAD"}


async def _gone(receive: Receive) -> None:
    """Wait until the server has noticed that the connection is closed, so that it does not try to answer."""
    event: Any = {}
    while event.get("type") != "http.disconnect":
        event = await receive()
