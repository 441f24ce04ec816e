# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The control answers to programs on this machine, and to no page in anybody's browser."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.emulator import Call, EmulatorServer
from limio_limitrail.emulator.control import AccessGuard

FAULT = b'{"kind":"status","status":500}'


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorServer]:
    with EmulatorServer(control_hosts=["emulator", "outside.example:9000"]) as server:
        yield server


@pytest.fixture(autouse=True)
def no_faults(emulator: EmulatorServer) -> Iterator[None]:
    yield
    emulator.faults.clear()


def ask(port: int, *lines: str, method: str = "POST", path: str = "/_emulator/faults", body: bytes = FAULT) -> tuple[int, str]:
    """Send a request as it is, and give status and body."""
    head = [f"{method} {path} HTTP/1.1", *lines, "Connection: close", f"Content-Length: {len(body)}", "", ""]
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        connection.sendall("\r\n".join(head).encode("latin-1") + body)
        came = b""
        while piece := connection.recv(65536):
            came += piece
    head_came, _, body_came = came.partition(b"\r\n\r\n")
    return int(head_came.split(b" ")[1]), body_came.decode()


JSON = "Content-Type: application/json"
OWN = [
    "127.0.0.1:{port}",
    "localhost:{port}",
    "LOCALHOST:{port}",
    "[::1]:{port}",
    "127.0.0.2:{port}",
    " 127.0.0.1:{port} ",
    "emulator:{port}",
    "Emulator:{port}",
    "outside.example:9000",
]
OTHERS = [
    "evil.example:{port}",
    "evil.example",
    "127.0.0.1",
    "localhost",
    "127.0.0.1:1",
    "127.0.0.1:{port}0",
    "127.0.0.1.evil.example:{port}",
    "localhost.evil.example:{port}",
    "127.0.0.1:{port}.evil.example",
    "127.0.0.1:{port}@evil.example",
    "evil.example@127.0.0.1:{port}",
    "127.1:{port}",
    "2130706433:{port}",
    "0x7f000001:{port}",
    "0177.0.0.1:{port}",
    "0.0.0.0:{port}",
    "[::]:{port}",
    "::1:{port}",
    "[127.0.0.1]:{port}",
    "192.168.0.1:{port}",
    "localhost.:{port}",
    "127.0.0.1 evil:{port}",
    "127.0.0.1:{port},evil",
    "",
    ":{port}",
    "emulator",
    "emulator:9000",
    "outside.example",
    "outside.example:{port}",
    "loc\xe4lhost:{port}",
    "127.0.0.1:+{port}",
    "127.0.0.1:0{port}",
]


@pytest.mark.parametrize("host", OWN)
def test_its_own_names_are_answered(emulator: EmulatorServer, host: str) -> None:
    assert ask(emulator.port, f"Host: {host.format(port=emulator.port)}", JSON)[0] == 201


@pytest.mark.parametrize("host", OTHERS)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/_emulator/faults"), ("GET", "/_emulator/tokens"), ("DELETE", "/_emulator/journal")]
)
def test_no_other_name_is(emulator: EmulatorServer, host: str, method: str, path: str) -> None:
    before = len(emulator.faults.rules)
    status, said = ask(emulator.port, f"Host: {host.format(port=emulator.port)}", JSON, method=method, path=path)
    assert status in {400, 403}  # an HTTP library of its own may refuse it first
    assert status == 400 or "127.0.0.1, [::1] and localhost" in json.loads(said)["error"]
    assert "token" not in said
    assert len(emulator.faults.rules) == before


@pytest.mark.parametrize(
    "lines", [[], ["Host: 127.0.0.1:{port}", "Host: evil.example"], ["Host: evil.example", "Host: 127.0.0.1:{port}"]]
)
def test_one_name_and_no_more(emulator: EmulatorServer, lines: list[str]) -> None:
    assert ask(emulator.port, *(line.format(port=emulator.port) for line in lines), JSON)[0] in {400, 403}


CROSS = [
    "Origin: http://evil.example",
    "Origin: null",
    "Origin: https://127.0.0.1:{port}",
    "Origin: http://127.0.0.1",
    "Origin: http://127.0.0.1:1",
    "Origin: http://localhost:{port}",
    "Origin: ",
    "Origin: http://127.0.0.1:{port}.evil.example",
    "Origin: http://127.0.0.1:{port}/",
    "Origin: http://127.0.0.1:{port} http://evil.example",
    "Origin: file://",
    "Sec-Fetch-Site: cross-site",
    "Sec-Fetch-Site: same-site",
    "Sec-Fetch-Site: CROSS-SITE",
    "Sec-Fetch-Site: x",
]


