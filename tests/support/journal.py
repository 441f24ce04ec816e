# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""An API that keeps a journal of what it carried out, on plain sockets. It shares no code with the package or its emulator."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

REASONS = {200: "OK", 204: "No Content", 400: "Bad Request", 404: "Not Found", 409: "Conflict"}
SOON = 0.004
"""Seconds after an answer at which it comes once more."""

CODE = "USAGE_ALREADY_EXISTS"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What goes back.

    :param body: None: the decision, with a reservation and a trace id of its own.
    """

    status: int = 200
    body: bytes | None = None
    content_type: str = "application/json"


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What becomes of a request.

    :param in_front: whether it is answered by something in front of the API, which looks at no key.
    :param done: whether the row is carried out, unless its key is known.
    :param answer: what goes back, unless the key is known.
    :param breaks: where the answer breaks off: ``nowhere``, ``before`` its first byte, in its ``middle``.
    :param again: when the answer is sent once more: ``never``, ``at once``, ``soon``, or ``with the next request``, whose answer
        then comes after it.
    """

    in_front: bool = False
    done: bool = True
    answer: Answer = Answer()
    breaks: str = "nowhere"
    again: str = "never"


def problem(status: int, code: str | None = None, title: str = "The request is not valid") -> Answer:
    found = {"title": title, "status": status, **({"errorCode": code} if code else {})}
    return Answer(status=status, body=json.dumps(found).encode(), content_type="application/problem+json")


def page(status: int) -> Answer:
    return Answer(status=status, body=b"<html><body>This is the gateway.</body></html>", content_type="text/html")


def said(text: str, status: int = 200) -> Fate:
    """The row is carried out, and this is what is said of it."""
    return Fate(answer=Answer(status=status, body=text.encode()))


FATES: Mapping[str, Fate] = MappingProxyType(
    {
        "answer": Fate(),
        "deny": Fate(done=False, answer=Answer(body=b'{"decision":"DENIED_BY_POLICY"}')),
        # Not carried out, and said so.
        "refuse 400": Fate(done=False, answer=problem(400, "INVALID")),
        "refuse 404": Fate(done=False, answer=problem(404, "ACCOUNT_NOT_FOUND")),
        "refuse 409": Fate(done=False, answer=problem(409, "IN_CONFLICT")),
        "refuse 409 exists": Fate(done=False, answer=problem(409, CODE)),
        "refuse 410": Fate(done=False, answer=problem(410, "GONE")),
        "refuse 412": Fate(done=False, answer=Answer(status=412, body=b"")),
        "refuse 413": Fate(done=False, answer=page(413)),
        "refuse 422": Fate(done=False, answer=problem(422, "UNPROCESSABLE")),
        "refuse 423": Fate(done=False, answer=problem(423)),
        "refuse 425": Fate(done=False, answer=Answer(status=425, body=b'"too early"')),
        # Nobody knows.
        "lost after": Fate(breaks="before"),
        "lost before": Fate(done=False, breaks="before"),
        "half": Fate(breaks="middle"),
        "500 after": Fate(answer=Answer(status=500, body=b"")),
        "504 after": Fate(answer=page(504)),
        "408": Fate(in_front=True, answer=Answer(status=408, body=b"")),
        "503 before": Fate(in_front=True, answer=page(503)),
        "500 before": Fate(in_front=True, answer=page(500)),
        # A success that says nothing.
        "html": Fate(answer=page(200)),
        "html of a gateway": Fate(in_front=True, answer=page(200)),
        "array": said('[{"decision":"ALLOWED"}]'),
        "empty": said(""),
        "204": Fate(answer=Answer(status=204, body=b"")),
        "string": said('"ALLOWED"'),
        "number": said("1"),
        "null": said("null"),
        "no decision": said('{"status":"ok"}'),
        "nested": said('{"result":{"decision":"ALLOWED"}}'),
        "lower case": said('{"decision":"allowed"}'),
        "list": said('{"decision":["ALLOWED"]}'),
        "another word": said('{"decision":"QUEUED"}'),
        "two decisions": said('{"decision":"DENIED_BY_POLICY","decision":"ALLOWED"}'),
        "error beside": Fate(in_front=True, answer=Answer(body=b'{"decision":"ALLOWED","error":{"code":"E1"}}')),
        "errors instead": Fate(in_front=True, answer=Answer(body=b'{"errors":[{"code":"duplicate"}]}')),
        "202": said('{"id":"7"}', 202),
        "206": said('{"decision":"ALLOWED"}', 206),
        # In front of the API.
        "401": Fate(in_front=True, answer=problem(401)),
        "403": Fate(in_front=True, answer=problem(403)),
        "407": Fate(in_front=True, answer=page(407)),
        "429": Fate(in_front=True, answer=Answer(status=429, body=b"")),
        "gateway 404": Fate(in_front=True, answer=page(404)),
        # An answer that comes twice.
        "twice at once": Fate(again="at once"),
        "twice soon": Fate(again="soon"),
        "twice with the next": Fate(again="with the next request"),
    }
)
"""What may become of a request, by name."""

