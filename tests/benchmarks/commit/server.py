# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRail's token endpoint and its commit endpoint, so quick that they stand in nobody's way: ``server.py MILLISECONDS``.

Every row is allowed. ``GET /counts`` tells how many requests came, how many different keys they had, and how many tokens were
minted, and begins to count anew. It prints its port.
"""

from __future__ import annotations

import asyncio
import json
import sys

_TOKEN = b'{"access_token":"token-of-the-bench-1234567890","token_type":"Bearer","expires_in":3600}'
_DECISION = b'{"decision":"ALLOWED","reservationId":"res-%032x","traceId":"00-%032x-01"}'

_SPREAD = 0x9E3779B97F4A7C15F39CC0605CEDC835
"""An odd number: its multiples look like random ids, and none comes twice."""


def _answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Counts:
    """What was asked for since the last look."""

    def __init__(self) -> None:
        self.keys: set[bytes] = set()
        self.requests = 0
        self.tokens = 0

    def take(self) -> bytes:
        """Tell the counts, and begin anew."""
        told = {"keys": len(self.keys), "requests": self.requests, "tokens": self.tokens}
        self.keys, self.requests, self.tokens = set(), 0, 0
        return json.dumps(told).encode()


class Connection(asyncio.Protocol):
    """One client's connection; requests may come one after the other.

    :param counts: where they are counted.
    :param latency: seconds before a row is answered.
    """

    def __init__(self, counts: Counts, *, latency: float) -> None:
        self._counts = counts
        self._latency = latency
        self._waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        while (end := self._waiting.find(b"\r\n\r\n")) >= 0:
            head = self._waiting[:end].lower()
            whole = end + 4 + int(_header(head, b"content-length") or 0)
            if len(self._waiting) < whole:
                return
            self._waiting = self._waiting[whole:]
            self._take(head)

    def _take(self, head: bytes) -> None:
        target = head.split(b" ", 2)[1]
        if target == b"/counts":
            self._transport.write(_answer(self._counts.take()))
        elif target.endswith(b"/token"):
            self._counts.tokens += 1
            self._transport.write(_answer(_TOKEN))
        else:
            self._counts.requests += 1
            self._counts.keys.add(_header(head, b"idempotency-key"))
            # Each answer has ids of its own, as an API's have.
            number = self._counts.requests
            decision = _answer(_DECISION % (number * _SPREAD % 2**128, number * _SPREAD * _SPREAD % 2**128))
            if self._latency:
                self._loop.call_later(self._latency, self._transport.write, decision)
            else:
                self._transport.write(decision)


def _header(head: bytes, name: bytes) -> bytes:
    """Give a header's value; nothing where there is none."""
    at = head.find(b"\r\n" + name + b":")
    if at < 0:
        return b""
    at += len(name) + 3
    end = head.find(b"\r\n", at)
    return head[at : end if end >= 0 else len(head)].strip()


async def main(milliseconds: float) -> None:
    counts = Counts()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(counts, latency=milliseconds / 1000), "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