@pytest.mark.parametrize("line", CROSS)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "GET"])
def test_no_page_of_another_origin_is_answered(emulator: EmulatorServer, line: str, method: str) -> None:
    before = len(emulator.faults.rules)
    line = line.format(port=emulator.port)
    status, said = ask(emulator.port, f"Host: 127.0.0.1:{emulator.port}", JSON, line, method=method)
    assert status == 403
    assert "pages of other origins" in json.loads(said)["error"]
    assert len(emulator.faults.rules) == before


@pytest.mark.parametrize("line", ["Origin: http://127.0.0.1:{port}", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none"])
def test_its_own_origin_is_answered(emulator: EmulatorServer, line: str) -> None:
    assert ask(emulator.port, f"Host: 127.0.0.1:{emulator.port}", JSON, line.format(port=emulator.port))[0] == 201


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "TEXT/PLAIN;charset=utf-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        " text/plain ",
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_no_form_is_taken(emulator: EmulatorServer, kind: str, method: str) -> None:
    before = len(emulator.faults.rules)
    status, said = ask(emulator.port, f"Host: 127.0.0.1:{emulator.port}", f"Content-Type: {kind}", method=method)
    assert status == 415
    assert "application/json" in json.loads(said)["error"]
    assert len(emulator.faults.rules) == before


@pytest.mark.parametrize(
    "path", ["counters/reset", "expire", "expire/tokens", "advance", "configure", "records/custom/things", "limitrail"]
)
def test_an_image_in_a_page_changes_nothing(emulator: EmulatorServer, path: str) -> None:
    status, said = ask(emulator.port, f"Host: 127.0.0.1:{emulator.port}", method="GET", path=f"/_emulator/{path}")
    assert status == 405
    assert "POST" in json.loads(said)["error"]


@pytest.mark.parametrize("path", ["/", "/_emulator", "/_emulator/"])
def test_its_page_says_what_it_is_and_is_not(emulator: EmulatorServer, path: str) -> None:
    emulator.counters.reset()
    status, page = ask(emulator.port, f"Host: 127.0.0.1:{emulator.port}", method="GET", path=path, body=b"")
    assert status == 200
    for said in (
        "for tests",
        "not Limio and not LimitRail",
        "not for an open network",
        "public documentation",
        "/_emulator/faults",
    ):
        assert said in " ".join(page.split())
    assert not any(secret in page for secret in (emulator.client_secret, emulator.api_key))
    assert emulator.counters.requests == 0


def test_the_apis_themselves_have_any_name(emulator: EmulatorServer) -> None:
    assert ask(emulator.port, "Host: emulator.test.svc:8765", method="GET", path="/api/offers", body=b"")[0] == 401


def test_it_listens_at_the_other_loopback_too() -> None:
    with EmulatorServer(host="::1") as emulator:
        assert emulator.url == f"http://[::1]:{emulator.port}"
        with socket.create_connection(("::1", emulator.port), timeout=120) as connection:
            connection.sendall(f"GET /_emulator/counters HTTP/1.1\r\nHost: [::1]:{emulator.port}\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 200")


@given(
    host=st.text(max_size=30)
    | st.builds("{}{}{}".format, st.text(max_size=4), st.sampled_from(["127.0.0.1", "localhost"]), st.text(max_size=6))
)
def test_no_host_but_its_own_is_ever_answered(host: str) -> None:
    refusal = AccessGuard().refuse(Call("POST", "/_emulator/faults", headers={"host": host}), port=8765)
    assert refusal is not None or host.strip().lower() in {"127.0.0.1:8765", "localhost:8765"}


def test_what_is_asked_from_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from limio_limitrail.emulator import __main__ as command_line

    made: list[tuple[str, ...]] = []

    class StoppedError(Exception):
        pass

    def make(*_: object, control_hosts: list[str], **__: object) -> Callable[..., object]:
        made.append(tuple(control_hosts))
        raise StoppedError

    monkeypatch.setattr(command_line, "EmulatorServer", make)
    monkeypatch.setattr(command_line.signal, "signal", lambda *_: None)
    with pytest.raises(StoppedError):
        command_line.main(["--host", "0.0.0.0", "--control-host", "emulator", "--control-host", "box:9000"])
    assert made == [("emulator", "box:9000")]