KNOWN: Mapping[str, Answer | None] = MappingProxyType(
    {
        "repeats its answer": None,
        "409 exists": problem(409, CODE, "This usage exists"),
        "409 in progress": problem(409, "REQUEST_IN_PROGRESS", "A request with this key is in progress"),
        "409 page": page(409),
        "409 empty": Answer(status=409, body=b""),
        "400 problem": problem(400, "DUPLICATE_KEY", "The key was used"),
        "400 text": Answer(status=400, body=b"already exists", content_type="text/plain"),
        "422 errors": Answer(status=422, body=b'{"errors":[{"code":"taken","field":"idempotencyKey"}]}'),
        "410 problem": problem(410, "KEY_USED"),
        "200 duplicate": Answer(body=b'{"status":"DUPLICATE"}'),
    }
)
"""What an API may answer to a key that it knows, by name. One that keeps no keys carries the row out again: ``keeps no keys``."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A usage request that has come.

    :param number: among all, from 1.
    :param nth: among those with the same key, from 1.
    """

    number: int
    nth: int
    key: str
    row: str
    path: str
    body: Mapping[str, Any]
    connection: int


@dataclass(frozen=True, kw_only=True)
class Done:
    """What was carried out.

    :param row: the body's ``externalAccount``, which tells rows apart whatever their keys.
    """

    key: str
    row: str
    body: Mapping[str, Any]
    at: float
    connection: int
    decision: str
    reservation: str


