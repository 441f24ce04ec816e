# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A list as a server on this machine, so quick that it stands in nobody's way: ``source.py RECORDS PAGE MILLISECONDS``.

It answers as Limio's objects and its token endpoint do, from memory: nested records of about 900 bytes, ids apart all alike. It
prints its port.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import threading
import time
from urllib.parse import parse_qs, urlsplit

MARK = b"00000000"
BLOCKS = 20
"""Pages that differ in more than their ids; they come round again."""


def make_record(draw: random.Random) -> bytes:
    """Make a record whose id ends in `MARK`."""

    def word(*words: str) -> str:
        return draw.choice(words)

    def price() -> dict[str, str]:
        return {"amount": f"{draw.randrange(100, 9999) / 100}", "currencyCode": word("EUR", "USD", "GBP")}

    def moment() -> str:
        return (
            f"2026-{draw.randrange(1, 11):02}-{draw.randrange(1, 29):02}T{draw.randrange(24):02}:{draw.randrange(60):02}:07.000Z"
        )

    def line() -> dict[str, object]:
        return {"id": f"{draw.getrandbits(64):016x}", "product": f"/products/{word('all', 'web')}", "price": price()}

    return json.dumps(
        {
            "id": f"sub-{MARK.decode()}",
            "name": f"{word('Monthly', 'Yearly')} {word('all access', 'web only', 'print')}",
            "status": word("active", "cancelled", "pending"),
            "reference": f"A-{draw.getrandbits(40):010x}",
            "owner": f"cus-{draw.getrandbits(96):024x}",
            "created": moment(),
            "updated": moment(),
            "record_type": "subscription",
            "mode": "production",
            "quantity": draw.randrange(1, 9),
            "recurring": draw.random() < 0.8,
            "data": {
                "offer": {"path": f"/offers/{draw.getrandbits(24):06x}", "price": price(), "lines": [line(), line()]},
                "attributes": {"source": word("web", "app", "desk"), "consents": [word("news", "partners")]},
                "address": {
                    "street": f"Korenmarkt {draw.randrange(300)}",
                    "city": word("Ghent", "Lille", "Turin"),
                    "code": "9000",
                },
            },
            "terms": [{"from": moment(), "to": moment()}, {"from": moment(), "to": moment()}],
        },
        separators=(",", ":"),
    ).encode()


class Source:
    """The list.

    :param records: how many there are.
    :param page: how many of them a page has.
    :param latency: seconds before each page.
    """

    def __init__(self, *, records: int, page: int, latency: float) -> None:
        self._pages = records // page
        self._page = page
        self._latency = latency
        draw = random.Random(4711)
        self._blocks = [self._block([make_record(draw) for _ in range(page)]) for _ in range(min(BLOCKS, self._pages))]
        self.tokens = 0

    def _block(self, records: list[bytes]) -> tuple[bytes, list[int]]:
        """Give a page's body and where the ids end in it."""
        start = b'{"items":['
        offsets, at = [], len(start)
        for one in records:
            offsets.append(at + one.index(MARK))
            at += len(one) + 1
        return start + b",".join(records) + b'],"queryMore":"', offsets

    def answer(self, target: str) -> bytes:
        """Give the body that belongs to a request's path and query."""
        parts = urlsplit(target)
        if parts.path.endswith("/token"):
            self.tokens += 1
            return b'{"access_token":"token-of-the-bench","token_type":"Bearer","expires_in":3600}'
        time.sleep(self._latency)
        number = int(parse_qs(parts.query).get("queryMore", ["0"])[0])
        block, offsets = self._blocks[number % len(self._blocks)]
        body = bytearray(block)
        for place, offset in enumerate(offsets):
            body[offset : offset + 8] = b"%08d" % (number * self._page + place)
        more = str(number + 1) if number + 1 < self._pages else ""
        return bytes(body) + more.encode() + b'"}'

    def serve(self, connection: socket.socket) -> None:
        """Answer one connection until it is closed."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        waiting = b""
        with connection:
            while True:
                while b"\r\n\r\n" not in waiting:
                    came = connection.recv(65536)
                    if not came:
                        return
                    waiting += came
                head, _, waiting = waiting.partition(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                length = next((int(line[15:]) for line in lines if line.lower().startswith("content-length:")), 0)
                while len(waiting) < length:
                    waiting += connection.recv(65536)
                waiting = waiting[length:]
                body = self.answer(lines[0].split(" ")[1])
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
                connection.sendall(body)


def main(records: int, page: int, milliseconds: float) -> None:
    source = Source(records=records, page=page, latency=milliseconds / 1000)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=source.serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
