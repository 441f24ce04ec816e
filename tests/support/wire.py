# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A server of bare sockets: it answers in all the ways in which servers do, and in some in which none should."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import ipaddress
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

TOKEN = b'{"access_token":"token-of-the-wire-1234567890","token_type":"Bearer","expires_in":3600}'
GOOD = b'{"decision":"ALLOWED"}'


@contextlib.contextmanager
def full_listener() -> Iterator[str]:
    """Listen with a queue that is full, so that no further connection comes about; gives the URL."""
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = opened.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def answer(status: int, body: bytes = b"", *, length: int | None = None, **headers: str) -> bytes:
    """Write an answer."""
    lines = [f"HTTP/1.1 {status} Word", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


class Behaviour:
    """What becomes of one request.

    :param sent: what is written.
    :param then: ``keep`` the connection, ``close`` it, ``reset`` it, or ``hang``.
    """

    def __init__(self, sent: bytes = b"", then: str = "keep") -> None:
        self.sent = sent
        self.then = then


_ZIPPED = gzip.compress(GOOD * 50)
BEHAVIOURS = {
    "200": Behaviour(answer(200, GOOD)),
    "201 without a body": Behaviour(answer(201)),
    "204": Behaviour(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "304": Behaviour(b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    **{
        f"{status}": Behaviour(answer(status, b'{"detail":"no","errorCode":"E1","field":"amount","traceId":"t-1"}'))
        for status in (400, 401, 403, 404, 405, 408, 409, 410, 413, 422, 425, 429, 500, 501, 502, 503, 504)
    },
    "429 with Retry-After": Behaviour(answer(429, b"{}", Retry_After="7")),
    "429 with a date": Behaviour(answer(429, b"{}", Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")),
    "429 with nonsense": Behaviour(answer(429, b"{}", Retry_After="soon")),
    "503 with Retry-After": Behaviour(answer(503, b"<html>", Retry_After="3", Content_Type="text/html")),
    "500 with a trace": Behaviour(answer(500, X_Request_Id="abc")),
    "reset before the answer": Behaviour(then="reset"),
    "closed before the answer": Behaviour(then="close"),
    "closed within the headers": Behaviour(b"HTTP/1.1 200 OK\r\nContent-Le", then="close"),
    "reset within the headers": Behaviour(b"HTTP/1.1 200 OK\r\nContent-Le", then="reset"),
    "reset within the body": Behaviour(answer(200, b'{"dec', length=40), then="reset"),
    "closed within the body": Behaviour(answer(200, b'{"dec', length=40), then="close"),
    "closed within an error's body": Behaviour(answer(503, b'{"dec', length=40), then="close"),
    "more than its length": Behaviour(answer(200, GOOD + b"more", length=len(GOOD)), then="close"),
    "without a length": Behaviour(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + GOOD, then="close"),
    "chunked": Behaviour(chunked(GOOD[:5], GOOD[5:])),
    "chunked and broken off": Behaviour(chunked(GOOD[:5], end=b""), then="close"),
    "chunked and no chunks": Behaviour(chunked(end=b"zz\r\nnonsense\r\n"), then="close"),
    "gzip": Behaviour(answer(200, _ZIPPED, Content_Encoding="gzip")),
    "chunked gzip": Behaviour(chunked(_ZIPPED[:9], _ZIPPED[9:]).replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n", 1)),
    "gzip cut short": Behaviour(answer(200, _ZIPPED[:-12], Content_Encoding="gzip")),
    "gzip broken off": Behaviour(answer(200, _ZIPPED[:-12], length=len(_ZIPPED), Content_Encoding="gzip"), then="close"),
    "no gzip": Behaviour(answer(200, GOOD, Content_Encoding="gzip")),
    "no deflate": Behaviour(answer(200, GOOD, Content_Encoding="deflate")),
    "an error that is no gzip": Behaviour(answer(503, GOOD, Content_Encoding="gzip")),
    "an encoding that nobody knows": Behaviour(answer(200, GOOD, Content_Encoding="x-own")),
    "silence": Behaviour(then="hang"),
    "silence within the body": Behaviour(answer(200, b'{"dec', length=40), then="hang"),
    "redirect on the same origin": Behaviour(answer(302, Location="/moved")),
    "redirect without a target": Behaviour(answer(302)),
    "redirect to another origin": Behaviour(answer(307, Location="http://127.0.0.2:9/x")),
    "redirect to a credential": Behaviour(answer(302, Location="/x?t=token-of-the-wire-1234567890")),
    "cookies": Behaviour(answer(200, GOOD, Set_Cookie="a=1; Path=/")),
    "no HTTP": Behaviour(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", then="close"),
}


class WireServer:
    """Answers as it is told, request by request; afterwards with a 200.

    :param tls: what it speaks TLS with.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.script: list[Behaviour] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self.tokens = 0
        self.new_tokens = False
        self.before: Callable[[Behaviour], object] = lambda _: None
        self._tls = tls
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), secured(connection, tls=self._tls) as opened:
            waiting = b""
            while True:
                request, waiting = self._read(opened, waiting)
                if request is None:
                    return
                if b"/token" in request.split(b"\r\n", 1)[0]:
                    self.tokens += 1
                    token = TOKEN.replace(b"1234567890", b"%010d" % self.tokens) if self.new_tokens else TOKEN
                    opened.sendall(answer(200, token))
                    continue
                self.requests.append(request)
                behaviour = self.script.pop(0) if self.script else BEHAVIOURS["200"]
                self.before(behaviour)
                opened.sendall(behaviour.sent)
                match behaviour.then:
                    case "close":
                        return
                    case "hang":
                        self._over.wait(30)
                        return
                    case "reset":
                        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        return

    def _read(self, connection: socket.socket, waiting: bytes) -> tuple[bytes | None, bytes]:
        while b"\r\n\r\n" not in waiting:
            if not (came := connection.recv(65536)):
                return None, b""
            waiting += came
        head, _, rest = waiting.partition(b"\r\n\r\n")
        found = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        length = int(found[0].split(b":")[1]) if found else 0
        while len(rest) < length:
            if not (came := connection.recv(65536)):
                return None, b""
            rest += came
        return head + b"\r\n\r\n" + rest[:length], rest[length:]

    def stop(self) -> None:
        self._over.set()
        stop_listening(self._listener)


@contextlib.contextmanager
def wire_server(*, tls: ssl.SSLContext | None = None) -> Iterator[WireServer]:
    server = WireServer(tls=tls)
    try:
        yield server
    finally:
        server.stop()


def make_certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Make a certificate for 127.0.0.1 that signs itself; give what a server speaks TLS with, and the bundle that trusts it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "wire")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    bundle, secret = folder / "wire.pem", folder / "wire.key"
    bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle, secret)
    return context, bundle


@contextlib.contextmanager
def secured(connection: socket.socket, *, tls: ssl.SSLContext | None) -> Iterator[socket.socket]:
    """Speak TLS over a connection, if it is to, and close it in the end.

    A socket that a thread leaves to Python would warn of it, which is an error in whichever test begins at that moment.
    """
    with connection:
        if tls is None:
            yield connection
            return
        with tls.wrap_socket(connection, server_side=True) as wrapped:
            yield wrapped


@contextlib.contextmanager
def raw_server(talk: Callable[[socket.socket], object], *, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve each connection by a function, which may go on for ever: it ends with the connection. Gives the URL."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def one(connection: socket.socket) -> None:
        # An attack ends where the other side hangs up, and one that is never cut off ends with the test.
        connection.settimeout(60)
        with contextlib.suppress(OSError), secured(connection, tls=tls) as opened:
            talk(opened)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=one, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop_listening(listener)


def stop_listening(listener: socket.socket) -> None:
    """Close a socket and end the thread that accepts connections at it, which closing alone leaves waiting for ever."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def read_request(connection: socket.socket) -> bytes:
    """Read a request, and give its head."""
    return read_whole_request(connection)[0]


def read_whole_request(connection: socket.socket) -> tuple[bytes, bytes]:
    """Read a request, and give its head and its body, or as much of that as comes."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (byte := connection.recv(1)):
            raise ConnectionResetError
        head += byte
    found = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length, body = int(found[0].split(b":")[1]) if found else 0, b""
    while len(body) < length and (came := connection.recv(length - len(body))):
        body += came
    return head, body


def trickle(connection: socket.socket, sent: bytes, *, seconds: float = 0.02) -> None:
    """Send a byte at a time, each long before anybody could call it silence."""
    for index in range(len(sent)):
        connection.sendall(sent[index : index + 1])
        time.sleep(seconds)
