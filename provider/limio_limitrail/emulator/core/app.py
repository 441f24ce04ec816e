# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The ASGI application: counting, faults and control around the emulated APIs; knows none of them."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from limio_limitrail.emulator.core.connections import reset_connection, send_truncated
from limio_limitrail.emulator.core.faults import EARLY_KINDS, Fault, corrupt, early_reply
from limio_limitrail.emulator.core.http_messages import Call, Reply, message_reply
from limio_limitrail.emulator.core.lru_cache import LruCache

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from typing import Any

    from starlette.types import Receive, Scope, Send

    from limio_limitrail.emulator.core.connections import TcpConnection, TcpConnections
    from limio_limitrail.emulator.core.counters import RequestCounters
    from limio_limitrail.emulator.core.faults import FaultRules
    from limio_limitrail.emulator.core.http_messages import EmulatedApi

_GZIP_MIN_BYTES = 1024
_GZIP_CACHE_BYTES = 64 * 1024 * 1024


@dataclass(kw_only=True)
class App:
    """Reads requests, lets the API that owns the path answer, and sends the reply, with a fault in it or not.

    ``apis_by_port`` names the ports that serve other APIs than ``apis``, and no control. ``is_control`` selects the
    requests that ``control`` answers; those are neither counted nor subject to faults.
    """

    apis: Sequence[EmulatedApi]
    apis_by_port: Mapping[int, Sequence[EmulatedApi]]
    control: Callable[[Call], Reply]
    is_control: Callable[[Call], bool]
    counters: RequestCounters
    faults: FaultRules
    connections: TcpConnections
    hooks: Sequence[Callable[[Call], Reply | None]]
    compress: Callable[[], bool]
    sleep: Callable[[float], Awaitable[None]]
    #: The same page asked for twice is compressed once.
    _compressed: LruCache = field(default_factory=lambda: LruCache(_GZIP_CACHE_BYTES), init=False)
    _previous_rows: dict[str, bytes] = field(default_factory=dict, init=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        call = Call(request.method, scope["path"], scope["query_string"].decode("latin-1"), headers, body)
        apis = self.apis_by_port.get((scope.get("server") or ("", 0))[1])
        if apis is None and self.is_control(call):
            # In another thread, so that a long digest does not hold up the API.
            reply = await asyncio.to_thread(self.control, call)
            await _response(reply, reply.content(), reply.headers)(scope, receive, send)
            return
        api = next((one for one in (self.apis if apis is None else apis) if one.owns(call.path)), None)
        await self._serve(call, api, scope, receive, send)

    async def _serve(self, call: Call, api: EmulatedApi | None, scope: Scope, receive: Receive, send: Send) -> None:
        connection = self.connections.find(scope.get("client"), scope.get("server"))
        if connection is not None and not connection.counted:
            connection.counted = True
            self.counters.connection()
        entry = self.counters.begin(call)
        template, status, sent = call.path, 0, 0
        fault: Fault | None = None
        try:
            replaced = self._call_hooks(call)
            seconds, fault = self.faults.select(call) if replaced is None else (0.0, None)
            kind = fault.kind if fault is not None else None
            if seconds:
                await self.sleep(seconds)
            if kind == "reset":
                await _reset(connection, receive)
                return
            reply = replaced or self._answer(call, api, fault)
            template = reply.template or call.path
            if fault is not None and kind == "latency_after":
                await self.sleep(fault.seconds)
            if kind == "reset_after":
                await _reset(connection, receive)
                return
            content, headers = self._encoded(call, reply, kind)
            status = reply.status
            if kind == "truncated" and connection is not None:
                head = {"content-type": reply.content_type, **headers}
                sent = send_truncated(connection, status, head, content)
                await _wait_for_disconnect(receive)
                return
            # Counted before it is sent: a client that has the answer also finds it counted.
            sent = len(content)
            self.counters.end(entry, template, status, sent, fault=kind)
            entry = None  # type: ignore[assignment]
            await _response(reply, content, headers)(scope, receive, send)
        finally:
            if entry is not None:
                self.counters.end(entry, template, status, sent, fault=fault.kind if fault else None)

    def _call_hooks(self, call: Call) -> Reply | None:
        for hook in list(self.hooks):
            try:
                replaced = hook(call)
            except Exception as problem:  # noqa: BLE001 - it is the test's own code: say in the answer what it raised
                return message_reply(500, f"the on_request callback raised {type(problem).__name__}: {problem}")
            if replaced is not None:
                return replaced
        return None

    def _answer(self, call: Call, api: EmulatedApi | None, fault: Fault | None) -> Reply:
        error = message_reply if api is None else partial(api.error, call)
        early = early_reply(fault, error) if fault is not None and fault.kind in EARLY_KINDS else None
        if early is not None:
            return early
        reply = api.handle(call) if api is not None else message_reply(404, "Not Found")
        page = reply.page
        if fault is not None and fault.kind == "status_after":
            return replace(early_reply(fault, error) or reply, template=reply.template)
        if fault is not None:
            reply = corrupt(fault, reply, self._previous_rows.get(call.path))
        if page is not None and (page.cursor or page.sent):
            self._previous_rows[call.path] = page.lists[0][1]
        return reply

    def _encoded(self, call: Call, reply: Reply, fault_kind: str | None) -> tuple[bytes, dict[str, str]]:
        content = reply.content()
        if fault_kind == "wrong_encoding":
            return content, {**reply.headers, "content-encoding": "gzip"}
        accepts = "gzip" in call.headers.get("accept-encoding", "")
        if accepts and len(content) >= _GZIP_MIN_BYTES and self.compress():
            digest = hashlib.sha1(content, usedforsecurity=False).digest()
            compressed = self._compressed.fetch(digest, lambda: gzip.compress(content, 1, mtime=0))  # quickly rather than well
            return compressed, {**reply.headers, "content-encoding": "gzip"}
        return content, dict(reply.headers)


def _response(reply: Reply, content: bytes, headers: dict[str, str]) -> Response:
    return Response(content, reply.status, headers, media_type=reply.content_type)


async def _reset(connection: TcpConnection | None, receive: Receive) -> None:
    if connection is not None:
        reset_connection(connection)
    await _wait_for_disconnect(receive)


async def _wait_for_disconnect(receive: Receive) -> None:
    """Wait until the server has noticed that the connection is closed, so that it does not try to answer."""
    event: Any = {}
    while event.get("type") != "http.disconnect":
        event = await receive()
