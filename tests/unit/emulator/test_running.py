# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Starting and stopping, in a thread and as a command; the fixtures; what it may import."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import requests

import limio_limitrail.emulator as package
from limio_limitrail.emulator import EmulatorOptions, EmulatorServer

pytestmark = pytest.mark.exhaustive

SOURCE = Path(package.__file__).parent
ROOT = SOURCE.parents[1]


def _environment() -> dict[str, str]:
    # Options for this run of pytest are none for one that it starts.
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}


def test_start_stop_start():
    server = EmulatorServer()
    with pytest.raises(TypeError):
        EmulatorServer(prot=1)
    with server:
        url = server.url
        assert requests.get(f"{url}/api/x", timeout=120).status_code == 401
        with pytest.raises(RuntimeError):
            server.start()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/api/x", timeout=120)
    with server:
        assert server.url == url, "a server keeps its port"
        assert requests.get(f"{url}/api/x", timeout=120).status_code == 401


def test_two_at_once(limio_emulator_factory, connect):
    one, other = limio_emulator_factory(), limio_emulator_factory(seed=8)
    assert one.url != other.url
    ids = [[row["id"] for row in connect(server).walk("api/objects/limio/orders", limit=90)] for server in (one, other)]
    assert ids[0] == one.tenant.ids("orders")
    assert set(ids[0]).isdisjoint(ids[1])


def test_connection_forms(limio_emulator_factory):
    server = limio_emulator_factory(client_id="a b/c", client_secret="s:@%/é")
    value = json.loads(server.airflow_connection_json("limio", verify=False))
    assert value == {
        "conn_type": "limio",
        "host": server.url,
        "login": "a b/c",
        "password": "s:@%/é",
        "extra": {"verify": False},
    }
    assert "extra" not in json.loads(server.airflow_connection_json())
    parts = urlsplit(server.connection_uri("limio", verify=False))
    assert parts.scheme == "limio"
    assert unquote(parts.username or "") == "a b/c"
    assert unquote(parts.password or "") == "s:@%/é"
    assert unquote(parts.netloc.rpartition("@")[2]) == server.url
    assert server.host_port in server.url


def test_options_can_change_but_not_the_data(limio_emulator):
    limio_emulator.configure(max_limit=3)
    assert limio_emulator.options.max_limit == 3
    with pytest.raises(ValueError, match="seed"):
        limio_emulator.configure(seed=1)
    with pytest.raises(TypeError):
        limio_emulator.configure(nothing=1)
    with pytest.raises(ValueError, match="catalog_cursor"):
        EmulatorOptions(catalog_cursor="maybe")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command(number):
    command = [sys.executable, "-m", "limio_limitrail.emulator", "--port", "0", "--seed", "9", "--subscriptions", "300000",
               "--client-id", "me", "--client-secret", "mine"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment())
    try:
        line = process.stdout.readline()
        match = re.fullmatch(r"Limio emulator listening on (http://127\.0\.0\.1:\d+)\n", line)
        assert match, line
        url = match[1]
        form = {"grant_type": "client_credentials", "client_id": "me", "client_secret": "mine"}
        token = requests.post(f"{url}/oauth2/token", data=form, timeout=120).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        rows = requests.get(f"{url}/api/objects/limio/subscriptions?limit=1000", headers=headers, timeout=120).json()["items"]
        assert len(rows) == 1000
        truth = requests.get(f"{url}/_emulator/truth", timeout=120).json()
        assert (truth["seed"], truth["counts"]["subscriptions"], truth["counts"]["baskets"]) == (9, 300_000, 2000)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        process.kill()
        process.wait()


def test_command_on_a_taken_port(limio_emulator):
    command = [sys.executable, "-m", "limio_limitrail.emulator", "--port", limio_emulator.host_port.rpartition(":")[2]]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), timeout=300, check=False)
    assert done.returncode == 1
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_extra_is_named():
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from limio_limitrail.emulator import EmulatorServer\n"
        "EmulatorServer().start()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment(), check=False)
    assert "install airflow-provider-limio-limitrail[emulator]" in done.stderr


def test_fixtures_as_a_plugin(tmp_path):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["limio_limitrail.emulator.pytest_plugin"]\n')
    (tmp_path / "test_it.py").write_text(
        "import requests\n"
        "def test_one(limio_emulator):\n"
        "    assert requests.get(limio_emulator.url + '/api/x', timeout=120).status_code == 401\n"
        "def test_two(limio_emulator, limio_emulator_factory):\n"
        "    assert limio_emulator_factory(seed=3).url != limio_emulator.url\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), cwd=tmp_path, check=False)
    assert "2 passed" in done.stdout, done.stdout


def test_it_shares_no_code_with_what_it_tests():
    for path in SOURCE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = (
                    [node.module or ""]
                    if node.module != "limio_limitrail"
                    else [f"limio_limitrail.{one.name}" for one in node.names]
                )
            elif isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            else:
                continue
            for name in names:
                if name.startswith("limio_limitrail"):
                    assert name == "limio_limitrail.__version__" or name.startswith("limio_limitrail.emulator"), path
                assert not name.startswith("airflow"), path