class JournalServer:
    """The API. A context manager.

    :param known: what it answers to a key that it knows: one of `KNOWN`, or ``keeps no keys``.
    :param window: seconds for which it knows a key; none: for ever.
    """

    def __init__(self, *, known: str = "repeats its answer", window: float | None = None) -> None:
        self.known = known
        self.window = window
        self.journal: list[Done] = []
        self.calls: list[Call] = []
        self.denied: set[str] = set()
        """Keys of rows that were denied."""
        self.fates: dict[str, list[Fate]] = {}
        """By row: what becomes of its next requests."""
        self.fate: Callable[[Call], Fate] = lambda call: FATES["answer"]
        """What becomes of all other requests."""
        self.reached: Callable[[str, Call], None] = lambda moment, call: None
        """Called at the moments ``received``, ``done`` and ``answered``."""
        self.ids = True
        """Whether answers have a reservation and a trace id."""
        self._decided: dict[str, tuple[float, Answer]] = {}
        self._seen: Counter[str] = Counter()
        self._late = 0.0
        self._lock = threading.Lock()
        self._open: dict[int, socket.socket] = {}
        self._connections = 0

    def __enter__(self) -> JournalServer:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in list(self._open.values()):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def connection(self, *, client: str = "acme", **extra: Any) -> dict[str, Any]:
        """An Airflow connection to it, as its fields."""
        more = {"scope": "limitrail.usage.write", "read_timeout": 5, **extra}
        return {
            "conn_type": "limitrail",
            "host": f"http://127.0.0.1:{self.port}",
            "login": client,
            "password": "client-secret-0123456789",
            "extra": more,
        }

    @property
    def now(self) -> float:
        return time.monotonic() + self._late

    def wait(self, seconds: float) -> None:
        """Let time pass here."""
        self._late += seconds

    def times(self) -> Counter[str]:
        """How often each row was carried out."""
        return Counter(done.row for done in self.journal)

    def quiet(self) -> None:
        """Wait until all that a client which has ended has sent is worked on."""
        until = time.monotonic() + 10
        while self._open:
            assert time.monotonic() < until, "a connection never ends"
            time.sleep(0.001)

    # -- sockets -----------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                found, _ = self._listener.accept()
                found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections += 1
                self._open[self._connections] = found
                threading.Thread(target=self._serve, args=(found, self._connections), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        waiting: deque[bytes] = deque()
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as source:
            while (request := _read(source)) is not None:
                path, headers, body = request
                if path.endswith("/connect/token"):
                    token = {"access_token": f"token-{uuid.uuid4().hex}", "token_type": "Bearer", "expires_in": 3600}
                    connection.sendall(_written(Answer(body=json.dumps(token).encode())))
                    continue
                while waiting:
                    connection.sendall(waiting.popleft())
                if not self._answer(connection, self._call(path, headers, body, number), waiting):
                    break
        self._open.pop(number, None)

    def _call(self, path: str, headers: Mapping[str, str], body: bytes, connection: int) -> Call:
        assert headers["authorization"].startswith("Bearer token-")
        found = json.loads(body) if body else {}
        key = headers["idempotency-key"]
        with self._lock:
            self._seen[key] += 1
            call = Call(
                number=len(self.calls) + 1,
                nth=self._seen[key],
                key=key,
                row=str(found.get("externalAccount", path)),
                path=path,
                body=found,
                connection=connection,
            )
            self.calls.append(call)
        return call

    def _answer(self, connection: socket.socket, call: Call, waiting: deque[bytes]) -> bool:
        """Answer a request; False where the connection ends."""
        self.reached("received", call)
        own = self.fates.get(call.row)
        fate = own.pop(0) if own else self.fate(call)
        answer = fate.answer if fate.in_front else self._carry_out(call, fate)
        written = _written(answer)
        if fate.breaks != "nowhere":
            connection.sendall(written[: len(written) // 2] if fate.breaks == "middle" else b"")
            # A reset, and not an end: nothing says that all was read.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        connection.sendall(written + (written if fate.again == "at once" else b""))
        self.reached("answered", call)
        match fate.again:
            case "soon":
                time.sleep(SOON)
                connection.sendall(written)
            case "with the next request":
                waiting.append(written)
        return True

    # -- the API -----------------------------------------------------------------------------------------------------

    def _carry_out(self, call: Call, fate: Fate) -> Answer:
        with self._lock:
            found = self._decided.get(call.key)
            if found is not None and self.known != "keeps no keys" and (self.window is None or self.now < found[0] + self.window):
                # What was denied does not exist, and an API that says so of a key knows that.
                repeats = self.known == "409 exists" and call.key in self.denied
                return found[1] if repeats else KNOWN[self.known] or found[1]
            answer = fate.answer
            if fate.done:
                denied = float(call.body.get("amount", 0)) > 1000
                reservation = f"r-{uuid.uuid4().hex}"
                decision = "DENIED_BY_POLICY" if denied else "ALLOWED"
                ids = {"reservationId": reservation, "traceId": f"t-{uuid.uuid4().hex}"} if self.ids else {}
                usual = Answer(body=json.dumps({"decision": decision, **ids}).encode())
                answer = usual if answer.body is None else answer
                self._decided[call.key] = (self.now, usual)
                if denied:
                    self.denied.add(call.key)
                else:
                    self.journal.append(
                        Done(
                            key=call.key,
                            row=call.row,
                            body=call.body,
                            at=self.now,
                            connection=call.connection,
                            decision=decision,
                            reservation=reservation,
                        )
                    )
        if fate.done:
            self.reached("done", call)
        return answer


def _read(source: Any) -> tuple[str, dict[str, str], bytes] | None:
    """Read a request: path, headers with names in lower case, body; none where the connection has ended."""
    line = source.readline()
    if not line:
        return None
    _, path, _ = line.decode().split(" ", 2)
    headers = {}
    while (header := source.readline().decode().strip()) != "":
        name, _, value = header.partition(":")
        headers[name.strip().lower()] = value.strip()
    return path, headers, source.read(int(headers.get("content-length", 0)))


def _written(answer: Answer) -> bytes:
    body = answer.body or b""
    head = [f"HTTP/1.1 {answer.status} {REASONS.get(answer.status, 'Word')}"]
    if answer.status != 204:
        head += [f"Content-Type: {answer.content_type}", f"Content-Length: {len(body)}"]
    if answer.status == 429:
        head.append("Retry-After: 0")
    return "\r\n".join([*head, "", ""]).encode() + body
